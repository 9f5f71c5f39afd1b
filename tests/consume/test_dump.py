"""Rows of consumers and listeners in other databases: dumped, restored, copied, upgraded."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from pg_amqp_daemon.install.install import install
from servers.postgres import PostgreSQL, bindir
from support.sessions import Session, open_session, session_fixture
from support.storing import consume_into, dead, message, storing

session = session_fixture()

OBJECTS = """
CREATE SCHEMA s;
CREATE TABLE s.keyed (id integer PRIMARY KEY, note text);
CREATE TABLE s.parts (id integer PRIMARY KEY, note text) PARTITION BY HASH (id);
CREATE TABLE s.part0 PARTITION OF s.parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE VIEW s.grouped AS SELECT id, note, count(*) AS times FROM s.keyed GROUP BY id;
CREATE VIEW s.plain AS SELECT id, note FROM s.keyed;
CREATE FUNCTION s."take %"(m amqp.message) RETURNS text RETURN amqp.body_text($1);
"""


def fill(session: Session, dsn: str) -> None:
    """A database with consumers of every kind, and what they have left in the inbox."""
    session.run(OBJECTS)
    session.run("SET search_path = s")
    consume_into(session, "keyed", name="update", on_conflict="update")
    consume_into(
        session, "parts", name="parts", on_conflict="update", conflict_constraint="parts_pkey"
    )
    consume_into(session, "plain", name="view")
    consume_into(session, '"take %"(amqp.message)', name="function")
    consume_into(session, name="inbox", tags=None)
    consume_into(session, name="stream", stream_offset="first")
    session.run("SELECT amqp.rewind('stream', 7)")
    session.run("RESET search_path")
    session.run(
        "INSERT INTO amqp.listener (channel, broker_id, exchange, headers)"
        " VALUES ('c', 1, 'e', '{\"h\": 1}'), ('ü', 1, '', NULL)"
    )
    with storing(dsn, "update") as one:
        one.put(message('{"id": 1}', message_id="a"), message("bad", message_id="b"))
    with storing(dsn, "inbox") as one:
        one.put(message("x", message_id="a"))


KEPT = [
    "SELECT name, target_table::text, target_function, conflict_constraint FROM amqp.consumer"
    " ORDER BY name",
    "SELECT consumer, message_id, seen_at FROM amqp.inbox_seen ORDER BY consumer, message_id",
    "SELECT * FROM amqp.inbox_offset",
    "SELECT * FROM amqp.inbox_dead ORDER BY id",
    "SELECT * FROM amqp.inbox ORDER BY id",
    "SELECT * FROM amqp.listener ORDER BY listener_id",
]


def check(session: Session, dsn: str, of: Session) -> None:
    """It is all there, and goes on."""
    for query in KEPT:
        rows = session.run(query)
        assert rows
        assert rows == of.run(query)
    for number, name in enumerate(("update", "parts", "view", "function", "inbox"), 5):
        with storing(dsn, name) as one:
            new = one.put(message(json.dumps({"id": number}), message_id="c", reply_to="r"))
            # What a ledger has is a copy here, too.
            old = one.put(message("x", message_id="a"))
            assert (new.stored, old.duplicates) == (1, int(name in ("update", "inbox"))), name
    assert session.run("SELECT id FROM s.keyed ORDER BY id") == [(1,), (5,), (7,)]
    assert dead(session, consumer="update") == ["22P02"]
    # Who it calls is known again, whatever its name becomes.
    session.run(
        "UPDATE amqp.consumer SET target_function = target_function WHERE name = 'function'"
    )
    session.run('ALTER FUNCTION s."take %" RENAME TO taken')
    with storing(dsn, "function") as one:
        assert one.put(message("y")).stored == 1
    assert session.value("SELECT amqp.discard_dead_messages('update')") == 1
    assert (
        session.value(
            "INSERT INTO amqp.listener (channel, broker_id, exchange) VALUES ('n', 1, 'e')"
            " RETURNING listener_id"
        )
        == 3
    )


def restore(dump: str, dsn: str) -> None:
    command = [str(bindir() / "psql"), "-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", dsn]
    done = subprocess.run(command, input=dump, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def dump(dsn: str, *options: str) -> str:
    return subprocess.check_output([bindir() / "pg_dump", "-d", dsn, *options], text=True)


@pytest.fixture
def other(postgres: PostgreSQL) -> Iterator[str]:
    """The connection string of a second, empty database."""
    with open_session(postgres.dsn()) as admin:
        admin.run("CREATE DATABASE other")
        yield postgres.dsn("other")
        admin.run("DROP DATABASE other WITH (FORCE)")


@pytest.mark.parametrize("options", [(), ("--inserts",), ("--disable-triggers",)])
def test_another_database_of_the_cluster(
    session: Session, database: str, other: str, options: tuple[str, ...]
) -> None:
    fill(session, database)
    restore(dump(database, *options), other)
    with open_session(other) as restored:
        check(restored, other, session)


def test_another_cluster(session: Session, database: str) -> None:
    fill(session, database)
    with PostgreSQL() as cluster:
        with open_session(cluster.dsn()) as there:
            # Its numbers are others.
            there.run("CREATE TABLE a (id integer); DROP TABLE a")
        restore(dump(database), cluster.dsn())
        with open_session(cluster.dsn()) as restored:
            check(restored, cluster.dsn(), session)


def test_parts_of_a_dump_one_after_the_other(session: Session, database: str, other: str) -> None:
    fill(session, database)
    for section in ("pre-data", "data", "post-data"):
        restore(dump(database, f"--section={section}"), other)
    with open_session(other) as restored:
        check(restored, other, session)


def test_a_copy_of_a_database(session: Session, database: str) -> None:
    fill(session, database)
    name = session.info.dbname
    with open_session(f"{database} dbname=postgres") as admin:
        expected = {query: session.run(query) for query in KEPT}
        session.close()
        admin.run(f"CREATE DATABASE copied TEMPLATE {name}")
        dsn = f"{database} dbname=copied"
        try:
            with open_session(dsn) as copied, open_session(database) as original:
                assert all(original.run(query) == rows for query, rows in expected.items())
                check(copied, dsn, original)
        finally:
            admin.run("DROP DATABASE copied WITH (FORCE)")


def test_the_inbox_without_the_extension(session: Session, other: str) -> None:
    """There, the functions, tables and triggers are in the dump."""
    install(other)
    with open_session(other) as filled:
        fill(filled, other)
        dumped = dump(other)
        dsn = f"{other} dbname=another"
        filled.run("CREATE DATABASE another")
        try:
            restore(dumped, dsn)
            with open_session(dsn) as restored:
                check(restored, dsn, filled)
            # Into the same database: the number of the function is another one's, or nobody's.
            filled.run("DROP SCHEMA amqp, amqp_inner, s CASCADE")
            restore(dumped, other)
            with storing(other, "function") as one:
                assert one.put(message("x", reply_to="r")).stored == 1
            assert filled.value("SELECT count(*) FROM amqp.outbox") == 1
        finally:
            filled.run("DROP DATABASE another WITH (FORCE)")


def test_a_restored_row_that_means_nothing_is_waited_for(
    session: Session, database: str, other: str
) -> None:
    fill(session, database)
    dumped = dump(database, "--exclude-schema=s").replace("s.keyed", "pg_catalog.pg_class")
    with open_session(other) as restored:
        restored.run("CREATE SCHEMA s; CREATE TABLE s.parts (id integer); CREATE TABLE s.plain ()")
        restore(dumped, other)
        with storing(other, "function") as one, pytest.raises(psycopg.errors.UndefinedFunction):
            one.look()
        with storing(other, "parts") as one, pytest.raises(psycopg.errors.UndefinedObject):
            one.look()
        with storing(other, "view") as one, pytest.raises(psycopg.errors.InvalidParameterValue):
            one.look()
        with storing(other, "update") as one, pytest.raises(psycopg.Error):
            one.look()


def test_nothing_keeps_pg_upgrade_from_upgrading(session: Session) -> None:
    """It refuses columns of all types whose values are numbers in the catalogs, but two."""
    assert (
        session.run(
            """WITH RECURSIVE types (oid) AS (
                   SELECT unnest(ARRAY['regcollation', 'regconfig', 'regdictionary', 'regnamespace',
                       'regoper', 'regoperator', 'regproc', 'regprocedure']::regtype[])::oid
                   UNION
                   SELECT t.oid FROM pg_type AS t, types AS b
                   WHERE t.typbasetype = b.oid OR t.typelem = b.oid
                      OR EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = t.typrelid
                                 AND a.atttypid = b.oid))
               SELECT a.attrelid::regclass, a.attname FROM pg_attribute AS a
               JOIN pg_class AS c ON c.oid = a.attrelid
               WHERE c.relnamespace = 'amqp'::regnamespace
                 AND a.atttypid IN (SELECT oid FROM types)"""
        )
        == []
    )
