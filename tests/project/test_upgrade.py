"""ALTER EXTENSION UPDATE from each earlier version, and pg_dump with what waits in the outbox."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from pg_amqp_daemon.install import scripts
from pg_amqp_daemon.install.install import install
from servers.postgres import PostgreSQL, bindir
from support.outbox import put, settle, status
from support.sessions import Session, open_session
from support.versions import create_version

PROJECT = Path(__file__).parents[2]

# Of every object of the extension: what it is, who may use it, and its comment.
OBJECTS = """
WITH member AS (
    SELECT d.classid, d.objid FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'pg_amqp_py'
)
SELECT pg_describe_object(m.classid, m.objid, 0), pg_get_functiondef(p.oid), p.proacl::text,
       obj_description(m.objid, m.classid::regclass::name)
FROM member AS m JOIN pg_proc AS p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
UNION ALL
SELECT pg_describe_object(m.classid, m.objid, 0),
       concat_ws(' ', c.relkind, c.reloptions, pg_get_viewdef(c.oid)), c.relacl::text,
       obj_description(m.objid, m.classid::regclass::name)
FROM member AS m JOIN pg_class AS c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
UNION ALL
SELECT pg_describe_object(m.classid, m.objid, 0), NULL, NULL,
       obj_description(m.objid, m.classid::regclass::name)
FROM member AS m WHERE m.classid NOT IN ('pg_proc'::regclass, 'pg_class'::regclass)
UNION ALL
SELECT format('%s column %s %s', a.attrelid::regclass, a.attnum, a.attname),
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull,
                 a.attidentity, a.attstattarget, pg_get_expr(d.adbin, d.adrelid)),
       a.attacl::text, col_description(a.attrelid, a.attnum)
FROM member AS m
JOIN pg_attribute AS a ON m.classid = 'pg_class'::regclass AND a.attrelid = m.objid AND a.attnum > 0
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
UNION ALL
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), NULL, NULL
FROM member AS m JOIN pg_index AS i ON m.classid = 'pg_class'::regclass AND i.indrelid = m.objid
UNION ALL
SELECT format('%s constraint %s', c.conrelid::regclass, c.conname),
       pg_get_constraintdef(c.oid), c.convalidated::text,
       obj_description(c.oid, 'pg_constraint')
FROM member AS m
JOIN pg_constraint AS c ON m.classid = 'pg_class'::regclass AND c.conrelid = m.objid
UNION ALL
SELECT t.tgname, concat(pg_get_triggerdef(t.oid), t.tgenabled), NULL,
       obj_description(t.oid, 'pg_trigger')
FROM member AS m JOIN pg_trigger AS t ON m.classid = 'pg_class'::regclass AND t.tgrelid = m.objid
WHERE NOT t.tgisinternal
UNION ALL
SELECT 'saved by pg_dump: ' || t.t::regclass, e.extcondition[t.nr], NULL, NULL
FROM pg_extension AS e, unnest(e.extconfig) WITH ORDINALITY AS t (t, nr)
WHERE e.extname = 'pg_amqp_py'
ORDER BY 1
"""


def objects(session: Session) -> dict[str, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in session.execute(OBJECTS)}


@pytest.fixture
def other(postgres: PostgreSQL) -> Iterator[str]:
    """The connection string of a second, empty database."""
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE other")
        yield postgres.dsn("other")
        admin.execute("DROP DATABASE other WITH (FORCE)")


EARLIER = pytest.mark.parametrize("version", scripts.EARLIER)


@EARLIER
def test_update_gives_what_a_new_installation_gives(
    database: str, other: str, version: str
) -> None:
    with (
        open_session(database, autocommit=False) as fresh,
        open_session(other) as updated,
    ):
        create_version(updated, version)
        expected = objects(fresh)
        assert objects(updated) != expected
        updated.execute("ALTER EXTENSION pg_amqp_py UPDATE")
        assert objects(updated) == expected
        versions = "SELECT extversion FROM pg_extension WHERE extname = 'pg_amqp_py'"
        assert updated.execute(versions).fetchall() == fresh.execute(versions).fetchall()
        assert len(expected) > 100


@EARLIER
def test_update_keeps_what_calls_publish(other: str, version: str) -> None:
    """Its signature has changed: what depends on it must neither go nor fail."""
    with open_session(other) as session:
        create_version(session, version)
        session.execute(
            """
            CREATE VIEW seen AS
            SELECT amqp.publish(1, 'amq.topic', 'plain', 'x') AS plain,
                   amqp.publish(1, 'amq.topic', 'more', 'x', content_type => 'c') AS more;
            CREATE FUNCTION called(key text) RETURNS boolean LANGUAGE sql
            RETURN amqp.publish(1, 'amq.topic', key, '{}'::jsonb);
            CREATE TABLE orders (id integer, sent boolean DEFAULT amqp.publish(1, 'e', 'row', 'x'));
            PREPARE before AS SELECT amqp.publish(1, 'amq.topic', 'prepared', 'x', 2);
            ALTER EXTENSION pg_amqp_py UPDATE;
            SET amqp.capture = on;
            """
        )
        (definition,) = session.execute("SELECT pg_get_viewdef('seen')").fetchone() or ("",)
        session.execute(f"CREATE VIEW again AS {definition}".encode())
        with session.transaction():
            for statement in (
                "SELECT * FROM seen",
                "SELECT called('function')",
                "INSERT INTO orders DEFAULT VALUES",
                "EXECUTE before",
                "SELECT * FROM again",
            ):
                session.execute(statement.encode())
            pending = session.execute("SELECT routing_key, content_type FROM amqp.pending()")
            assert pending.fetchall() == [
                ("plain", None),
                ("more", "c"),
                ("function", "application/json"),
                ("row", None),
                ("prepared", None),
                ("plain", None),
                ("more", "c"),
            ]


@EARLIER
def test_update_keeps_brokers_grants_and_triggers(other: str, version: str) -> None:
    with open_session(other) as session:
        create_version(session, version)
        session.execute(
            """
            INSERT INTO amqp.broker (host) VALUES ('rabbit.test');
            CREATE TABLE orders (id integer);
            CREATE TRIGGER t AFTER INSERT ON orders
            FOR EACH ROW EXECUTE FUNCTION amqp.publish_change('1', 'amq.topic');
            GRANT EXECUTE ON FUNCTION amqp.queue_purge(integer, text) TO PUBLIC;
            ALTER EXTENSION pg_amqp_py UPDATE;
            BEGIN;
            SET LOCAL amqp.capture = on;
            INSERT INTO orders VALUES (1)
            """
        )
        pending = session.execute("SELECT routing_key FROM amqp.pending()").fetchall()
        session.execute("COMMIT")
        assert pending == [("public.orders.insert",)]
        assert session.execute("SELECT host FROM amqp.broker").fetchall() == [("rabbit.test",)]
        granted = session.execute(
            "SELECT has_function_privilege("
            "'pg_monitor', 'amqp.queue_purge(integer, text)', 'EXECUTE')"
        )
        assert granted.fetchone() == (True,)


# Of version 1.1.0: pending, one of them behind another of its key, delayed, refused once, dead, and
# delivered; and what never could be sent, inserted by hand.
MESSAGES = """
SELECT amqp.publish_outbox(1, 'e', 'k', 'pending', ordering_key => 'key');
SELECT amqp.publish_outbox(1, 'e', 'k', 'behind', ordering_key => 'key', headers => '{"a": 1}');
SELECT amqp.publish_outbox(1, 'e', 'k', 'delayed', deliver_at => '2090-01-01 00:00:00+00');
SELECT amqp.publish_outbox(1, 'e', 'k', 'refused');
SELECT amqp.outbox_settle(1, '{}', '{4}', '{refused}', '{no}');
UPDATE amqp.outbox SET next_attempt_at = '2090-01-01 00:00:00+00' WHERE attempts > 0;
SELECT amqp.publish_outbox(1, 'e', 'k', 'dead');
SELECT amqp.outbox_settle(1, '{}', '{5}', '{invalid}', '{no}');
SELECT amqp.publish_outbox(1, 'e', 'k', 'delivered');
SET amqp.keep_delivered = '1 day';
SELECT amqp.outbox_settle(1, '{6}', '{}', '{}', '{}');
SELECT amqp.publish_outbox(1, 'e', 'k', 'never', deliver_at => 'infinity');
SELECT amqp.publish_outbox(1, 'e', 'k', 'always', deliver_at => '-infinity');
INSERT INTO amqp.outbox (broker_id, body, priority) VALUES (1, 'bad', 300);
INSERT INTO amqp.outbox (broker_id, body, headers)
VALUES (1, 'large', jsonb_build_object('a', repeat('x', 200000)));
UPDATE amqp.outbox_trouble SET last_error = 'old';
CREATE ROLE old_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON amqp.outbox_progress TO old_relay;
"""


def bodies(session: Session, table: str, columns: str = "") -> list[tuple[Any, ...]]:
    query = f"SELECT convert_from(body, 'UTF8'){columns} FROM amqp.{table} ORDER BY id"
    return session.execute(query.encode()).fetchall()


def check_messages(session: Session) -> None:
    """What MESSAGES has put into 1.1.0 is there, and the outbox goes on."""
    pending = bodies(session, "outbox", ", next_attempt_at IS NULL, transaction_id")
    assert pending == [
        ("pending", True, None),
        ("behind", True, None),
        ("delayed", False, None),
        ("refused", False, None),
        ("always", True, None),
    ]
    assert bodies(session, "outbox_dead", ", left(last_error, 30), row_id IS NOT NULL") == [
        ("dead", "no", True),
        ("never", "invalid value for deliver_at: ", True),
        ("bad", "invalid value for priority: 30", True),
        ("large", "headers are too large", True),
    ]
    assert bodies(session, "outbox_delivered", ", row_id IS NOT NULL") == [("delivered", True)]
    found = session.execute(
        "SELECT id FROM amqp_inner.outbox_due(1, NULL, -1, 100, 100000)"
    ).fetchall()
    assert found == [(1,), (2,), (8,)]
    assert status(session)["last_error"] == "old"
    assert status(session)["trouble"] == "the broker has no row in amqp.broker"
    assert put(session) == 11
    held = "SELECT has_table_privilege('old_relay', 'amqp.outbox_lease', 'SELECT, UPDATE')"
    assert session.execute(held).fetchone() == (True,)
    assert session.execute("SELECT amqp_inner.outbox_lock(1)").fetchone() == (True,)
    assert settle(session, delivered=[1, 2, 8, 11]) == []
    assert session.execute("SELECT amqp.retry_dead_letters(ids => '{5}')").fetchone() == (1,)
    assert bodies(session, "outbox", ", id") == [("delayed", 3), ("refused", 4), ("dead", 5)]
    session.execute("DROP OWNED BY old_relay; DROP ROLE old_relay")


def test_update_from_1_1_0_keeps_every_message(other: str) -> None:
    with open_session(other) as session:
        create_version(session, "1.1.0")
        session.execute(MESSAGES)
        session.execute("ALTER EXTENSION pg_amqp_py UPDATE")
        check_messages(session)


def test_installing_again_keeps_every_message(other: str) -> None:
    with open_session(other) as session:
        with session.transaction():
            session.execute("CREATE SCHEMA amqp")
            session.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            session.execute((PROJECT / "tests/upgrade/outbox-1.1.0.sql").read_bytes())
        session.execute(MESSAGES)
        assert install(other).startswith("outbox and inbox upgraded from 1.1.0 to ")
        check_messages(session)


# Of version 1.2.0, whose tables are these: of each kind a row, and what an administrator has set.
ROWS = """
SELECT amqp.publish_outbox(1, 'e', 'k', 'pending', ordering_key => 'key', headers => '{"a": 1}');
SELECT amqp.publish_outbox(1, 'e', 'k', 'delayed', deliver_at => '2090-01-01 00:00:00+00');
SELECT amqp.publish_outbox(1, 'e', 'k', text, message_id => text)
FROM unnest(ARRAY['refused', 'dead', 'delivered']) AS text;
SET amqp.keep_delivered = '1 day';
SELECT amqp.outbox_settle(
    1, '{5}', '{delivered}', '{3,4}', '{refused,dead}', '{refused,invalid}', '{no,never}');
UPDATE amqp.outbox SET next_attempt_at = '2090-01-01 00:00:00+00' WHERE attempts > 0;
ALTER TABLE amqp.outbox SET (autovacuum_vacuum_threshold = 77);
"""
TABLES = [
    "outbox",
    "outbox_dead",
    "outbox_delivered",
    "outbox_progress",
    "outbox_trouble",
    "outbox_lease",
]


def rows_of_all_tables(session: Session) -> dict[str, list[tuple[Any, ...]]]:
    """With the columns that 1.2.0 has."""
    columns = """SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = %s::regclass AND attnum > 0
                   AND attname NOT IN ('retain', 'mqtt_error')"""
    query = "SELECT {}, ctid FROM amqp.{} ORDER BY ctid"
    return {
        table: session.run(query.format(session.value(columns, f"amqp.{table}"), table))
        for table in TABLES
    }


@pytest.mark.parametrize("alone", [False, True])
def test_update_from_1_2_0_touches_no_row(other: str, alone: bool) -> None:
    with open_session(other) as session:
        if alone:
            with session.transaction():
                session.execute("CREATE SCHEMA amqp")
                session.execute("SET LOCAL search_path = pg_catalog, pg_temp")
                session.execute((PROJECT / "tests/upgrade/outbox-1.2.0.sql").read_bytes())
        else:
            create_version(session, "1.2.0")
        session.execute(ROWS)
        session.execute("SELECT amqp.outbox_lock(1)")
        before = rows_of_all_tables(session)
        assert [len(rows) for rows in before.values()] == [3, 1, 1, 1, 1, 1]
        if alone:
            assert install(other).startswith("outbox and inbox upgraded from 1.2.0 to ")
        else:
            session.execute("ALTER EXTENSION pg_amqp_py UPDATE")
        assert rows_of_all_tables(session) == before
        options = "SELECT reloptions FROM pg_class WHERE oid = 'amqp.outbox'::regclass"
        ((found,),) = session.execute(options).fetchall()
        assert "autovacuum_vacuum_threshold=77" in found
        assert session.execute("SELECT amqp_inner.outbox_lock(1)").fetchone() == (True,)
        assert settle(session, delivered=[1]) == []
        assert put(session) == 6
        found = session.execute(
            "SELECT id FROM amqp_inner.outbox_due(1, NULL, -1, 9, 9999)"
        ).fetchall()
        assert found == [(6,)]


def test_dump_keeps_what_waits_and_goes_on_behind_it(database: str, other: str) -> None:
    with open_session(database) as session:
        for text in ("one", "two", "three", "four"):
            session.execute("SELECT amqp.publish_outbox(1, 'e', 'k', %s)", [text])
        session.execute("UPDATE amqp.outbox SET attempts = 7, last_error = 'no' WHERE id = 1")
        settle(session, refused=[(3, "invalid", "no")])
        session.execute("SET amqp.keep_delivered = '1 day'")
        settle(session, delivered=[4])
        dump = subprocess.check_output([bindir() / "pg_dump", "-d", database], text=True)
        psql = [str(bindir() / "psql"), "-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", other]
        subprocess.run(psql, input=dump, text=True, check=True, stdout=subprocess.DEVNULL)
        with open_session(other) as restored:
            for table in ("outbox", "outbox_dead", "outbox_delivered"):
                rows = sql.SQL("SELECT * FROM amqp.{} ORDER BY id").format(sql.Identifier(table))
                found = restored.execute(rows).fetchall()
                assert found == session.execute(rows).fetchall()
                assert found
            assert restored.execute("SELECT * FROM amqp.outbox_progress").fetchall() == []
            row = restored.execute("SELECT amqp.publish_outbox(1, 'e', 'k', 'five')").fetchone()
            assert row == (5,)
