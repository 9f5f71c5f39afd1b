"""What became of messages: counted, and owed again where it could not be told."""

from __future__ import annotations

import json

from pg_amqp_daemon.listen.gaps import Gap
from pg_amqp_daemon.listen.listener import Listener, Message, read_listeners
from pg_amqp_daemon.listen.metrics import ListenMetrics
from pg_amqp_daemon.listen.tally import Tally
from pg_amqp_daemon.runtime.metrics import Metrics
from pg_amqp_py.wire.fields import FIELDS


def listener(number: int = 1) -> Listener:
    """A row as amqp_inner.listener_look() tells it."""
    row = {
        **dict.fromkeys(FIELDS),
        **{"exchange": "e", "routing_key": "c", "mandatory": False, "headers": {}},
        **{"listener_id": number, "channel": "c", "broker_id": 1, "on_failure": "outbox"},
        "row": {},
    }
    return read_listeners(json.dumps([row]), may_store=True)[number]


def message(tally: Tally, number: int = 1, gap: Gap | None = None) -> Message:
    """One that was received just now."""
    return Message(listener(number), b"", "id", 1, tally.account.epoch, gap)


def counts(tally: Tally) -> dict[int, dict[str, int]]:
    """What was not reported yet."""
    return {number: dict(report.counts) for number, report in tally.take().items()}


def make() -> Tally:
    """One that listens since a moment."""
    tally = Tally(ListenMetrics(Metrics()))
    tally.account.begin("a")
    return tally


def test_each_message_is_counted_once_by_its_row() -> None:
    tally = make()
    one, other, third = message(tally), message(tally, 2), message(tally)
    tally.receive([one, other, third])
    tally.publish([one])
    tally.store([third])
    tally.drop([other], "why")
    assert counts(tally) == {
        1: {"received": 2, "published": 1, "stored": 1},
        2: {"received": 1, "dropped": 1},
    }
    assert tally.account.open == 0


def test_what_is_dropped_is_a_gap() -> None:
    tally = make()
    tally.account.look("b")
    lost = message(tally)
    tally.receive([lost])
    tally.account.look("c")
    tally.account.look("d")
    tally.drop([lost], "why")
    assert tally.gaps.take(1, "z") == [Gap(1, "dropped", "a", "z")]
    ((_, report),) = tally.take().items()
    assert report.texts["last_error"] == "why"


def test_a_gap_that_could_not_be_told_is_owed_again() -> None:
    tally = make()
    told = message(tally, gap=Gap(1, "postgres", "a", "b"))
    tally.receive([told])
    tally.drop([told], "why")
    assert tally.gaps.take(1, "c") == [Gap(1, "postgres", "a", "c")]
    assert counts(tally) == {1: {}}
    told = message(tally, gap=Gap(1, "postgres", "a", "c"))
    tally.receive([told])
    tally.publish([told])
    assert counts(tally) == {1: {"gaps": 1}}


def test_what_could_not_be_reported_is_reported_with_what_came_later() -> None:
    tally = make()
    tally.receive([message(tally)])
    tally.begin(1, "since")
    failed = tally.take()
    tally.receive([message(tally), message(tally)])
    tally.begin(1, "later")
    tally.put_back(failed)
    ((_, report),) = tally.take().items()
    assert report.counts == {"received": 3}
    assert report.texts == {"since": "later"}
