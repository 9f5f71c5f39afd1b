"""What the broker says of messages after the wait for it was given up."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction
from support.calls import Call
from support.fix_servers import VHost
from support.patience import LIMIT
from support.queues import numbers_in
from support.sessions import Session, open_session
from support.stuck import stuck_fixtures, suspended

BATCH = "SELECT amqp.publish_outbox_batch(1, 5000)"
UNROUTABLE = "SELECT amqp.publish(%s, 'amq.direct', 'nowhere', 'x', mandatory => true)"

session, through = stuck_fixtures()


def unconfirmed(session: Session) -> int:
    number: int = session.value("SELECT unconfirmed FROM amqp.status()")
    return number


def test_an_unroutable_message_behind_many_to_a_stuck_queue(
    session: Session, broker: VHost, through: int
) -> None:
    with suspended(broker, "mailer"):
        with session.transaction():
            session.publish(through, "orders", range(3_000))
            session.run(UNROUTABLE, through)
        session.warnings()
    wait_for(lambda: session.run("SELECT 1") and unconfirmed(session) == 0, LIMIT, "the confirms")
    assert [w.message for w in session.warnings() if "unroutable" in w.message]
    assert session.value("SELECT returned FROM amqp.status()") == 1


def test_an_unroutable_message_of_the_outbox_is_not_delivered(
    session: Session, broker: VHost, through: int
) -> None:
    with suspended(broker, "mailer"):
        session.run(
            "SELECT amqp.publish_outbox(1, 'orders', 'key', n::text)"
            " FROM generate_series(1, 3000) AS n"
        )
        session.run("SELECT amqp.publish_outbox(1, 'amq.direct', 'x', 'x', mandatory => true)")
        session.run(BATCH)

    def settled() -> bool:
        session.run("UPDATE amqp.outbox SET next_attempt_at = now() WHERE exchange = 'orders'")
        session.run(BATCH)
        return not session.run("SELECT id FROM amqp.outbox WHERE exchange = 'orders'")

    wait_for(settled, LIMIT, "the confirms")
    rows = session.run("SELECT attempts > 0, last_error FROM amqp.outbox")
    assert rows == [(True, "NO_ROUTE (312)")]


@pytest.mark.parametrize("how", ["batch", "publish", "autonomous"])
def test_a_confirm_that_comes_with_the_answer_to_the_last_question(
    session: Session,
    proxy: CuttingProxy,
    through: int,
    channel: BlockingChannel,
    how: str,
) -> None:
    session.set(confirm_timeout="500ms")
    session.publish(through, "events", [0])
    session.run("SELECT amqp.publish_outbox(1, 'events', 'key', '1')")
    calls = {
        "batch": BATCH,
        "publish": "SELECT amqp.publish(1, 'events', 'key', '1')",
        "autonomous": "SELECT amqp.autonomous_publish(1, 'events', 'key', '1')",
    }
    written = proxy.bytes_to_server
    proxy.stall(Direction.TO_CLIENT)
    call = Call(lambda: session.run(calls[how]))
    # The message, and then, when its time is over, the question.
    wait_for(lambda: proxy.bytes_to_server > written, LIMIT, "the message")
    message = proxy.bytes_to_server
    wait_for(lambda: proxy.bytes_to_server > message, LIMIT, "the question")
    proxy.pass_all()
    call.result()
    assert session.warnings() == []
    assert numbers_in(channel, "events", 2) == [0, 1]
    assert numbers_in(channel, "events") == []


def test_topology_calls_do_not_cut_off_what_is_awaited(
    session: Session, broker: VHost, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    session.set(connect_timeout="500ms")
    with suspended(broker, "mailer"):
        session.publish(through, "orders", [1])
        for call in ("queue_purge(1, 'mailer')", "queue_declare(1, 'mailer', passive => true)"):
            assert session.error(f"SELECT amqp.{call}").sqlstate == "08006"
        session.publish(through, "events", [2])
        session.run("SELECT amqp.queue_declare(1, 'another')")
        assert numbers_in(channel, "ledger", 1) == [1]
        assert numbers_in(channel, "ledger") == []
    wait_for(lambda: session.run("SELECT 1") and unconfirmed(session) == 0, LIMIT, "the confirms")
    assert numbers_in(channel, "events", 1) == [2]


@pytest.mark.slow
def test_a_barrier_makes_no_copy(
    session: Session, broker: VHost, through: int, channel: BlockingChannel, database: str
) -> None:
    session.set(confirm_timeout="30s")
    with suspended(broker, "mailer"), open_session(database) as other:
        call = Call(lambda: session.publish(through, "orders", [1]))
        assert numbers_in(channel, "ledger", 1) == [1]
        other.run("CREATE DATABASE dropped")
        other.run("DROP DATABASE dropped")
        call.result()
        session.run("SELECT 1")
        assert unconfirmed(session) == 1
        assert numbers_in(channel, "ledger") == []


def test_what_waits_is_bounded_also_behind_others(
    session: Session, broker: VHost, through: int
) -> None:
    with suspended(broker, "mailer"):
        session.publish(through, "orders", range(200))
        session.run("BEGIN")
        session.publish(through, "events", [1])
        error = session.error("SELECT amqp.publish(%s, 'orders', 'key', 'x')", through)
        assert error.sqlstate == "53000"
        session.run("ROLLBACK")


def test_autonomous_publish_leaves_nothing_behind(
    session: Session, broker: VHost, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    session.publish(through, "events", [0])
    start = proxy.bytes_to_server
    session.publish(through, "events", [1])
    usual = proxy.bytes_to_server - start
    with suspended(broker, "mailer"):
        session.error("SELECT amqp.autonomous_publish(%s, 'orders', 'key', '2')", through)
    numbers_in(channel, "mailer", 1)

    def as_usual() -> bool:
        before = proxy.bytes_to_server
        session.publish(through, "events", [1])
        return proxy.bytes_to_server - before == usual

    wait_for(as_usual, LIMIT, "nothing to be asked any more")


def test_headers_as_deep_as_they_may_be_wedge_nothing(
    session: Session, through: int, channel: BlockingChannel
) -> None:
    deepest = '{"a": ' * 199 + "{}" + "}" * 199
    call = (
        "SELECT amqp.publish(%s, 'events', 'key', '{}', headers => %s::jsonb, user_id => 'another')"
    )
    assert session.error(call, through, f'{{"a": {deepest}}}').sqlstate == "54000"
    session.run(call, through, deepest)
    (warning,) = session.warnings()
    assert "refused by broker" in warning.message
    session.publish(through, "events", [1])
    assert numbers_in(channel, "events", 1) == [1]
    assert session.warnings() == []
