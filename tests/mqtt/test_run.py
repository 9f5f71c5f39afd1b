"""What may be published next, and what became of each: without a broker."""

from __future__ import annotations

from pg_amqp_daemon.relay.mqtt_run import MqttRun
from pg_amqp_daemon.relay.retained_message import RetainedMessage


def message(number: int, topic: str) -> RetainedMessage:
    key = topic.replace("/", ".")
    return RetainedMessage(number, True, key, None, None, None, None, f"id-{number}", b"x")


def run_of(*topics: str) -> MqttRun:
    return MqttRun([message(number, topic) for number, topic in enumerate(topics, 1)])


def write(run: MqttRun, *suspects: int) -> list[int]:
    """Write what may be; the ids, which are the numbers as well."""
    known = {(number, f"id-{number}") for number in suspects}
    written = []
    while (found := run.next(known)) is not None:
        run.wrote(found.id, found)
        written.append(found.id)
    return written


def test_many_topics_go_together_as_far_as_the_window_is_open() -> None:
    run = run_of(*[f"t/{number}" for number in range(80)])
    assert write(run) == [*range(1, 51)]
    run.answered(1, None, busy=False)
    run.answered(50, None, busy=False)
    assert write(run) == [51, 52]
    assert run.delivered == [1, 50]


def test_two_of_one_topic_are_never_under_way_together() -> None:
    run = run_of("a", "b", "a", "c")
    assert write(run) == [1, 2]
    assert run.left(stopped=False)
    run.answered(1, None, busy=False)
    assert write(run) == [3, 4]


def test_what_is_behind_a_refused_one_of_its_topic_is_left() -> None:
    run = run_of("a", "b", "a", "c", "a")
    write(run)
    run.answered(1, "no", busy=False)
    assert write(run) == [4]
    for number in (2, 4):
        run.answered(number, None, busy=False)
    assert not run.left(stopped=False) or write(run) == []
    assert not run.left(stopped=False)
    assert run.delivered == [2, 4]
    assert [tuple(one) for one in run.undelivered] == [(1, "refused", "no")]


def test_what_is_busy_is_put_off() -> None:
    run = run_of("a", "b")
    write(run)
    run.answered(1, "full", busy=True)
    run.give_up()
    assert [one.verdict for one in run.undelivered] == ["busy", "busy"]
    assert not run.left(stopped=False)


def test_a_suspect_goes_alone() -> None:
    run = run_of("a", "b", "c")
    assert write(run, 2) == [1]
    run.answered(1, None, busy=False)
    assert write(run, 2) == [2]
    run.answered(2, None, busy=False)
    assert write(run) == [3]


def test_what_was_never_written_may_be_invalid() -> None:
    run = run_of("a", "b")
    first = run.next(())
    assert first is not None
    run.refuse(first, "invalid", "too large")
    assert write(run) == [2]
    assert [one.verdict for one in run.undelivered] == ["invalid"]


def test_when_stopped_only_what_is_under_way_is_left() -> None:
    run = run_of("a", "a")
    write(run)
    assert run.left(stopped=True)
    run.answered(1, None, busy=False)
    assert not run.left(stopped=True)
    assert run.left(stopped=False)


def test_an_answer_to_what_is_not_known_says_nothing() -> None:
    run = run_of("a")
    write(run)
    run.answered(7, None, busy=False)
    assert run.delivered == []
