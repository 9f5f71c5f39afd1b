"""What once stopped or starved a broker's outbox, and dead letters that cannot come back."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import errors

from servers.management import Management
from servers.processes import wait_for
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.messages import Inbox
from support.outbox import dead, in_outbox, put, wait_until_empty, wait_until_refused
from support.patience import LIMIT
from support.queues import fanout, take
from support.sessions import Session, open_session
from support.stuck import suspended


@pytest.mark.slow
def test_many_with_keys_that_come_due_at_once_stop_nobody(
    database: str, session: Session, inbox: Inbox
) -> None:
    session.execute(
        """INSERT INTO amqp.outbox (broker_id, exchange, routing_key, ordering_key, next_attempt_at)
           SELECT 1, '', 'nowhere', 'key ' || n, now() FROM generate_series(1, 100000) AS n"""
    )
    with RelayProcess(database) as relay:
        relay.wait_for_event("working the outbox")
        for number in range(5):
            put(session, f"other {number}")
        found: list[str] = []

        def all_others() -> bool:
            found.extend(inbox.texts())
            return len(found) == 5

        wait_for(all_others, LIMIT, "the others")
        wait_until_empty(session)
        assert relay.events("database not usable") == []


@pytest.mark.slow
def test_a_lock_on_what_was_put_off_stops_nobody(
    database: str, session: Session, broker: VHost, channel: BlockingChannel, inbox: Inbox
) -> None:
    fanout(channel, "orders", "mailer")
    with RelayProcess(database) as relay, open_session(database, autocommit=False) as other:
        with suspended(broker, "mailer"):
            first = put(session, "first", exchange="orders", routing_key="")
            wait_until_refused(session, first)
            second = put(session, "second", exchange="orders", routing_key="")
            wait_until_refused(session, second)
            session.execute(
                "UPDATE amqp.outbox SET next_attempt_at = now() + interval '5 minutes'"
                " WHERE id = %s",
                [second],
            )
            other.execute("SELECT FROM amqp.outbox WHERE id = %s FOR UPDATE", [second])
        wait_for(lambda: in_outbox(session) == [(second,)], LIMIT, "the first to be confirmed")
        put(session, "another")
        wait_for(lambda: in_outbox(session) == [(second,)], LIMIT, "the other to go out")
        assert inbox.texts() == ["another"]
        assert relay.events("database not usable") == []
        other.rollback()
        session.execute("UPDATE amqp.outbox SET next_attempt_at = now()")
        wait_until_empty(session)
        assert take(channel, "mailer") == ["first", "second"]


@pytest.mark.slow
def test_a_broker_that_is_moved_while_a_queue_is_stuck(
    database: str,
    session: Session,
    broker: VHost,
    channel: BlockingChannel,
    management: Management,
) -> None:
    fanout(channel, "orders", "mailer")
    management.create_vhost("moved")
    try:
        with open_session(database, VHost(broker.rabbitmq, "moved")) as _:
            session.execute("DELETE FROM amqp.broker WHERE vhost = 'moved'")
        with RelayProcess(database), suspended(broker, "mailer"):
            number = put(session, "order", exchange="orders", routing_key="")
            wait_until_refused(session, number)
            put(session, "new", exchange="orders", routing_key="")
            management.request(
                "PUT", "exchanges", "moved", "orders", body={"type": "fanout", "durable": True}
            )
            session.execute("UPDATE amqp.broker SET vhost = 'moved'")
            wait_until_empty(session)
    finally:
        management.delete_vhost("moved")


@pytest.mark.slow
def test_what_is_put_there_again_is_sent_again(
    database: str, session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    fanout(channel, "orders", "mailer")
    with RelayProcess(database):
        with suspended(broker, "mailer"):
            number = put(session, "order", exchange="orders", routing_key="", message_id="m")
            wait_until_refused(session, number)
        wait_until_empty(session)
        assert take(channel, "mailer") == ["order"]
        session.execute(
            """INSERT INTO amqp.outbox (id, broker_id, exchange, routing_key, body, message_id)
               OVERRIDING SYSTEM VALUE VALUES (%s, 1, 'orders', '', 'order', 'm')""",
            [number],
        )

        def gone() -> bool:
            session.execute("UPDATE amqp.outbox SET next_attempt_at = now() WHERE attempts > 0")
            return in_outbox(session) == []

        wait_for(gone, LIMIT, "it to be sent")
        assert take(channel, "mailer") == ["order"]


def test_ordering_keys_are_bounded(session: Session) -> None:
    put(session, ordering_key="é" * 500)
    with pytest.raises(errors.StringDataRightTruncation, match="ordering_key is too long"):
        put(session, ordering_key="é" * 501)


def test_a_dead_letter_that_can_never_be_sent_keeps_no_other_from_coming_back(
    session: Session,
) -> None:
    ids = [put(session, number) for number in range(3)]
    session.execute(
        """WITH gone AS (DELETE FROM amqp.outbox RETURNING id, broker_id, exchange, routing_key,
                             body, message_id, created_at, attempts)
           INSERT INTO amqp.outbox_dead (id, broker_id, exchange, routing_key, body,
                                         message_id, created_at, attempts, priority)
           SELECT id, broker_id, exchange, routing_key, body, message_id, created_at, attempts,
                  CASE WHEN id = %s THEN 300 END
           FROM gone""",
        [ids[1]],
    )
    assert session.execute("SELECT amqp.retry_dead_letters()").fetchone() == (2,)
    assert in_outbox(session) == [(ids[0],), (ids[2],)]
    assert dead(session, "id, last_error") == [(ids[1], "invalid value for priority: 300")]


def test_no_compaction_beside_a_publication_without_truncate(session: Session) -> None:
    lock = "SELECT amqp_inner.outbox_lock_to_compact()"
    session.execute(
        "ALTER TABLE amqp.outbox ALTER body SET STORAGE EXTERNAL;"
        "INSERT INTO amqp.outbox (broker_id, body)"
        " SELECT 1, decode(repeat('00', 1000000), 'hex') FROM generate_series(1, 80);"
        "DELETE FROM amqp.outbox"
    )
    assert session.execute(lock).fetchone() == (True,)
    session.execute("CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert, update, delete')")
    with pytest.raises(errors.ObjectNotInPrerequisiteState) as raised:
        session.execute(lock)
    assert "publication" in str(raised.value.diag.message_detail)
    session.execute("ALTER PUBLICATION p SET (publish = 'insert, truncate')")
    assert session.execute(lock).fetchone() == (True,)
