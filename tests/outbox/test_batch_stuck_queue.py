"""publish_outbox_batch() and a queue that does not confirm: one copy, and nobody else waits."""

from __future__ import annotations

from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.proxy import CuttingProxy
from support.fix_servers import VHost
from support.patience import LIMIT
from support.queues import numbers_in
from support.sessions import Session
from support.stuck import stuck_fixtures, suspended

BATCH = "SELECT amqp.publish_outbox_batch(1)"
PUT = "SELECT amqp.publish_outbox(1, %s, 'key', %s)"


session, through = stuck_fixtures()


def hurry(session: Session) -> None:
    session.run("UPDATE amqp.outbox SET next_attempt_at = now() WHERE attempts > 0")


def test_each_call_makes_no_copy(
    session: Session, broker: VHost, through: int, channel: BlockingChannel
) -> None:
    with suspended(broker, "mailer"):
        session.run(PUT, "orders", "1")
        session.run(PUT, "events", "2")
        assert session.value(BATCH) == 1
        (warning,) = session.warnings()
        assert "a queue has not confirmed" in warning.detail
        assert numbers_in(channel, "events", 1) == [2]
        for number in range(3, 8):
            hurry(session)
            session.run(PUT, "events", str(number))
            # Put off like the first one, without a wait: it would meet the same queue.
            session.run(PUT, "orders", str(100 + number))
            assert session.value(BATCH) == 1
            assert session.warnings() == []
            assert numbers_in(channel, "events", 1) == [number]
        assert numbers_in(channel, "ledger", 1) == [1]
        rows = session.run("SELECT attempts > 0, last_error FROM amqp.outbox ORDER BY id")
        assert rows == [(True, 'a queue has not confirmed messages to exchange "orders"')] * 6

    def all_gone() -> bool:
        hurry(session)
        session.run(BATCH)
        return not session.run("SELECT id FROM amqp.outbox")

    wait_for(all_gone, LIMIT, "the confirms")
    assert sorted(numbers_in(channel, "mailer", 6)) == [1, 103, 104, 105, 106, 107]
    assert sorted(numbers_in(channel, "ledger", 5)) == [103, 104, 105, 106, 107]
    assert session.run("SELECT * FROM amqp.dead_letters") == []


def test_it_is_written_again_when_the_connection_breaks(
    session: Session, broker: VHost, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    with suspended(broker, "mailer"):
        session.run(PUT, "orders", "1")
        assert session.value(BATCH) == 0
        proxy.reset()
        hurry(session)
        assert session.value(BATCH) == 0
        assert numbers_in(channel, "ledger", 2) == [1, 1]


def test_an_ordering_key_is_held_back(
    session: Session, broker: VHost, through: int, channel: BlockingChannel
) -> None:
    put = "SELECT amqp.publish_outbox(1, %s, 'key', %s, ordering_key => 'k')"
    with suspended(broker, "mailer"):
        session.run(put, "orders", "1")
        session.run(put, "events", "2")
        assert session.value(BATCH) == 0
        assert session.value(BATCH) == 0
        assert numbers_in(channel, "ledger", 1) == [1]
        assert numbers_in(channel, "events") == []
    hurry(session)
    wait_for(
        lambda: session.run(BATCH) and session.value("SELECT count(*) FROM amqp.outbox") == 0,
        LIMIT,
        "the confirms",
    )
    assert numbers_in(channel, "events", 1) == [2]
    assert numbers_in(channel, "mailer", 1) == [1]
