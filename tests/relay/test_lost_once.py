"""What once lost a message of the outbox, sent it twice, or stopped everything behind it."""

from __future__ import annotations

import json
import urllib.request
from urllib.error import HTTPError

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.postgres import PostgreSQL
from servers.processes import free_port, wait_for
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.messages import Inbox
from support.outbox import (
    dead,
    in_outbox,
    put,
    put_many,
    status,
    wait_until_empty,
    wait_until_refused,
    worker_of,
)
from support.patience import LIMIT
from support.sessions import Session, open_session

# 12 kB as jsonb, a hundred megabytes and more as text.
BOMB = "('{\"a\": [1e99999' || repeat(', 1e99999', 9000) || ']}')::jsonb"


def test_what_a_queue_rejects_is_not_taken_for_delivered_when_the_channel_is_closed(
    database: str, session: Session, channel: BlockingChannel
) -> None:
    """The confirms that a channel still owes are lost when the broker closes it."""
    full = {"x-max-length": 5, "x-overflow": "reject-publish"}
    channel.queue_declare("full", arguments=full)
    with session.transaction():
        for number in range(300):
            put(session, number, exchange="", routing_key="full")
        # A refusal that only the writing of the message brings about.
        put(session, "forged", user_id="somebody-else")
    with RelayProcess(database):
        wait_until_refused(session, 301)
        wait_for(
            lambda: not in_outbox(session, where="attempts = 0"), LIMIT, "every message to be tried"
        )
    (kept,) = session.execute("SELECT count(*) FROM amqp.outbox WHERE id <= 300").fetchone() or ()
    assert kept + channel.queue_declare("full", passive=True).method.message_count >= 300


@pytest.mark.parametrize("how", ["relay", "batch"])
def test_a_missing_exchange_makes_no_other_message_arrive_twice(
    database: str, session: Session, inbox: Inbox, how: str
) -> None:
    session.execute("SET amqp.on_failure = warn")
    with session.transaction():
        for number in range(500):
            put(session, number)
        put(session, "bad", exchange="amq.default")
        put(session, "default", exchange="", routing_key=inbox.queue)
    if how == "relay":
        with RelayProcess(database):
            wait_until_refused(session, 501)
    else:
        session.execute("SELECT amqp.publish_outbox_batch(1, 1000)")
    assert [number for (number,) in in_outbox(session)] == [501]
    assert sorted(inbox.texts()) == sorted([*map(str, range(500)), "default"])


@pytest.mark.slow
def test_headers_that_explode_as_text(database: str, session: Session, inbox: Inbox) -> None:
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="headers are too large"):
        session.execute(
            f"SELECT amqp.publish_outbox(1, 'amq.topic', 'k', 'x', headers => {BOMB})".encode()
        )
    # Nobody can insert that any more.
    session.execute("ALTER TABLE amqp.outbox DROP CONSTRAINT outbox_check")
    # Twice what PostgreSQL can hand over.
    session.execute(
        f"""INSERT INTO amqp.outbox (broker_id, headers)
            SELECT 1, jsonb_build_object('a', {BOMB}, 'b', {BOMB}->'a')""".encode()
    )
    put(session, "innocent")
    with RelayProcess(database):
        wait_until_empty(session)
    assert inbox.texts() == ["innocent"]
    assert len(dead(session)) == 1


def test_an_id_that_comes_again(database: str, session: Session) -> None:
    # Nobody can insert that any more.
    session.execute("ALTER TABLE amqp.outbox DROP CONSTRAINT outbox_check")
    for _ in range(2):
        session.execute("TRUNCATE amqp.outbox RESTART IDENTITY")
        session.execute("INSERT INTO amqp.outbox (broker_id, delivery_mode) VALUES (1, 77)")
        with RelayProcess(database):
            wait_until_empty(session)
    assert dead(session) == [(1,), (1,)]


@pytest.mark.parametrize(
    "setting", ["keep_delivered = 'for ever and a day'", "max_attempts = 'many'"]
)
def test_a_setting_that_makes_no_sense_stops_the_relay_before_it_delivers(
    database: str, session: Session, inbox: Inbox, setting: str
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    session.execute(f"ALTER DATABASE {name} SET amqp.{setting}".encode())
    put(session, "once")
    with RelayProcess(database) as relay:
        relay.wait_for_event("database not usable")
        assert inbox.texts() == []
        session.execute(f"ALTER DATABASE {name} RESET amqp.{setting.split()[0]}".encode())
        wait_until_empty(session)
    assert inbox.texts() == ["once"]


def test_a_relay_on_a_standby_delivers_nothing(broker: VHost, channel: BlockingChannel) -> None:
    inbox = Inbox(channel)
    with PostgreSQL() as primary:
        with open_session(primary.dsn()) as session:
            session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
            session.execute("SELECT amqp.add_broker(%s)", [broker.url()])
            put(session, "message")
        with PostgreSQL(standby_of=primary) as standby, RelayProcess(standby.dsn()) as relay:
            relay.wait_for_event("database not usable")
            tried = """SELECT count(*) FROM pg_stat_activity AS a
                       WHERE a.application_name ^@ 'pg-amqp relay ' AND a.backend_start > %s"""
            with open_session(standby.dsn()) as session:
                # It goes on trying.
                begun = session.value("SELECT clock_timestamp()")
                wait_for(lambda: session.value(tried, begun) > 0, LIMIT, "another attempt")
    assert inbox.texts() == []


def test_a_large_table_that_is_alive_is_left_alone(session: Session) -> None:
    session.execute(
        """SELECT amqp.publish_outbox(
               1, 'e', 'k', string_agg(sha512(g::text::bytea || n::text::bytea), ''::bytea))
           FROM generate_series(1, 80) AS n, generate_series(1, 16384) AS g GROUP BY n"""
    )
    assert session.execute("SELECT pg_table_size('amqp.outbox') > 1 << 26").fetchone() == (True,)
    assert session.execute("SELECT amqp_inner.outbox_compact()").fetchone() == (False,)


def test_delayed_messages_with_one_key_do_not_come_one_by_one(
    database: str, session: Session, inbox: Inbox
) -> None:
    put_many(session, 2000, key="'same'")
    session.execute("UPDATE amqp.outbox SET next_attempt_at = now()")
    with RelayProcess(database):
        wait_until_empty(session)
    assert inbox.texts() == [str(n) for n in range(1, 2001)]


def test_a_relay_that_stands_by_is_well(database: str, broker: VHost) -> None:
    port = free_port()
    with open_session(database, broker) as session, RelayProcess(database) as leader:
        wait_for(lambda: worker_of(session) == leader.pid, LIMIT, "a leader")
        with RelayProcess(database, "--listen-metrics", f"127.0.0.1:{port}") as other:
            other.wait_for_event("standing by: another relay works this outbox")

            def well() -> bool:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                        return bool(json.load(answer)["brokers"] == {"1": "standing by"})
                except HTTPError:
                    return False

            wait_for(well, LIMIT, "health")
            assert other.events("broker not reachable") == []


def test_a_lock_of_somebody_else_does_not_outlive_a_killed_relay(
    database: str, session: Session, inbox: Inbox
) -> None:
    """The server notices that nobody waits for the answer any more."""
    with open_session(database) as other, RelayProcess(database) as first:
        number = put(session, "message", exchange="no-such-exchange")
        wait_until_refused(session, number)
        with other.transaction():
            other.execute("LOCK amqp.outbox IN SHARE ROW EXCLUSIVE MODE")
            # With the outcome of the next attempt.
            wait_for(
                lambda: session.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall(),
                LIMIT,
                "the relay to wait",
            )
            first.kill()
            with RelayProcess(database):
                wait_for(lambda: worker_of(session) != first.pid, LIMIT, "the lock to go")
    assert status(session)["pending"] == 1


def test_ids_are_nobodys_choice(database: str, session: Session) -> None:
    session.execute("CREATE ROLE chooser LOGIN; GRANT USAGE ON SCHEMA amqp TO chooser")
    try:
        with psycopg.connect(database, user="chooser", autocommit=True) as publisher:
            publisher.execute("SELECT amqp.publish_outbox(1, 'e', 'k', 'x')")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                publisher.execute("INSERT INTO amqp.outbox (id, broker_id) VALUES (-1, 1)")
    finally:
        session.execute("DROP OWNED BY chooser; DROP ROLE chooser")
