"""amqp.consumer.batch_timeout: waiting for a batch to become full."""

from __future__ import annotations

import pytest

from servers.processes import wait_for
from servers.relay import ConsumeProcess
from support.consumers import Desk
from support.patience import LIMIT


def test_a_batch_is_stored_when_it_is_full(database: str, consumers: Desk) -> None:
    consumer = consumers(batch_size=10, batch_timeout="1 minute")
    with ConsumeProcess(database):
        for end in range(7, 29, 7):
            consumer.publish(*map(str, range(end - 7, end)))
        consumer.wait_for_stored(20)
    transactions = "SELECT count(DISTINCT stored_at) FROM amqp.inbox WHERE id <= 20"
    assert consumer.session.value(transactions) == 2


def test_what_waits_is_told_and_stored_at_the_end(database: str, consumers: Desk) -> None:
    consumer = consumers(batch_timeout="1 minute")
    with ConsumeProcess(database) as daemon:
        consumer.publish("a", "b")
        consumer.wait_until("both to wait", lambda status: status["unacked"] == 2)
        assert daemon.terminate() == 0
    assert consumer.inbox() == ["a", "b"]
    assert consumer.ready() == 0


def test_a_shorter_one_counts_for_what_waits(database: str, consumers: Desk) -> None:
    consumer = consumers(batch_timeout="1 minute")
    with ConsumeProcess(database):
        consumer.publish("a")
        consumer.wait_until("it to wait", lambda status: status["unacked"] == 1)
        consumer.change(batch_timeout="0")
        consumer.wait_for_stored(1)


@pytest.mark.slow
def test_the_session_lives_longer_than_a_batch_waits(database: str, consumers: Desk) -> None:
    consumer = consumers(batch_timeout="8 s")
    with ConsumeProcess(database) as daemon:
        consumer.publish("a")
        wait_for(lambda: consumer.inbox() == ["a"], LIMIT, "the message")
        assert len(daemon.events("working the consumer")) == 1
        assert daemon.events("database not usable") == []
