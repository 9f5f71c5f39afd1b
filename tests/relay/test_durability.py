"""Nothing is delivered that a crash of PostgreSQL could still take back."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.messages import Inbox
from support.outbox import put, wait_until_empty
from support.patience import LIMIT
from support.sessions import open_session


@pytest.mark.parametrize("everywhere", [True, False])
def test_what_was_committed_asynchronously_is_on_disk_when_it_is_delivered(
    broker: VHost, channel: BlockingChannel, everywhere: bool
) -> None:
    """Whether the relay's own sessions commit so, too, or not."""
    inbox = Inbox(channel)
    settings = {"wal_writer_delay": "10s", "synchronous_commit": "off" if everywhere else "on"}
    with PostgreSQL(settings=settings) as server:
        with open_session(server.dsn()) as session:
            session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
            session.execute("SELECT amqp.add_broker(%s)", [broker.url()])
            session.execute("CREATE TABLE orders (id integer)")
            session.execute("CHECKPOINT")
        with RelayProcess(server.dsn()) as relay:
            relay.wait_for_event("connected to broker")
            with open_session(server.dsn()) as session:
                session.execute("SET synchronous_commit = off")
                with session.transaction():
                    session.execute("INSERT INTO orders VALUES (1)")
                    put(session, "order 1")
                wait_for(lambda: inbox.texts() == ["order 1"], LIMIT, "the message")
                server.kill()
        server.start()
        with open_session(server.dsn(), autocommit=False) as session:
            assert session.execute("SELECT id FROM orders").fetchall() == [(1,)]


def test_what_is_flushed_already_costs_no_commit(broker: VHost, channel: BlockingChannel) -> None:
    inbox = Inbox(channel)
    with PostgreSQL() as server, open_session(server.dsn()) as session:
        session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
        session.execute("SELECT amqp.add_broker(%s)", [broker.url()])

        def delivered_without_a_commit() -> bool:
            """Not each time: PostgreSQL's own processes write to the log as well."""
            session.execute("DELETE FROM amqp.outbox_progress")
            put(session, "message")
            wait_for(lambda: inbox.texts() == ["message"], LIMIT, "the message")
            wait_until_empty(session)
            # What says how many were delivered, and nothing else.
            query = "SELECT FROM amqp.outbox_progress WHERE messages = 0"
            return not session.execute(query).fetchall()

        with RelayProcess(server.dsn()) as relay:
            relay.wait_for_event("connected to broker")
            wait_for(delivered_without_a_commit, LIMIT, "a message that costs no commit")
