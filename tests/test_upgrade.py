"""ALTER EXTENSION UPDATE from each earlier version, and pg_dump with what waits in the outbox."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from messages import Session
from outbox import settle
from servers.postgres import PostgreSQL, bindir

PROJECT = Path(__file__).parent.parent

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
                 pg_get_expr(d.adbin, d.adrelid)),
       a.attacl::text, col_description(a.attrelid, a.attnum)
FROM member AS m
JOIN pg_attribute AS a ON m.classid = 'pg_class'::regclass AND a.attrelid = m.objid AND a.attnum > 0
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
UNION ALL
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), NULL, NULL
FROM member AS m JOIN pg_index AS i ON m.classid = 'pg_class'::regclass AND i.indrelid = m.objid
UNION ALL
SELECT t.tgname, concat(pg_get_triggerdef(t.oid), t.tgenabled), NULL,
       obj_description(t.oid, 'pg_trigger')
FROM member AS m JOIN pg_trigger AS t ON m.classid = 'pg_class'::regclass AND t.tgrelid = m.objid
UNION ALL
SELECT 'saved by pg_dump: ' || t.t::regclass, e.extcondition[t.nr], NULL, NULL
FROM pg_extension AS e, unnest(e.extconfig) WITH ORDINALITY AS t (t, nr)
WHERE e.extname = 'pg_amqp_py'
ORDER BY 1
"""

# What CREATE EXTENSION does besides running the script.
MAKE_MEMBERS = """
SET allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
VALUES (999999, 'pg_amqp_py', 10, 'amqp'::regnamespace, false, '1.0.0');
RESET allow_system_table_mods;
ALTER EXTENSION pg_amqp_py ADD SCHEMA amqp_python;
ALTER EXTENSION pg_amqp_py ADD TABLE amqp.broker;
ALTER EXTENSION pg_amqp_py ADD SEQUENCE amqp.broker_broker_id_seq;
DO $$
DECLARE f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_proc
             WHERE pronamespace IN ('amqp'::regnamespace, 'amqp_python'::regnamespace) LOOP
        EXECUTE format('ALTER EXTENSION pg_amqp_py ADD FUNCTION %s', f);
    END LOOP;
END
$$;
"""


def create_version_1_0_0(session: Session) -> None:
    """Do what CREATE EXTENSION VERSION '1.0.0' did, whose script is not installed any more."""
    script = (PROJECT / "tests/upgrade/pg_amqp_py--1.0.0.sql").read_text()
    script = re.sub(
        r"^(\\echo|SELECT pg_catalog.pg_extension_config_dump).*", "", script, flags=re.M
    )
    session.execute("CREATE EXTENSION plpython3u; CREATE SCHEMA amqp")
    with session.transaction():
        session.execute("SET LOCAL search_path = amqp, pg_temp")
        session.execute(script.encode())
    session.execute(MAKE_MEMBERS)


def objects(session: Session) -> dict[str, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in session.execute(OBJECTS)}


@pytest.fixture
def other(postgres: PostgreSQL) -> Iterator[str]:
    """The connection string of a second, empty database."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE other")
        yield postgres.dsn("other")
        admin.execute("DROP DATABASE other WITH (FORCE)")


def test_update_from_1_0_0_gives_what_a_new_installation_gives(database: str, other: str) -> None:
    with (
        psycopg.connect(database) as fresh,
        psycopg.connect(other, autocommit=True) as updated,
    ):
        create_version_1_0_0(updated)
        expected = objects(fresh)
        assert objects(updated) != expected
        updated.execute("ALTER EXTENSION pg_amqp_py UPDATE")
        assert objects(updated) == expected
        versions = "SELECT extversion FROM pg_extension WHERE extname = 'pg_amqp_py'"
        assert updated.execute(versions).fetchall() == fresh.execute(versions).fetchall()
        assert len(expected) > 100


def test_update_keeps_brokers_grants_and_triggers(other: str) -> None:
    with psycopg.connect(other, autocommit=True) as session:
        create_version_1_0_0(session)
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


def test_dump_keeps_what_waits_and_goes_on_behind_it(database: str, other: str) -> None:
    with psycopg.connect(database, autocommit=True) as session:
        for text in ("one", "two", "three", "four"):
            session.execute("SELECT amqp.publish_outbox(1, 'e', 'k', %s)", [text])
        session.execute("UPDATE amqp.outbox SET attempts = 7, last_error = 'no' WHERE id = 1")
        settle(session, refused=[(3, "invalid", "no")])
        session.execute("SET amqp.keep_delivered = '1 day'")
        settle(session, delivered=[4])
        dump = subprocess.check_output([bindir() / "pg_dump", "-d", database], text=True)
        psql = [str(bindir() / "psql"), "-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", other]
        subprocess.run(psql, input=dump, text=True, check=True, stdout=subprocess.DEVNULL)
        with psycopg.connect(other, autocommit=True) as restored:
            for table in ("outbox", "outbox_dead", "outbox_delivered"):
                rows = sql.SQL("SELECT * FROM amqp.{} ORDER BY id").format(sql.Identifier(table))
                found = restored.execute(rows).fetchall()
                assert found == session.execute(rows).fetchall()
                assert found
            assert restored.execute("SELECT * FROM amqp.outbox_progress").fetchall() == []
            row = restored.execute("SELECT amqp.publish_outbox(1, 'e', 'k', 'five')").fetchone()
            assert row == (5,)
