"""Publishing on a hot standby, where nothing can be written."""

from __future__ import annotations

from pika.adapters.blocking_connection import BlockingChannel

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from support.fix_servers import VHost
from support.messages import Inbox
from support.sessions import open_session


def test_a_hot_standby_publishes(broker: VHost, channel: BlockingChannel) -> None:
    inbox = Inbox(channel, "amq.topic", "#")
    with PostgreSQL() as primary:
        with open_session(primary.dsn()) as session:
            session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
            session.execute("SELECT amqp.add_broker(%s)", [broker.url()])
            row = session.execute("SELECT pg_current_wal_lsn()").fetchone()
            assert row is not None
        with (
            PostgreSQL(standby_of=primary) as standby,
            open_session(standby.dsn()) as session,
        ):

            def replayed() -> bool:
                answer = session.execute("SELECT pg_last_wal_replay_lsn() >= %s", row).fetchone()
                return answer is not None and bool(answer[0])

            wait_for(replayed, 30, "the standby to catch up")
            assert session.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
            with session.transaction():
                session.execute("SELECT amqp.publish(1, 'amq.topic', 'key', 'from a standby')")
                session.execute("SAVEPOINT s")
                session.execute("SELECT amqp.publish(1, 'amq.topic', 'key', 'rolled back')")
                session.execute("ROLLBACK TO s")
            assert [delivery.text for delivery in inbox.drain()] == ["from a standby"]
