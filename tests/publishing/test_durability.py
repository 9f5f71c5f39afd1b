"""A message is only sent for what survives a crash, whatever synchronous_commit says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.postgres import PostgreSQL
from support.fix_servers import VHost
from support.queues import declare, numbers_in
from support.sessions import open_session


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    """A server that is in no hurry to write what need not be written at once."""
    with PostgreSQL(
        settings={"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}
    ) as server:
        with open_session(server.dsn()) as session:
            session.run("CREATE EXTENSION pg_amqp_py CASCADE; CREATE TABLE orders (n int)")
        yield server


@pytest.mark.parametrize(
    ("off", "survives"),
    [
        ("SET synchronous_commit = off", True),
        ("SET LOCAL synchronous_commit = off", True),
        ("SET synchronous_commit = off", False),
    ],
    ids=["session", "local", "told"],
)
def test_a_crash_after_the_commit(
    server: PostgreSQL, broker: VHost, channel: BlockingChannel, off: str, survives: bool
) -> None:
    declare(channel)
    with open_session(server.dsn()) as session:
        session.run("TRUNCATE orders, amqp.broker")
        broker_id = session.add_broker(broker.url())
        # What it takes to load and connect is behind us.
        session.publish(broker_id, "events", [0])
        session.run("CHECKPOINT")
        if not survives:
            session.run("SET amqp.synchronous_commit = off")
        session.run("BEGIN")
        session.run("INSERT INTO orders VALUES (1)")
        session.publish(broker_id, "events", [1])
        session.run(off)
        session.run("COMMIT")
        assert numbers_in(channel, "events", 2) == [0, 1]
        server.kill()
    server.start()
    with open_session(server.dsn()) as session:
        assert session.run("SELECT n FROM orders") == ([(1,)] if survives else [])


def test_a_row_of_the_transaction_before(
    server: PostgreSQL, broker: VHost, channel: BlockingChannel
) -> None:
    declare(channel)
    with open_session(server.dsn()) as session:
        session.run("TRUNCATE orders, amqp.broker")
        broker_id = session.add_broker(broker.url())
        session.publish(broker_id, "events", [0])
        session.run("CHECKPOINT")
        session.run("SET synchronous_commit = off")
        session.run("INSERT INTO orders VALUES (1)")
        session.publish(broker_id, "events", [1])
        assert numbers_in(channel, "events", 2) == [0, 1]
        server.kill()
    server.start()
    with open_session(server.dsn()) as session:
        assert session.run("SELECT n FROM orders") == [(1,)]


def test_a_crash_after_delivery_by_another_session(
    server: PostgreSQL, broker: VHost, channel: BlockingChannel
) -> None:
    declare(channel)
    with open_session(server.dsn()) as session, open_session(server.dsn()) as deliverer:
        session.run("TRUNCATE orders, amqp.broker, amqp.outbox")
        broker_id = session.add_broker(broker.url())
        session.run("CHECKPOINT; SET synchronous_commit = off")
        deliverer.run("SET synchronous_commit = off")
        session.run("BEGIN; INSERT INTO orders VALUES (1)")
        session.run("SELECT amqp.publish_outbox(%s, 'events', 'key', '1')", broker_id)
        session.run("COMMIT")
        # The transaction that delivers has not committed yet: it flushes nothing by itself.
        deliverer.run("BEGIN")
        assert deliverer.value("SELECT amqp.publish_outbox_batch()") == 1
        assert numbers_in(channel, "events", 1) == [1]
        server.kill()
    server.start()
    with open_session(server.dsn()) as session:
        assert session.run("SELECT n FROM orders") == [(1,)]


@pytest.mark.server
def test_a_flush_wherever_the_log_ends(server: PostgreSQL) -> None:
    """On a new page of the log the next record begins behind a header that is not written yet."""
    with open_session(server.dsn()) as session:
        session.run("SELECT * FROM amqp.status()")
        session.run(
            """CREATE FUNCTION flush() RETURNS void LANGUAGE plpython3u AS $$
               import sys
               sys.modules["pg_amqp_py.backend.server"].flush_wal()
               $$"""
        )
        at_a_page = 0
        for size in range(0, 8192 * 2, 8):
            session.run("SELECT pg_logical_emit_message(false, '', repeat('x', %s))", size % 8192)
            at_a_page += session.value(
                "SELECT mod(pg_current_wal_insert_lsn() - '0/0', 8192) <= 40"
            )
            session.run("SELECT flush()")
        assert at_a_page > 0
