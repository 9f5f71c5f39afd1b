"""A broker that restarts, closes connections, or runs short of memory."""

from __future__ import annotations

import pytest
from psycopg import errors

from servers.processes import wait_for
from servers.rabbitmq import RabbitMQ
from support.calls import Call
from support.failures import failure_fixtures, warning
from support.fix_servers import VHost
from support.patience import LIMIT
from support.queues import declare, numbers_in, open_channel
from support.sessions import Session, open_session

session, through, direct = failure_fixtures()


# ---- Real restarts ----


@pytest.mark.slow
def test_broker_restarts(database: str, rabbitmq: RabbitMQ, broker: VHost) -> None:
    with open_channel(broker.url()) as channel:
        declare(channel)
    rabbitmq.write_down()
    with (
        open_session(database) as idle,
        open_session(database) as patient,
        open_session(database) as hasty,
    ):
        broker_id = idle.add_broker(broker.url())
        for session in (idle, patient, hasty):
            session.run(
                "SELECT amqp.publish(%s, 'events', 'key', '0', delivery_mode => 2)", broker_id
            )
        patient.set(confirm_timeout="60s")
        hasty.set(confirm_timeout="200ms")
        for session, number in (patient, "1"), (hasty, "2"):
            session.run("BEGIN")
            session.run(
                "SELECT amqp.publish(%s, 'events', 'key', %s, delivery_mode => 2)",
                broker_id,
                number,
            )
        rabbitmq.kill()
        committing = Call(lambda: patient.run("COMMIT"))
        try:
            hasty.run("COMMIT")
        finally:
            rabbitmq.start()
        # Killed between publish() and commit: retried for as long as confirm_timeout says.
        committing.result()
        assert patient.warnings() == []
        (lost,) = hasty.warnings()
        assert lost.message == f"amqp: 1 message not confirmed by broker {broker_id}"
        assert '"events" (1)' in lost.detail
        # Restarted between two transactions: nobody notices.
        idle.run("SELECT amqp.publish(%s, 'events', 'key', '3', delivery_mode => 2)", broker_id)
        assert idle.warnings() == []
    with open_channel(broker.url()) as channel:
        assert numbers_in(channel, "events", 5) == [0, 0, 0, 1, 3]


def test_connection_closed_by_an_administrator(
    session: Session, rabbitmq: RabbitMQ, broker: VHost, direct: int
) -> None:
    with open_channel(broker.url()) as channel:
        declare(channel)
    session.publish(direct, "events", [1])

    def close_all() -> None:
        rabbitmq.rabbitmqctl("close_all_connections", "--vhost", broker.vhost, "maintenance")

    close_all()
    session.publish(direct, "events", [2])
    with session.transaction():
        session.publish(direct, "events", [3])
        close_all()
    assert session.warnings() == []
    with open_channel(broker.url()) as channel:
        assert numbers_in(channel, "events", 3) == [1, 2, 3]


# ---- A broker that is short of memory ----


def test_memory_alarm(database: str, rabbitmq: RabbitMQ, broker: VHost) -> None:
    with open_channel(broker.url()) as channel:
        declare(channel)
    with open_session(database) as session, open_session(database) as patient:
        broker_id = session.add_broker(broker.url())
        session.set(confirm_timeout="300ms")
        patient.set(confirm_timeout="60s")
        session.publish(broker_id, "events", [1])
        patient.publish(broker_id, "events", [2])
        for one in (session, patient):
            one.run("BEGIN")
            one.publish(broker_id, "events", [3])
        with rabbitmq.short_of_memory():
            committing = Call(lambda: patient.run("COMMIT"))
            # The commit is bounded, and the reason is the broker's.
            session.run("COMMIT")
            found = warning(session)
            assert found.message == f"amqp: 1 message not confirmed by broker {broker_id}"
            assert "block" in found.detail
            # From now on the session knows.
            error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
            assert error.sqlstate == "53000"
            assert f"broker {broker_id} is not accepting messages" in error.message
            assert "memory" in error.detail
            session.set(on_failure="warn")
            assert not session.value("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
            assert warning(session).sqlstate == "53000"
            session.set(on_failure="error")
        # Whoever was willing to wait lost nothing.
        committing.result()
        assert patient.warnings() == []

        def taken() -> bool:
            try:
                session.publish(broker_id, "events", [4])
            except errors.InsufficientResources:
                return False
            return True

        wait_for(taken, LIMIT, "the broker to take messages again", interval=0.1)
        assert session.warnings() == []
    with open_channel(broker.url()) as channel:
        received = numbers_in(channel, "events", 4)
        assert {1, 2, 4} <= set(received)
        assert received.count(3) in (1, 2), "one of them was given up"
