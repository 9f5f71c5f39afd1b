"""The space of a table that is large and nearly empty comes back, and nothing is lost by it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from servers.postgres import PostgreSQL, bindir
from servers.processes import wait_for
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.messages import Inbox
from support.outbox import grow, in_outbox, put, put_many, table_size, wait_until_empty
from support.patience import LIMIT
from support.sessions import Session, open_session

GIVEN_BACK = "gave back the space of the outbox"
REFUSED = "could not give back the space of the outbox"


@pytest.fixture
def with_older_table(postgres: PostgreSQL, broker: VHost) -> Iterator[str]:
    """A database with a table that pg_dump locks before the outbox."""
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE older_table")
        dsn = postgres.dsn("older_table")
        with open_session(dsn) as session:
            session.execute("CREATE TABLE older (id integer)")
            session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
            session.execute("SELECT amqp.add_broker(%s)", [broker.url()])
        yield dsn
        admin.execute("DROP DATABASE older_table WITH (FORCE)")


def test_a_dump_that_waits_has_all_that_is_pending(
    postgres: PostgreSQL, with_older_table: str
) -> None:
    with open_session(with_older_table) as session:
        for n in range(3):
            put(session, f"pending {n}", deliver_at="2090-01-01", headers={"n": n})
        grow(session)
        before = everything(session)
        with open_session(with_older_table, autocommit=False) as other:
            other.execute("LOCK TABLE older IN ACCESS EXCLUSIVE MODE")
            dump = subprocess.Popen(
                [bindir() / "pg_dump", "-d", with_older_table], stdout=subprocess.PIPE, text=True
            )
            try:
                wait_for(
                    lambda: session.execute(
                        """SELECT FROM pg_stat_activity
                           WHERE application_name = 'pg_dump' AND wait_event_type = 'Lock'"""
                    ).fetchall(),
                    LIMIT,
                    "pg_dump to wait",
                )
                with RelayProcess(with_older_table) as relay:
                    relay.wait_for_event(GIVEN_BACK)
                # After its snapshot, and so not in it.
                put(session, "younger", deliver_at="2090-01-01")
            finally:
                other.rollback()
                written, _ = dump.communicate(timeout=LIMIT)
        assert dump.returncode == 0
        assert table_size(session) < 1 << 20
        assert everything(session)[:3] == before
    for n in range(3):
        assert f"pending {n}".encode().hex() in written
    assert b"younger".hex() not in written


def everything(session: Session) -> list[tuple[Any, ...]]:
    """Return all columns of all messages."""
    return in_outbox(session, "*")


def test_space_comes_back_whatever_transactions_are_open(
    postgres: PostgreSQL, database: str, session: Session, inbox: Inbox
) -> None:
    with (
        open_session(postgres.dsn(), autocommit=False) as elsewhere,
        open_session(database, autocommit=False) as here,
    ):
        elsewhere.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        elsewhere.execute("SELECT pg_current_xact_id()")
        here.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        here.execute("SELECT pg_current_xact_id()")
        put(session, "later", deliver_at="2090-01-01")
        grow(session)
        with RelayProcess(database) as relay:
            relay.wait_for_event(GIVEN_BACK)
            assert table_size(session) < 1 << 20
            put_many(session, 10)
            wait_for(lambda: len(in_outbox(session)) == 1, LIMIT, "the messages to be delivered")
            # An older snapshot sees what is pending, though it is not what it would have been.
            assert here.execute("SELECT body FROM amqp.outbox").fetchall() == [(b"later",)]
            here.rollback()
            session.execute("UPDATE amqp.outbox SET next_attempt_at = now()")
            wait_until_empty(session)
    assert inbox.texts() == [*map(str, range(1, 11)), "later"]


def test_added_columns_come_along(database: str, session: Session, inbox: Inbox) -> None:
    session.execute(
        """ALTER TABLE amqp.outbox
               ADD COLUMN tenant text NOT NULL DEFAULT 'nobody',
               ADD COLUMN tried_twice integer GENERATED ALWAYS AS (attempts * 2) STORED"""
    )
    for n in range(3):
        put(session, n, deliver_at="2090-01-01", ordering_key="key", headers={"n": [n, None]})
    session.execute("UPDATE amqp.outbox SET tenant = 'tenant ' || id, attempts = id")
    grow(session)
    before = everything(session)
    with RelayProcess(database) as relay:
        relay.wait_for_event(GIVEN_BACK)
        assert everything(session) == before
        session.execute("UPDATE amqp.outbox SET next_attempt_at = now()")
        wait_until_empty(session)
        assert relay.events("database not usable") == []
    assert inbox.texts() == ["0", "1", "2"]


@pytest.mark.parametrize(
    "obstacle",
    [
        "CREATE TABLE mine (id bigint REFERENCES amqp.outbox ON DELETE CASCADE)",
        "CREATE TRIGGER mine BEFORE INSERT ON amqp.outbox"
        " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ],
)
def test_what_is_in_the_way_is_said_once_and_stops_nothing(
    database: str, session: Session, inbox: Inbox, obstacle: str
) -> None:
    put(session, "message")
    grow(session)
    session.execute(obstacle.encode())
    with RelayProcess(database) as relay:
        relay.wait_for_event(REFUSED)
        wait_until_empty(session)
        # A session that is new tries again, and does not say it again.
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        relay.wait_for_event("working the outbox", 2)
        assert len(relay.events(REFUSED)) == 1
    assert inbox.texts() == ["message"]
    assert table_size(session) > 1 << 26
