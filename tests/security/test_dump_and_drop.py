"""Dump, restore, drop, create again."""

from __future__ import annotations

import subprocess

from pika.adapters.blocking_connection import BlockingChannel
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from servers.postgres import PostgreSQL, bindir
from support.fix_servers import VHost
from support.queues import declare, numbers_in
from support.roles import numbers, role_fixtures
from support.sessions import Session, open_session

session, role, publisher, broker_id = role_fixtures()


def tool(name: str, *arguments: str) -> str:
    """Run one of the server's client programs."""
    completed = subprocess.run(
        [str(bindir() / name), *arguments], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_dump_keeps_brokers_and_their_numbers(
    postgres: PostgreSQL, database: str, session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    declare(channel)
    first = session.add_broker(broker.url())
    session.add_broker("amqps://user:p%40ss@h1,h2/v")
    before = session.run("SELECT * FROM amqp.broker ORDER BY broker_id, host")
    name = f"restored_{next(numbers)}"
    session.run(f"CREATE DATABASE {name}")
    dsn = postgres.dsn(name)
    try:
        dumped = tool("pg_dump", f"--dbname={database}")
        assert "CREATE TABLE amqp.broker" not in dumped
        file = postgres.folder / f"{name}.sql"
        file.write_text(dumped)
        tool("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-f", str(file))
        with open_session(dsn) as restored:
            assert restored.run("SELECT * FROM amqp.broker ORDER BY broker_id, host") == before
            assert restored.add_broker("amqp://h3") == before[-1][0] + 1
            restored.publish(first, "events", [1])
            grants = """SELECT proname, proacl::text FROM pg_proc
                        WHERE proname ~ '^(queue|add)_' ORDER BY 1"""
            assert restored.run(grants) == session.run(grants)
        assert numbers_in(channel, "events", 1) == [1]
    finally:
        session.run(f"DROP DATABASE {name} WITH (FORCE)")


def test_extension_goes_and_comes_back_in_one_session(
    session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    declare(channel)
    for number in (1, 2, 3):
        broker_id = session.add_broker(broker.url())
        session.publish(broker_id, "events", [number])
        session.run("DROP EXTENSION pg_amqp_py")
        assert session.run("SELECT FROM pg_namespace WHERE nspname = 'amqp_inner'") == []
        # The schema that CREATE EXTENSION has made stays: empty.
        assert (
            session.run(
                """SELECT oid FROM pg_class WHERE relnamespace = 'amqp'::regnamespace
               UNION ALL SELECT oid FROM pg_proc WHERE pronamespace = 'amqp'::regnamespace
               UNION ALL SELECT oid FROM pg_type WHERE typnamespace = 'amqp'::regnamespace"""
            )
            == []
        )
        session.run("CREATE EXTENSION pg_amqp_py")
    assert session.warnings() == []
    assert numbers_in(channel, "events", 3) == [1, 2, 3]


def test_extension_dropped_while_messages_are_pending(
    session: Session, broker_id: int, channel: BlockingChannel
) -> None:
    with session.transaction():
        session.publish(broker_id, "events", [1])
        session.run("DROP EXTENSION pg_amqp_py")
    assert session.warnings() == []
    assert numbers_in(channel, "events", 1) == [1]
    session.run("CREATE EXTENSION pg_amqp_py")


def test_beside_the_extension_amqp(session: Session) -> None:
    """Its row in the catalogue is enough to be stopped; its files need not be installed."""
    session.run("DROP EXTENSION pg_amqp_py")
    session.run("SET allow_system_table_mods = on")
    session.run(
        """INSERT INTO pg_extension
               (oid, extname, extowner, extnamespace, extrelocatable, extversion)
           VALUES (987654, 'amqp', 10, 'public'::regnamespace, false, '0.4.1')"""
    )
    report = session.error("CREATE EXTENSION pg_amqp_py")
    assert 'extension "amqp" is installed in this database' in report.message
    assert "docs/how-to/migrate-from-pg_amqp.md" in report.hint
    assert report.sqlstate == "42710"
    session.run("DELETE FROM pg_extension WHERE oid = 987654")
    session.run("CREATE EXTENSION pg_amqp_py")


def test_only_a_superuser_creates_the_extension(session: Session, database: str, role: str) -> None:
    session.run("DROP EXTENSION pg_amqp_py")
    name = sql.Identifier(str(conninfo_to_dict(database)["dbname"]))
    session.run(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(name, sql.Identifier(role)))
    with open_session(database, role=role) as somebody:
        assert somebody.error("CREATE EXTENSION pg_amqp_py").sqlstate == "42501"
