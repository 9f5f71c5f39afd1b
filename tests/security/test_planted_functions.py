"""Functions and operators of whoever owns schema amqp: the extension's scripts do not see them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import errors

from servers.postgres import PostgreSQL
from support.outbox import put
from support.sessions import Session, open_session
from support.versions import create_version

PROJECT = Path(__file__).parents[2]

# What the objects of the extension are made of, as PostgreSQL shows it to somebody in whose path
# nothing is.
DEFINITIONS = """
SELECT 'function ' || p.oid::regprocedure,
       pg_get_functiondef(p.oid) || COALESCE(p.prosqlbody::text, '')
FROM pg_proc AS p
JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'pg_amqp_py'
UNION ALL
SELECT 'column ' || a.attrelid::regclass || '.' || a.attname,
       format_type(a.atttypid, -1) || COALESCE(d.adbin::text, '')
FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = 'amqp'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0
UNION ALL
SELECT 'view ' || c.oid::regclass, pg_get_viewdef(c.oid) FROM pg_class AS c
WHERE c.relnamespace = 'amqp'::regnamespace AND c.relkind = 'v'
UNION ALL
SELECT 'constraint ' || c.conrelid::regclass || '.' || c.conname,
       pg_get_constraintdef(c.oid) || COALESCE(c.conbin::text, '')
FROM pg_constraint AS c WHERE c.connamespace = 'amqp'::regnamespace
UNION ALL
SELECT 'index ' || i.indexrelid::regclass,
       pg_get_indexdef(i.indexrelid) || COALESCE(i.indpred::text, '')
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid
WHERE c.relnamespace = 'amqp'::regnamespace
ORDER BY 1
"""
# Of the same names as PostgreSQL's own, for types that come before theirs where a literal or a text
# is given; each says that it has run. What cannot be said of one (a variadic one beside it that is
# more common, a type that does not exist) is left out.
TYPES = ["text", "jsonb", "integer", "bigint", "bytea", "timestamptz", "boolean", "name", "unknown"]
PLANT = """
DO $plant$
DECLARE
    f record;
    arguments text;
BEGIN
    FOR f IN
        SELECT DISTINCT p.proname, p.pronargs, p.proargtypes, p.provariadic <> 0 AS is_variadic
        FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f'
          AND p.proname = ANY (current_setting('test.names')::text[])
    LOOP
        FOREACH arguments IN ARRAY ARRAY[
            pg_catalog.oidvectortypes(f.proargtypes),
            pg_catalog.rtrim(pg_catalog.repeat('text, ', f.pronargs), ', '),
            'text', 'text, text', 'jsonb', 'integer, text', 'VARIADIC text[]'] LOOP
            BEGIN
                EXECUTE pg_catalog.format(
                    'CREATE FUNCTION amqp.%I(%s) RETURNS text LANGUAGE plpgsql AS $body$
                     BEGIN RAISE EXCEPTION ''planted'' USING ERRCODE = ''XX999''; END $body$',
                    f.proname, arguments);
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
        END LOOP;
    END LOOP;
    FOR f IN
        SELECT DISTINCT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r
        FROM pg_catalog.pg_operator AS o
        WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft <> 0
          AND o.oprname = ANY (current_setting('test.operators')::text[])
          AND (o.oprleft::regtype::text = ANY (current_setting('test.types')::text[])
               OR o.oprright::regtype::text = ANY (current_setting('test.types')::text[]))
    LOOP
        BEGIN
            EXECUTE pg_catalog.format(
                'CREATE FUNCTION amqp.planted(%s, %s) RETURNS boolean LANGUAGE plpgsql AS $body$
                 BEGIN RAISE EXCEPTION ''planted'' USING ERRCODE = ''XX999''; END $body$',
                f.l, f.r);
        EXCEPTION WHEN duplicate_function THEN NULL;
        END;
        EXECUTE pg_catalog.format(
            'CREATE OPERATOR amqp.%s (FUNCTION = amqp.planted, LEFTARG = %s, RIGHTARG = %s)',
            f.oprname, f.l, f.r);
    END LOOP;
END
$plant$
"""


def words() -> tuple[list[str], list[str]]:
    """All names that stand before a parenthesis in any script, and all operators."""
    text = "\n".join(
        path.read_text() for path in (PROJECT / "sql").rglob("*") if path.suffix in (".sql", ".in")
    )
    text = re.sub(r"--.*", "", text)
    names = {name.lower() for name in re.findall(r"\b([a-z_0-9]+)\s*\(", text)}
    operators = set(re.findall(r"(?<=[\s.])([-+*/<>=~!@#%^&|?]{1,3})(?=[\s)])", text))
    return sorted(names), sorted(operators)


def plant(session: Session) -> None:
    """Put them into schema amqp, as its owner."""
    names, operators = words()
    settings = {"names": names, "operators": operators, "types": TYPES}
    for name, value in settings.items():
        session.execute("SELECT set_config(%s, %s::text[]::text, false)", [f"test.{name}", value])
    session.execute(PLANT)
    found = session.execute(
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'amqp'::regnamespace"
    ).fetchone()
    assert found is not None
    assert found[0] > 200


def definitions(session: Session) -> dict[str, str]:
    """What `DEFINITIONS` gives, without the numbers that are others in each database."""
    session.execute("SET search_path = ''")
    found = dict[str, str](session.execute(DEFINITIONS.encode()).fetchall())
    session.execute("RESET search_path")
    names: dict[str, str] = {}
    for catalog, name in (
        ("pg_type", "oid::regtype::text"),
        ("pg_class", "oid::regclass::text"),
        ("pg_proc", "oid::regprocedure::text"),
        ("pg_constraint", "conname::text"),
    ):
        query = f"SELECT oid::text, {name} FROM {catalog} WHERE oid >= 16384"
        names.update(session.execute(query.encode()).fetchall())

    def named(match: re.Match[str]) -> str:
        return names.get(match.group(), match.group())

    # Places in the script, and the constants of type regclass, regtype and regnamespace.
    without = r":(?:location|stmt_location|stmt_len) -?\d+|(?<=:consttype )(?:2205|2206|4089) [^}]*"
    without_places = {name: re.sub(without, "", text) for name, text in found.items()}
    # As they stand in a parsed tree: what stands in quotes is a SQLSTATE or the like.
    number = r"(?<=[ (])\d{5,}(?=[ )])"
    return {name: re.sub(number, named, text) for name, text in without_places.items()}


@pytest.fixture
def owned(postgres: PostgreSQL) -> Iterator[Session]:
    """A superuser's session in a database whose schema amqp holds the functions of its owner."""
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE owned; ".strip())
        admin.execute("CREATE ROLE schema_owner")
        try:
            with open_session(postgres.dsn("owned")) as session:
                yield session
        finally:
            admin.execute("DROP DATABASE owned WITH (FORCE)")
            admin.execute("DROP ROLE schema_owner")


def use(session: Session) -> None:
    """What a superuser does: none of the planted functions runs."""
    put(session, headers={"a": "x" * 300, "CC": ["a"]}, ordering_key="k", priority=3)
    session.execute(
        """CREATE TABLE public.orders (id integer, note text);
           CREATE TRIGGER row AFTER INSERT ON public.orders FOR EACH ROW
           EXECUTE FUNCTION amqp.publish_change_outbox('1', 'e', '{table}.{new.id}');
           CREATE TRIGGER properties AFTER INSERT ON public.orders FOR EACH ROW
           EXECUTE FUNCTION amqp.publish_change_outbox('1', 'e', '', '{"priority": 5}');
           INSERT INTO public.orders VALUES (1, 'a')"""
    )
    session.execute("SELECT * FROM amqp.outbox_status()")
    session.execute(
        "SELECT amqp_inner.outbox_lock(1), amqp_inner.outbox_note(1, 'x'),"
        " amqp_inner.outbox_wake(1)"
    )
    session.execute(
        "SELECT * FROM amqp_inner.outbox_due(1, NULL::bigint, -1::bigint, 10, 1000::bigint)"
    )
    session.execute(
        "SELECT amqp_inner.outbox_settle(1, '{1}', ARRAY['a'], '{2}', ARRAY['b'], '{busy}', '{no}')"
    )
    session.execute("SELECT amqp.retry_dead_letters(), amqp.discard_dead_letters()")
    session.execute("SELECT amqp_inner.outbox_compact()")
    session.execute("INSERT INTO amqp.broker (host) VALUES ('h')")
    session.execute(
        """CREATE FUNCTION public.f(amqp.message) RETURNS integer RETURN 1;
           INSERT INTO amqp.consumer (name, broker_id, queue, target_table, on_conflict)
           VALUES ('ignored', 1, 'q', 'public.orders', 'ignore');
           INSERT INTO amqp.consumer (name, broker_id, queue, target_table, columns, deduplicate_by)
           VALUES ('orders', 1, 'q', 'public.orders',
                   '{"id": "body.a.0", "note": "mqtt_topic[2]"}', 'body.a');
           INSERT INTO amqp.consumer (name, broker_id, queue, target_function, stream_offset)
           VALUES ('calls', 1, 'q', 'public.f', '2026-11-01');
           INSERT INTO amqp.influxdb (name, url, database) VALUES ('i', 'http://h:1', 'd');
           INSERT INTO amqp.consumer (name, broker_id, queue, influxdb, measurement)
           VALUES ('points', 1, 'q', 'i', 'm');
           UPDATE amqp.consumer SET enabled = true"""
    )
    session.execute(
        "SELECT amqp_inner.consumer_plan(c, false), amqp_inner.inbox_take(c.name)"
        " FROM amqp.consumer AS c"
    )
    session.execute("SELECT amqp.rewind('calls', 1), amqp.rewind('calls', now())")
    session.execute("SELECT amqp_inner.inbox_forget('orders', '1 day', 10), amqp.inbox_status()")
    session.execute("SELECT amqp.retry_dead_messages('a'), amqp.discard_dead_messages('a')")


def test_create_extension_in_a_schema_that_holds_them(owned: Session, database: str) -> None:
    owned.execute("CREATE SCHEMA amqp")
    plant(owned)
    owned.execute("CREATE EXTENSION pg_amqp_py CASCADE")
    with open_session(database) as clean:
        assert definitions(owned) == definitions(clean)
    use(owned)


def test_alter_extension_update_for_an_owner(owned: Session, database: str) -> None:
    create_version(owned, "1.1.0")
    owned.execute("ALTER SCHEMA amqp OWNER TO schema_owner")
    owned.execute("SET SESSION AUTHORIZATION schema_owner")
    plant(owned)
    owned.execute("RESET SESSION AUTHORIZATION")
    owned.execute("ALTER EXTENSION pg_amqp_py UPDATE")
    with open_session(database) as clean:
        assert definitions(owned) == definitions(clean)
    use(owned)


@pytest.mark.parametrize("schema", ["amqp", "amqp_inner"])
def test_create_extension_refuses_a_schema_of_somebody_else(owned: Session, schema: str) -> None:
    owned.execute(f"CREATE SCHEMA {schema} AUTHORIZATION schema_owner".encode())
    with pytest.raises(errors.InsufficientPrivilege, match="belongs to another role") as raised:
        owned.execute("CREATE EXTENSION pg_amqp_py CASCADE")
    hint = str(raised.value.diag.message_hint)
    assert hint.startswith(f"ALTER SCHEMA {schema} OWNER TO CURRENT_USER")


@pytest.mark.parametrize(
    "script", sorted((PROJECT / "sql").glob("extension/upgrades/*-before.sql"))
)
def test_every_upgrade_pins_the_path_first(script: Path) -> None:
    statements = re.sub(r"^(--|\\).*", "", script.read_text(), flags=re.M).split(";")
    assert "set_config('search_path', 'pg_catalog, pg_temp', true)" in statements[0]


def test_an_update_runs_nothing_of_the_owner_of_a_table(owned: Session) -> None:
    create_version(owned, "1.1.0")
    owned.execute(
        """ALTER SCHEMA amqp OWNER TO schema_owner; ALTER TABLE amqp.outbox OWNER TO schema_owner;
           CREATE FUNCTION amqp.f() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN ALTER ROLE schema_owner SUPERUSER; RETURN OLD; END';
           CREATE TRIGGER t BEFORE DELETE ON amqp.outbox FOR EACH ROW EXECUTE FUNCTION amqp.f();
           INSERT INTO amqp.outbox (broker_id, priority) VALUES (1, 300)"""
    )
    with pytest.raises(errors.InsufficientPrivilege, match="has a trigger"):
        owned.execute("ALTER EXTENSION pg_amqp_py UPDATE")
    owned.execute("DROP TRIGGER t ON amqp.outbox")
    owned.execute("ALTER EXTENSION pg_amqp_py UPDATE")
    owner = "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'amqp.outbox_lease'::regclass"
    assert owned.execute(owner).fetchone() == ("schema_owner",)
