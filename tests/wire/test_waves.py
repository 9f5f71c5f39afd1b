"""Runs of messages with ordering keys, against a broker that is a few lines of Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.message import Envelope, Message
from pg_amqp_py.wire.pump import Patience, write
from pg_amqp_py.wire.waves import Entry, Run, Undelivered
from support.channel import FakeChannel, Judge


def entry(number: int, key: str | None = None, **properties: Any) -> Entry:
    """A message whose id is also its message_id and its body."""
    given: dict[str, Any] = {"exchange": "e", "routing_key": "k", "message_id": str(number)}
    return Entry(number, key, tuple(Envelope(**{**given, **properties})), str(number).encode())


def deliver(run: Run, broker: FakeChannel, waves: int | None = None) -> int:
    """Deliver the run, or as many waves of it; return how many there were."""
    count = 0
    with closing(run.batches(lambda _: None)) as batches:
        for batch in batches:
            write(batch, broker, Patience(60))
            count += 1
            if count == waves:
                break
    return count


def run_of(*entries: Entry) -> Run:
    return Run(entries, Encoder())


def keyed(*keys: str | None) -> Run:
    return run_of(*(entry(number, key) for number, key in enumerate(keys, 1)))


def at_bad(verdict: str) -> Judge:
    """Accept everything but what goes to the exchange "bad"."""
    return lambda message: verdict if message.envelope.exchange == "bad" else "ack"


def refused(run: Run) -> list[tuple[int, str]]:
    return [refusal[:2] for refusal in run.undelivered]


def test_messages_without_key_are_one_wave() -> None:
    run, broker = keyed(None, None, None), FakeChannel()
    assert deliver(run, broker) == 1
    assert run.delivered == broker.taken == [1, 2, 3]
    assert run.undelivered == []


def test_no_key_occurs_twice_in_a_wave() -> None:
    run, broker = keyed("a", "b", None, "a", None, "b", "b", "c"), FakeChannel()
    # a b - | a - b | b c
    assert deliver(run, broker) == 3
    assert run.delivered == broker.taken == list(range(1, 9))


def test_an_empty_run_has_no_waves() -> None:
    assert deliver(run_of(), FakeChannel()) == 0


def test_what_fails_holds_back_its_key_alone() -> None:
    for verdict, expected in (("nack", "busy"), ("refuse", "refused"), ("return", "refused")):
        run = run_of(
            entry(1, "a", exchange="bad", mandatory=True),
            entry(2, "a"),
            entry(3, "b"),
            entry(4, None),
            entry(5, "a"),
            entry(6, "b"),
        )
        broker = FakeChannel(at_bad(verdict))
        deliver(run, broker)
        assert refused(run) == [(1, expected)]
        assert run.delivered == broker.taken == [3, 4, 6]
        assert run.held == {"a"}


def test_what_was_held_back_before_stays() -> None:
    run, broker = keyed("a", "b", None, "b"), FakeChannel()
    run.held |= {"a"}
    deliver(run, broker)
    assert run.delivered == broker.taken == [2, 3, 4]
    assert run.undelivered == []
    run = keyed("a")
    run.held |= {"a"}
    deliver(run, broker)
    assert (run.delivered, run.undelivered) == ([], [])


def test_what_cannot_be_encoded_is_invalid() -> None:
    run = run_of(
        entry(1, "a", delivery_mode=7),
        entry(2, "a"),
        entry(3, headers="[]"),
        entry(4, timestamp=-1),
        entry(5, "b", exchange="é" * 128),
        entry(6),
    )
    assert [refusal.id for refusal in run.undelivered] == [1, 3, 4, 5]
    assert {refusal.verdict for refusal in run.undelivered} == {"invalid"}
    assert run.undelivered[0] == Undelivered(1, "invalid", "invalid value for delivery_mode: 7")
    broker = FakeChannel()
    deliver(run, broker)
    assert run.delivered == broker.taken == [6]
    assert run.held == {"a", "b"}


def test_a_returned_message_is_known_by_place_and_id() -> None:
    run = run_of(
        entry(1, mandatory=True),
        entry(2, mandatory=True, routing_key="nobody"),
        # With the id of the one that is handed back, and another place or no flag.
        entry(3, mandatory=True, message_id="2"),
        entry(4, mandatory=False, routing_key="nobody", message_id="2"),
        entry(5, mandatory=True, routing_key="nobody", message_id="5"),
    )
    broker = FakeChannel(
        lambda m: "return" if m.envelope.mandatory and m.envelope.routing_key == "nobody" else "ack"
    )
    deliver(run, broker)
    assert [refusal.id for refusal in run.undelivered] == [2, 5]
    assert run.undelivered[0].text == "NO_ROUTE"
    assert run.delivered == [1, 3, 4]


def test_when_it_is_cut_short_the_rest_is_neither_delivered_nor_refused() -> None:
    run, broker = keyed("a", "a", "b"), FakeChannel()
    deliver(run, broker, waves=1)
    assert (run.delivered, run.undelivered) == ([1], [])
    # What was not confirmed may have failed: nothing behind it may go in the next run either.
    lost = FakeChannel(lambda m: "lose" if m.body == b"2" else "ack")
    run = keyed("a", "b", "c", "b")
    batches = run.batches(lambda _: None)
    batch = next(batches)
    try:
        write(batch, lost, Patience(60))
    except ConnectionLostError:
        batches.close()
    assert run.delivered == [1]
    assert run.held == {"b", "c"}


def test_any_run_is_delivered_in_order_or_held_back() -> None:
    choose = random.Random(3)
    for _ in range(200):
        keys: Sequence[str | None] = [None, "a", "b", "c"]
        entries = [
            entry(number, choose.choice(keys), exchange=choose.choice(["e", "e", "e", "bad"]))
            for number in range(1, choose.randint(2, 30))
        ]
        verdicts = {
            number: choose.choice(["ack", "ack", "ack", "nack"])
            for number in range(1, len(entries) + 1)
        }

        def judge(message: Message, verdicts: dict[int, str] = verdicts) -> str:
            return "refuse" if message.envelope.exchange == "bad" else verdicts[int(message.body)]

        run, broker = run_of(*entries), FakeChannel(judge)
        deliver(run, broker)
        assert sorted(run.delivered) == sorted(broker.taken)
        failed = {refusal.id for refusal in run.undelivered}
        for key in ("a", "b", "c"):
            mine = [one.id for one in entries if one.ordering_key == key]
            first = next((at for at, one in enumerate(mine) if one in failed), len(mine))
            assert [one for one in broker.taken if one in mine] == mine[:first]
            assert failed.isdisjoint(mine[first + 1 :])
        free = {one.id for one in entries if one.ordering_key is None}
        assert free <= failed | set(run.delivered)
