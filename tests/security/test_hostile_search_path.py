"""Functions and operators that somebody has put in the way."""

from __future__ import annotations

from pika.adapters.blocking_connection import BlockingChannel

from servers.postgres import PostgreSQL
from support.fix_servers import VHost
from support.queues import declare, take
from support.roles import CLOSED, OPEN, role_fixtures
from support.sessions import Session, open_session

session, role, publisher, broker_id = role_fixtures()


HOSTILE = """
CREATE SCHEMA hostile;
GRANT ALL ON SCHEMA hostile TO PUBLIC;
CREATE TABLE hostile.log (what text, who text);
GRANT ALL ON hostile.log TO PUBLIC;
CREATE FUNCTION hostile.spy(what text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN INSERT INTO hostile.log VALUES (what, current_user); RETURN true; END $$;
CREATE FUNCTION hostile.eq_text(text, text) RETURNS boolean LANGUAGE sql
AS $$ SELECT NOT hostile.spy('= text') $$;
CREATE FUNCTION hostile.eq_name(name, name) RETURNS boolean LANGUAGE sql
AS $$ SELECT NOT hostile.spy('= name') $$;
CREATE FUNCTION hostile.eq_int(int, int) RETURNS boolean LANGUAGE sql
AS $$ SELECT NOT hostile.spy('= int') $$;
CREATE FUNCTION hostile.eq_name_text(name, text) RETURNS boolean LANGUAGE sql
AS $$ SELECT NOT hostile.spy('= name text') $$;
CREATE FUNCTION hostile.eq_oid(oid, oid) RETURNS boolean LANGUAGE sql
AS $$ SELECT NOT hostile.spy('= oid') $$;
"""
for _name, _type in (
    ("text", "text, text"),
    ("name", "name, name"),
    ("int", "int, int"),
    ("name_text", "name, text"),
    ("oid", "oid, oid"),
):
    for _operator in ("=", "<>", "<", ">", "||", "->>"):
        _left, _right = _type.split(", ")
        HOSTILE += (
            f"CREATE OPERATOR hostile.{_operator} (FUNCTION = hostile.eq_{_name},"
            f" LEFTARG = {_left}, RIGHTARG = {_right});\n"
        )
HOSTILE += """
CREATE FUNCTION hostile.lower(text) RETURNS text LANGUAGE sql
AS $$ SELECT hostile.spy('lower')::text $$;
CREATE FUNCTION hostile.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql
AS $$ SELECT to_json(hostile.spy('to_jsonb'))::jsonb $$;
CREATE FUNCTION hostile.load_python() RETURNS void LANGUAGE sql
AS $$ SELECT hostile.spy('load_python') $$;
CREATE FUNCTION hostile.to_timestamp(float8) RETURNS timestamptz LANGUAGE sql
AS $$ SELECT hostile.spy('to_timestamp'); SELECT now() $$;
CREATE FUNCTION hostile.format(text, VARIADIC "any") RETURNS text
LANGUAGE internal AS 'text_format';
CREATE FUNCTION hostile.pg_config(OUT name text, OUT setting text) RETURNS SETOF record LANGUAGE sql
AS $$ SELECT 'PKGLIBDIR', '/tmp' || hostile.spy('pg_config') $$;
"""


def test_hostile_search_path_changes_nothing(
    session: Session, database: str, broker_id: int, channel: BlockingChannel, publisher: str
) -> None:
    session.run(HOSTILE)
    with open_session(database, role=publisher) as somebody:
        for relation in (
            "pg_class",
            "pg_namespace",
            "pg_proc",
            "pg_trigger",
            "pg_extension",
            "pg_config",
            "broker",
            "amqp",
        ):
            somebody.run(f"CREATE TEMP TABLE {relation} (oid oid, relname name, relnamespace oid)")
        somebody.run("CREATE TABLE hostile.orders (n int PRIMARY KEY, t text)")
        for event in ("INSERT", "UPDATE", "DELETE"):
            tables = {
                "INSERT": "NEW TABLE AS new_rows",
                "UPDATE": "NEW TABLE AS new_rows OLD TABLE AS old_rows",
                "DELETE": "OLD TABLE AS old_rows",
            }[event]
            for level, referencing in (("ROW", ""), ("STATEMENT", f"REFERENCING {tables}")):
                somebody.run(
                    f"""CREATE TRIGGER {event}_{level} AFTER {event} ON hostile.orders {referencing}
                        FOR EACH {level} EXECUTE FUNCTION
                        amqp.publish_change({broker_id}, 'events', '{{op}}.{{new.n}}')"""
                )
        somebody.run("SET search_path = pg_temp, hostile, pg_catalog")
        for query in OPEN.values():
            if "WHERE" not in query:
                somebody.run(query, broker_id)
        somebody.run("SELECT * FROM amqp.status()")
        somebody.run("BEGIN")
        somebody.run(
            "SELECT amqp.publish(%s, 'events', 'k', 'x', \"timestamp\" => now())", broker_id
        )
        somebody.run("SELECT * FROM amqp.pending()")
        somebody.run("COMMIT")
        somebody.run("INSERT INTO hostile.orders VALUES (1, 'a')")
        somebody.run("UPDATE hostile.orders SET t = 'b'")
        somebody.run("DELETE FROM hostile.orders")
    bodies = take(channel, "events", 9)
    assert len(bodies) == 9
    assert sum('"n": 1' in body or '"n" : 1' in body for body in bodies) == 6
    assert session.run("SELECT * FROM hostile.log") == []
    # Whatever does not qualify its names would have been caught.
    session.run("SET search_path = hostile, pg_catalog")
    session.run("SELECT 'a'::text = 'a'::text")
    session.run("RESET search_path")
    assert session.run("SELECT what FROM hostile.log") == [("= text",)]


def test_hostile_search_path_under_a_superuser(
    session: Session, database: str, broker: VHost, channel: BlockingChannel, role: str
) -> None:
    """What anybody may have put into a schema that a superuser looks into first."""
    declare(channel)
    session.run(HOSTILE)
    for query in (
        "CREATE TABLE hostile.pg_class (oid oid)",
        "CREATE TABLE hostile.broker (broker_id int)",
    ):
        session.run(query)
    with open_session(database) as root:
        root.run("SET search_path = hostile, pg_catalog")
        broker_id = root.value("SELECT amqp.add_broker($1)".replace("$1", "%s"), broker.url())
        for query in OPEN.values():
            if "WHERE" not in query:
                root.run(query, broker_id)
        for function, query in CLOSED.items():
            if "exchange_bind" not in function and "exchange_unbind" not in function:
                root.run(query.replace("+ %s", ", %s"), broker_id)
        root.run("RESET search_path")
        assert root.run("SELECT * FROM hostile.log") == []


def test_create_extension_under_a_hostile_search_path(
    postgres: PostgreSQL, session: Session
) -> None:
    session.run("DROP EXTENSION pg_amqp_py")
    session.run(HOSTILE)
    session.run("SET search_path = hostile, pg_catalog")
    session.run("CREATE EXTENSION pg_amqp_py")
    session.run("RESET search_path")
    assert session.run("SELECT * FROM hostile.log") == []
