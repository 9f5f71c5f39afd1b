"""What a role's own settings do to a daemon that connects as this role: nothing, or it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_daemon.consume.worker import consume_database
from pg_amqp_daemon.relay.outbox import relay_database
from pg_amqp_daemon.runtime.database import Database
from servers.processes import wait_for
from support.consumers import Desk
from support.health import Watched
from support.messages import Inbox
from support.outbox import put, wait_until_empty
from support.patience import LIMIT
from support.sessions import Session, open_session

SETTINGS = [
    "statement_timeout = '1ms'",
    "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '1ms'",
    "default_transaction_isolation = 'serializable'",
    "search_path = 'planted', 'pg_catalog'",
    "role = 'postgres'",
    "datestyle = 'SQL, DMY'",
    "intervalstyle = 'iso_8601'",
    "bytea_output = 'escape'",
    "standard_conforming_strings = off",
    "session_replication_role = 'replica'",
    "client_min_messages = 'debug1'",
]
_LONG = "x" * 5_000_000


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    """A superuser's session, beside a schema with what nobody wants to find."""
    with open_session(database) as session:
        session.run(
            """
            CREATE SCHEMA planted;
            CREATE VIEW planted.pg_settings AS SELECT 'none'::text AS name;
            CREATE FUNCTION planted.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql
                AS $$ BEGIN RAISE 'planted'; END $$;
            CREATE ROLE daemon LOGIN SUPERUSER
            """
        )
        yield session
        session.run("DROP OWNED BY daemon CASCADE; DROP ROLE daemon")


@pytest.mark.parametrize("setting", SETTINGS)
def test_both_doors_work_whatever_the_role_has_set(
    session: Session, database: str, consumers: Desk, channel: BlockingChannel, setting: str
) -> None:
    session.run(
        """CREATE TABLE t (id integer PRIMARY KEY, topic text, raw bytea);
           CREATE FUNCTION f(m amqp.message) RETURNS text LANGUAGE sql
               AS $$ SELECT pg_catalog.upper(amqp.body_text(m)) $$"""
    )
    consumer = consumers(
        target_table="public.t",
        columns='{"id": "body.a.\\"x.y\\"", "topic": "mqtt_topic[1]", "raw": "body"}',
    )
    asked = consumers(target_function="public.f")
    answers = Inbox(channel, "")
    arrivals = Inbox(channel)
    session.run(f"ALTER ROLE daemon SET {setting}")
    with Watched(f"{database} user=daemon") as daemon:
        # Copying a large one takes a while.
        consumer.publish('{"a": {"x.y": 1}}', "x", '{"a": {"x.y": 2}, "b": "' + _LONG + '"}')
        consumer.wait_until("all", lambda status: (status["stored"], status["dead"]) == (2, 1))
        asked.publish("question", reply_to=answers.queue)
        asked.wait_for_stored(1)
        put(session, "a")
        wait_until_empty(session)
        daemon.health(200)
    assert (answers.texts(), arrivals.texts()) == (["QUESTION"], ["a"])
    assert session.run("SELECT id, topic, octet_length(raw) FROM t ORDER BY id") == [
        (1, consumer.queue, 17),
        (2, consumer.queue, 26 + len(_LONG)),
    ]
    assert [state for state, _ in consumer.dead()] == ["22P02"]


@pytest.mark.parametrize("make", [consume_database, relay_database])
@pytest.mark.parametrize(
    "name", ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]
)
def test_a_role_s_limits_are_not_those_of_the_daemon(
    session: Session, database: str, make: Callable[[str], Database], name: str
) -> None:
    session.run(
        f"ALTER ROLE daemon SET {name} = '111ms';"
        " ALTER ROLE daemon SET search_path = planted, pg_catalog"
    )
    asked = make(f"{database} user=daemon")
    with asked.connected():
        ((found,),) = asked.ask(f"SHOW {name}")
    assert found != "111ms"


def test_a_role_that_may_only_read_is_told(
    session: Session, database: str, consumers: Desk
) -> None:
    consumer = consumers()
    session.run("ALTER ROLE daemon SET default_transaction_read_only = on")
    with Watched(f"{database} user=daemon") as daemon:
        consumer.publish("a")
        told = daemon.health(503)
        wait_for(
            lambda: "read-only" in daemon.health(503)["consumers"].get(consumer.name, ""),
            LIMIT,
            f"a word: {told}",
        )
