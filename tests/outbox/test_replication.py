"""The outbox beside logical replication: in a publication, whatever is deleted needs a key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.postgres import PostgreSQL
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.messages import Inbox
from support.outbox import dead, in_outbox, put, settle, wait_until_dead, wait_until_empty
from support.sessions import Session, open_session

# Of every table of the extension, also one of a later version.
WITHOUT_KEY = """
SELECT c.oid::regclass FROM pg_class AS c
WHERE c.relnamespace IN ('amqp'::regnamespace, 'amqp_inner'::regnamespace)
  AND c.relkind IN ('r', 'p')
  AND NOT EXISTS (SELECT FROM pg_index AS i
                  WHERE i.indrelid = c.oid AND i.indisprimary)
"""


@pytest.fixture(scope="module")
def logical() -> Iterator[PostgreSQL]:
    """A server whose changes can be subscribed to."""
    with PostgreSQL(settings={"wal_level": "logical"}) as server:
        yield server


@pytest.fixture
def published(logical: PostgreSQL, broker: VHost) -> Iterator[tuple[str, Session]]:
    """A database of which all tables are published, and a session in it."""
    with open_session(logical.dsn()) as admin:
        admin.execute("CREATE DATABASE published")
        try:
            with open_session(logical.dsn("published")) as session:
                session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
                session.execute("CREATE PUBLICATION everything FOR ALL TABLES")
            with open_session(logical.dsn("published"), broker) as session:
                yield logical.dsn("published"), session
        finally:
            admin.execute("DROP DATABASE published WITH (FORCE)")


def test_every_table_has_a_primary_key(database: str) -> None:
    with open_session(database, autocommit=False) as session:
        assert session.execute(WITHOUT_KEY).fetchall() == []


def test_the_relay_delivers(published: tuple[str, Session], channel: BlockingChannel) -> None:
    database, session = published
    inbox = Inbox(channel)
    session.execute("ALTER DATABASE published SET amqp.keep_delivered = '1 day'")
    session.execute("ALTER DATABASE published SET amqp.max_attempts = 1")
    put(session, "one")
    bad = put(session, "two", exchange="no-such-exchange")
    with RelayProcess(database) as relay:
        wait_until_dead(session, bad)
        wait_until_empty(session)
        assert relay.events("database not usable") == []
    assert inbox.texts() == ["one"]
    assert session.execute("SELECT count(*) FROM amqp.outbox_delivered").fetchone() == (1,)
    # What was kept long enough goes as well.
    session.execute("SET amqp.keep_delivered = 0")
    settle(session)
    assert session.execute("SELECT count(*) FROM amqp.outbox_delivered").fetchone() == (0,)


def test_a_batch_delivers_and_dead_letters_come_and_go(
    published: tuple[str, Session], channel: BlockingChannel
) -> None:
    _, session = published
    inbox = Inbox(channel)
    for text in "abc":
        put(session, text)
    settle(session, refused=[(1, "invalid", "no"), (2, "invalid", "no")])
    assert session.execute("SELECT amqp.publish_outbox_batch()").fetchone() == (1,)
    assert session.execute("SELECT amqp.discard_dead_letters(ids => '{1}')").fetchone() == (1,)
    assert session.execute("SELECT amqp.retry_dead_letters()").fetchone() == (1,)
    assert session.execute("SELECT amqp.publish_outbox_batch()").fetchone() == (1,)
    assert inbox.texts() == ["c", "b"]
    assert in_outbox(session) == dead(session) == []
