"""Rows of the outbox that somebody has locked, or whose ids come again."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.health import watched
from support.messages import Inbox
from support.outbox import in_outbox, put, put_many, status, wait_until_empty, wait_until_refused
from support.patience import LIMIT
from support.queues import count, fanout, take
from support.sessions import Session, open_session
from support.stuck import suspended


def test_a_locked_row_stops_nobody(database: str, session: Session, inbox: Inbox) -> None:
    first = put(session, "locked")
    with open_session(database, autocommit=False) as other, watched(database) as (relay, health):
        # The relay may not have read it yet: it is delivered in any case, and cannot be deleted.
        other.execute("SELECT FROM amqp.outbox WHERE id = %s FOR UPDATE", [first])
        health(503)
        put_many(session, 1000)
        wait_for(lambda: in_outbox(session) in ([(first,)], []), LIMIT, "the rest to be delivered")
        other.rollback()
        wait_until_empty(session)
        health(200)
        assert relay.is_running()
    assert sorted(inbox.texts()) == sorted(["locked", *map(str, range(1, 1001))])


@pytest.mark.slow
@pytest.mark.parametrize("many", [1, 12_000])
def test_what_is_locked_is_sent_once_and_shown(
    database: str, session: Session, channel: BlockingChannel, many: int
) -> None:
    """More than one reading takes, too: what is behind is found all the same."""
    channel.queue_declare("queue", durable=True)
    channel.queue_bind("queue", "amq.topic", "#")
    put_many(session, many)
    with open_session(database, autocommit=False) as other:
        other.execute("UPDATE amqp.outbox SET last_error = 'mine'")
        with watched(database) as (relay, health):
            text = f"{many} delivered messages are locked by another session"
            wait_for(lambda: text in str(health(503)), LIMIT, "/health to say so")
            assert relay.metric('pg_amqp_trouble{broker_id="1"}') == 1
            wait_for(lambda: status(session)["trouble"] == text, LIMIT, "outbox_status()")
            # Ready, delayed and due, and with keys.
            put(session, "ready")
            put(session, "due", deliver_at="2020-01-01")
            put(session, "key 1", ordering_key="key")
            put(session, "key 2", ordering_key="key")
            wait_for(lambda: len(in_outbox(session)) == many, LIMIT, "the others to be delivered")
            assert health(503)["brokers"] == {"1": text}
            assert relay.events("database not usable") == []
            other.rollback()
            wait_until_empty(session)
            health(200)
            wait_for(lambda: status(session)["trouble"] is None, LIMIT, "outbox_status()")
    found = take(channel, "queue")
    assert len(found) == many + 4
    assert sorted(found) == sorted(
        [*map(str, range(1, many + 1)), "ready", "due", "key 1", "key 2"]
    )


def test_a_locked_row_that_is_refused_holds_back_its_key(
    database: str, session: Session, inbox: Inbox
) -> None:
    number = put(session, "key 1", exchange="no such exchange", ordering_key="key")
    put(session, "key 2", ordering_key="key")
    with open_session(database, autocommit=False) as other:
        other.execute("SELECT FROM amqp.outbox WHERE id = %s FOR UPDATE", [number])
        with watched(database) as (_, health):
            wait_for(lambda: "1 refused" in str(health(503)), LIMIT, "/health to say so")
            put(session, "other")
            wait_for(lambda: len(in_outbox(session)) == 2, LIMIT, "the other to be delivered")
            assert in_outbox(session, "attempts") == [(0,), (0,)]
            other.rollback()
            wait_until_refused(session, number)
            assert inbox.texts() == ["other"]


def test_ids_that_come_again_while_messages_are_under_way(
    database: str, session: Session, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    channel.queue_declare("queue", durable=True)
    channel.queue_bind("queue", "amq.topic", "#")
    session.execute("UPDATE amqp.broker SET port = %s", [proxy.port])
    with RelayProcess(database):
        put(session, "0")
        wait_until_empty(session)
        proxy.stall(Direction.TO_CLIENT)
        put_many(session, 100)
        wait_for(lambda: count(channel, "queue") == 101, LIMIT, "them to be under way")
        session.execute("TRUNCATE amqp.outbox RESTART IDENTITY")
        put_many(session, 100, first=101)
        proxy.pass_all()
        wait_until_empty(session)
    assert set(take(channel, "queue")) == {str(n) for n in range(201)}


@pytest.mark.slow
def test_ids_that_come_again_while_a_queue_is_stuck(
    database: str, session: Session, broker: VHost, channel: BlockingChannel, inbox: Inbox
) -> None:
    """What waits there is another message than the one with the same id."""
    fanout(channel, "orders", "mailer")
    with RelayProcess(database):
        with suspended(broker, "mailer"):
            number = put(session, "old", exchange="orders")
            wait_until_refused(session, number)
            session.execute("TRUNCATE amqp.outbox RESTART IDENTITY")
            assert put(session, "new") == number
            wait_until_empty(session)
            assert inbox.texts() == ["new"]
            assert put(session, "later", deliver_at="2090-01-01") == number + 1
        wait_for(lambda: count(channel, "mailer") == 1, LIMIT, "the old one to arrive")
        assert len(in_outbox(session)) == 1
