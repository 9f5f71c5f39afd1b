"""Who may do what, and that nobody becomes more than he is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from servers.postgres import PostgreSQL, bindir
from servers.processes import wait_for
from support.failing import LIMIT, Report, Session, declare, drain, numbers_in
from support.fix_servers import Broker

_numbers = count(1)


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    """A superuser's session."""
    with Session(database) as session:
        yield session


@pytest.fixture
def role(session: Session) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    name = f"somebody_{next(_numbers)}"
    session.run(f"CREATE ROLE {name} LOGIN")
    yield name
    # A backend that ends removes its temporary tables: not while we drop what the role owns.
    wait_for(
        lambda: (
            not session.run(
                """SELECT FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()
                 AND backend_type = 'client backend'
               UNION ALL SELECT FROM pg_class WHERE relpersistence = 't'"""
            )
        ),
        LIMIT,
        "the role's sessions to end",
    )
    session.run(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def publisher(session: Session, role: str) -> str:
    """A role that may publish."""
    session.run(f"GRANT USAGE ON SCHEMA amqp TO {role}")
    return role


@pytest.fixture
def broker_id(session: Session, broker: Broker, channel: BlockingChannel) -> int:
    """The test's broker, with exchange and queue events."""
    declare(channel)
    return session.add_broker(broker.url())


# ---- The gate ----

OPEN = {
    "publish": "SELECT amqp.publish(%s, 'events', 'key', '1')",
    "autonomous_publish": "SELECT amqp.autonomous_publish(%s, 'events', 'key', '1')",
    "disconnect": "SELECT amqp.disconnect(%s)",
    "ping": "SELECT amqp.ping(%s)",
    "status": "SELECT amqp.status() WHERE %s > 0",
    "pending": "SELECT amqp.pending() WHERE %s > 0",
    "exchange_declare": "SELECT amqp.exchange_declare(%s, 'events', 'topic', false, true)",
}
CLOSED = {
    "add_broker(text)": "SELECT amqp.add_broker('amqp://other') + %s",
    "publish_outbox_batch(int, int)": "SELECT amqp.publish_outbox_batch(%s)",
    "exchange_delete(int, text, bool)": "SELECT amqp.exchange_delete(%s, 'other')",
    "exchange_bind(int, text, text, text, jsonb)": "SELECT amqp.exchange_bind(%s, 'e2', 'events')",
    "exchange_unbind(int, text, text, text, jsonb)": (
        "SELECT amqp.exchange_unbind(%s, 'e2', 'events')"
    ),
    "queue_declare(int, text, bool, bool, bool, bool, jsonb)": "SELECT amqp.queue_declare(%s, 'q')",
    "queue_bind(int, text, text, text, jsonb)": "SELECT amqp.queue_bind(%s, 'events', 'events')",
    "queue_unbind(int, text, text, text, jsonb)": (
        "SELECT amqp.queue_unbind(%s, 'events', 'events', 'x')"
    ),
    "queue_purge(int, text)": "SELECT amqp.queue_purge(%s, 'events')",
    "queue_delete(int, text, bool, bool)": "SELECT amqp.queue_delete(%s, 'other')",
}
TABLE = [
    "SELECT * FROM amqp.broker",
    "SELECT password FROM amqp.broker",
    "INSERT INTO amqp.broker (host) VALUES ('x')",
    "UPDATE amqp.broker SET host = 'x'",
    "DELETE FROM amqp.broker",
    "TRUNCATE amqp.broker",
    "SELECT nextval('amqp.broker_broker_id_seq')",
    "COPY amqp.broker TO STDOUT",
]


def test_role_with_nothing_may_do_nothing(
    database: str, broker_id: int, channel: BlockingChannel, role: str
) -> None:
    with Session(database, role=role) as nobody:
        for query in [*OPEN.values(), *CLOSED.values()]:
            assert nobody.error(query, broker_id).sqlstate == "42501"
        for query in TABLE:
            assert nobody.error(query).sqlstate == "42501"
        nobody.run("CREATE TEMP TABLE t (n int)")
        create = f"""CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW
                     EXECUTE FUNCTION amqp.publish_change({broker_id}, 'events')"""
        assert nobody.error(create).sqlstate == "42501"
    assert drain(channel, "events") == []


def test_usage_on_the_schema_is_the_right_to_publish(
    database: str, broker_id: int, channel: BlockingChannel, publisher: str
) -> None:
    with Session(database, role=publisher) as somebody:
        for query in OPEN.values():
            somebody.run(query, broker_id)
        somebody.run("CREATE TEMP TABLE t (n int)")
        somebody.run(
            f"""CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW
                EXECUTE FUNCTION amqp.publish_change({broker_id}, 'events', 'key')"""
        )
        somebody.run("INSERT INTO t VALUES (1)")
        assert len(drain(channel, "events", 3)) == 3
        # The rest is closed, and stays so in a session that has published.
        for query in TABLE:
            assert somebody.error(query).sqlstate == "42501"
        for query in CLOSED.values():
            assert somebody.error(query, broker_id).sqlstate == "42501"
        assert somebody.warnings() == []


@pytest.mark.parametrize("function", CLOSED)
def test_execute_alone_opens_a_closed_function(
    session: Session,
    database: str,
    broker_id: int,
    channel: BlockingChannel,
    publisher: str,
    function: str,
) -> None:
    channel.exchange_declare("e2", "fanout")
    session.run(f"GRANT EXECUTE ON FUNCTION amqp.{function} TO {publisher}")
    with Session(database, role=publisher) as somebody:
        somebody.run(CLOSED[function], broker_id)
        for other in CLOSED:
            if other != function:
                assert somebody.error(CLOSED[other], broker_id).sqlstate == "42501"
        for query in TABLE:
            assert somebody.error(query).sqlstate == "42501"


def test_trigger_of_another_owner(
    session: Session, database: str, broker_id: int, channel: BlockingChannel, publisher: str
) -> None:
    session.run("CREATE TABLE orders (n int)")
    session.run(
        f"""CREATE TRIGGER x AFTER INSERT ON orders FOR EACH ROW
            EXECUTE FUNCTION amqp.publish_change({broker_id}, 'events')"""
    )
    session.run(f"GRANT INSERT ON orders TO {publisher}")
    with Session(database, role=publisher) as somebody:
        somebody.run("INSERT INTO orders VALUES (1)")
    assert len(drain(channel, "events", 1)) == 1


def test_rights_are_those_of_the_moment(
    session: Session, broker_id: int, channel: BlockingChannel, publisher: str
) -> None:
    """One session, several roles: what the superuser did opens nothing for the others."""
    session.publish(broker_id, "events", [1])
    session.run(f"SET ROLE {publisher}")
    session.publish(broker_id, "events", [2])
    assert session.error("SELECT password FROM amqp.broker").sqlstate == "42501"
    assert session.value("SELECT current_user") == publisher
    session.run("RESET ROLE")
    session.run(f"REVOKE USAGE ON SCHEMA amqp FROM {publisher}")
    session.run(f"SET ROLE {publisher}")
    assert session.error(OPEN["publish"], broker_id).sqlstate == "42501"
    session.run("RESET ROLE")
    assert numbers_in(channel, "events", 2) == [1, 2]


INNER = {
    "publish_change": "SELECT amqp_python.publish_change(%s, 'events', 'key', '1')",
    "publish_outbox_change": "SELECT amqp_python.publish_outbox_change(%s, 'events', 'key', '1')",
}


def test_inner_functions_are_no_way_around_usage(
    session: Session, database: str, broker_id: int, channel: BlockingChannel, role: str
) -> None:
    with Session(database, role=role) as nobody:
        for query in INNER.values():
            assert nobody.error(query, broker_id).sqlstate == "42501"
        # That is no failure of publishing, to be tolerated.
        nobody.run("SET amqp.on_failure = warn; SET amqp.capture = on")
        assert nobody.error(INNER["publish_change"], broker_id).sqlstate == "42501"
        assert nobody.warnings() == []
        nobody.run("RESET ALL")
        session.run(f"GRANT USAGE ON SCHEMA amqp TO {role}")
        for query in INNER.values():
            nobody.run(query, broker_id)
        session.run(f"REVOKE USAGE ON SCHEMA amqp FROM {role}")
        for query in INNER.values():
            assert nobody.error(query, broker_id).sqlstate == "42501"
    assert drain(channel, "events", 1) == ["1"]
    assert session.value("SELECT count(*) FROM amqp.outbox") == 1


@pytest.mark.parametrize("function", INNER)
def test_rights_of_triggers_are_those_of_the_moment(
    session: Session,
    database: str,
    broker_id: int,
    channel: BlockingChannel,
    publisher: str,
    function: str,
) -> None:
    """One session, two roles; rights that come and go with a transaction, and within one."""
    trigger = {"publish_change": "publish_change", "publish_outbox_change": "publish_change_outbox"}
    session.run("CREATE TABLE orders (n int); GRANT INSERT ON orders TO PUBLIC")
    session.run(
        f"""CREATE TRIGGER x AFTER INSERT ON orders FOR EACH ROW
            EXECUTE FUNCTION amqp.{trigger[function]}({broker_id}, 'events')"""
    )
    insert = "INSERT INTO orders VALUES (1)"
    as_publisher, as_nobody = f"SET LOCAL ROLE {publisher}", "SET LOCAL ROLE pg_monitor"

    session.run("BEGIN")
    session.run(insert)
    session.run(as_publisher)
    session.run(insert)
    session.run(as_nobody)
    assert session.error(insert).sqlstate == "42501"
    session.run("ROLLBACK")

    # A right that was never given.
    session.run("BEGIN; GRANT USAGE ON SCHEMA amqp TO pg_monitor")
    session.run(as_nobody)
    session.run(insert)
    session.run("ROLLBACK; BEGIN; SAVEPOINT s; GRANT USAGE ON SCHEMA amqp TO pg_monitor")
    session.run(as_nobody)
    session.run(insert)
    session.run("ROLLBACK TO s")
    session.run(as_nobody)
    assert session.error(insert).sqlstate == "42501"
    session.run("ROLLBACK; BEGIN")
    session.run(as_nobody)
    assert session.error(insert).sqlstate == "42501"
    session.run("ROLLBACK")

    # One that somebody else takes away meanwhile.
    with Session(database, role=publisher) as somebody:
        somebody.run("BEGIN")
        somebody.run(insert)
        session.run(f"REVOKE USAGE ON SCHEMA amqp FROM {publisher}")
        assert somebody.error(insert).sqlstate == "42501"
        somebody.run("ROLLBACK")
    assert drain(channel, "events") == []
    assert session.value("SELECT count(*) FROM amqp.outbox") == 0


# ---- The catalogue ----


def test_functions_are_volatile_and_parallel_unsafe(session: Session) -> None:
    rows = session.run(
        """SELECT p.oid::regprocedure::text, provolatile, proparallel, proleakproof
           FROM pg_depend JOIN pg_extension e ON refobjid = e.oid JOIN pg_proc p ON objid = p.oid
           WHERE deptype = 'e' AND extname = 'pg_amqp_py' AND classid = 'pg_proc'::regclass"""
    )
    assert len(rows) > 20
    pure = {
        f"{schema}.change_{what}"
        for schema in ("amqp", "amqp_python")
        for what in ("routing_key", "properties")
    } | {"amqp_python.changed_rows_query"}
    for function, volatility, parallel, leakproof in rows:
        assert not leakproof
        if function.startswith("amqp.outbox_due("):
            assert (volatility, parallel) == ("s", "u")
        elif function.partition("(")[0] not in pure:
            assert (volatility, parallel) == ("v", "u"), function


def test_security_definer_functions_pin_the_search_path(session: Session) -> None:
    assert not session.run(
        """SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
           WHERE nspname = 'amqp' AND prosecdef
             AND NOT COALESCE('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)"""
    )


def test_every_object_has_a_comment(session: Session) -> None:
    rows = session.run(
        """WITH member AS (
               SELECT classid, objid FROM pg_depend JOIN pg_extension e ON refobjid = e.oid
               WHERE deptype = 'e' AND extname = 'pg_amqp_py')
           SELECT pg_describe_object(classid, objid, 0),
                  obj_description(objid, classid::regclass::text::name)
           FROM member
           -- Of the sequence's and the row types' own making nobody speaks.
           WHERE classid <> 'pg_type'::regclass
             AND NOT EXISTS (SELECT FROM pg_class c WHERE classid = 'pg_class'::regclass
                             AND c.oid = objid AND relkind = 'S')
           UNION ALL
           SELECT format('column %s.%s', attrelid::regclass, attname),
                  col_description(attrelid, attnum)
           FROM member JOIN pg_attribute ON attrelid = objid AND classid = 'pg_class'::regclass
           -- Those of the outbox are parameters of publish_outbox(), or of no use to anybody.
           WHERE attrelid = 'amqp.broker'::regclass AND attnum > 0 AND NOT attisdropped"""
    )
    assert len(rows) > 30
    assert [name for name, comment in rows if not comment and name != "schema amqp"] == []
    assert session.value(
        "SELECT obj_description(oid) FROM pg_extension WHERE extname = 'pg_amqp_py'"
    )


def test_no_table_is_granted_to_anybody(session: Session) -> None:
    rows = session.run(
        """SELECT relname, grantee::regrole::text FROM pg_class, aclexplode(relacl)
           WHERE relnamespace = 'amqp'::regnamespace AND grantee <> relowner"""
    )
    assert rows == []


# ---- Hostile surroundings ----

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
    with Session(database, role=publisher) as somebody:
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
    bodies = drain(channel, "events", 9)
    assert len(bodies) == 9
    assert sum('"n": 1' in body or '"n" : 1' in body for body in bodies) == 6
    assert session.run("SELECT * FROM hostile.log") == []
    # Whatever does not qualify its names would have been caught.
    session.run("SET search_path = hostile, pg_catalog")
    session.run("SELECT 'a'::text = 'a'::text")
    session.run("RESET search_path")
    assert session.run("SELECT what FROM hostile.log") == [("= text",)]


def test_hostile_search_path_under_a_superuser(
    session: Session, database: str, broker: Broker, channel: BlockingChannel, role: str
) -> None:
    """What anybody may have put into a schema that a superuser looks into first."""
    declare(channel)
    session.run(HOSTILE)
    for query in (
        "CREATE TABLE hostile.pg_class (oid oid)",
        "CREATE TABLE hostile.broker (broker_id int)",
    ):
        session.run(query)
    with Session(database) as root:
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


# ---- The schema and the table in the hands of a role that is no superuser ----

# Runs whenever the attacker can make the extension run something of his. It takes what it can get.
ATTACK = """
CREATE TABLE attack.log (what text, who text, super boolean);
GRANT ALL ON attack.log TO PUBLIC;
CREATE FUNCTION attack.strike(what text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO attack.log
    SELECT what, current_user, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user;
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RETURN true;
END $$;
CREATE FUNCTION attack.strike_pure(what text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    BEGIN
        EXECUTE 'CREATE ROLE conquered SUPERUSER';
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
        RAISE EXCEPTION 'conquered by %', what;
    END IF;
    RETURN true;
END $$;
CREATE FUNCTION attack.strike_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM attack.strike('trigger'); PERFORM attack.strike_pure('trigger'); RETURN NEW; END $$;
GRANT USAGE ON SCHEMA attack TO PUBLIC;
"""

STRIKES = {
    "view": """
        ALTER TABLE amqp.broker RENAME TO hidden;
        CREATE VIEW amqp.broker AS SELECT * FROM amqp.hidden
        WHERE attack.strike('view') AND attack.strike_pure('view')""",
    "materialized view": """
        ALTER TABLE amqp.broker RENAME TO hidden;
        CREATE MATERIALIZED VIEW amqp.broker AS SELECT * FROM amqp.hidden""",
    "partitioned table": """
        ALTER TABLE amqp.broker RENAME TO hidden;
        CREATE TABLE amqp.broker (LIKE amqp.hidden) PARTITION BY LIST (attack.strike_pure(host))""",
    "another table": """
        ALTER TABLE amqp.broker RENAME TO hidden;
        CREATE TABLE amqp.broker (LIKE amqp.hidden INCLUDING ALL);
        INSERT INTO amqp.broker SELECT * FROM amqp.hidden""",
    "rules": """
        CREATE RULE a AS ON INSERT TO amqp.broker DO ALSO
        SELECT attack.strike('rule'), attack.strike_pure('rule');
        CREATE RULE b AS ON UPDATE TO amqp.broker DO ALSO
        SELECT attack.strike('rule'), attack.strike_pure('rule')""",
    "policies": """
        ALTER TABLE amqp.broker ENABLE ROW LEVEL SECURITY;
        ALTER TABLE amqp.broker FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON amqp.broker
        USING (attack.strike('policy') AND attack.strike_pure('policy'))""",
    "domain": """
        CREATE DOMAIN attack.host AS text
        CHECK (attack.strike('domain') AND attack.strike_pure('domain'));
        ALTER TABLE amqp.broker ALTER host TYPE attack.host""",
    "composite": """
        CREATE TYPE attack.pair AS (a text, b int);
        CREATE FUNCTION attack.to_text(attack.pair) RETURNS text LANGUAGE plpgsql IMMUTABLE
        AS $$ BEGIN PERFORM attack.strike_pure('cast'); RETURN ($1).a; END $$;
        CREATE CAST (attack.pair AS text) WITH FUNCTION attack.to_text(attack.pair) AS IMPLICIT;
        ALTER TABLE amqp.broker ALTER username TYPE attack.pair
        USING row(username, 1)::attack.pair""",
    "enum": """
        CREATE TYPE attack.flag AS ENUM ('guest', 'other');
        CREATE FUNCTION attack.to_text(attack.flag) RETURNS text LANGUAGE plpgsql IMMUTABLE
        AS $$ BEGIN PERFORM attack.strike_pure('cast'); RETURN 'guest'; END $$;
        CREATE CAST (attack.flag AS text) WITH FUNCTION attack.to_text(attack.flag) AS IMPLICIT;
        ALTER TABLE amqp.broker ALTER username TYPE attack.flag USING username::attack.flag""",
    "key of another type": """
        CREATE DOMAIN attack.number AS int CHECK (attack.strike_pure('key'));
        ALTER TABLE amqp.broker ALTER broker_id DROP DEFAULT, ALTER broker_id TYPE attack.number;
        ALTER TABLE amqp.broker ALTER broker_id SET DEFAULT 99;
        CREATE FUNCTION attack.eq(attack.number, int) RETURNS boolean LANGUAGE sql IMMUTABLE
        AS $$ SELECT attack.strike_pure('eq') $$;
        CREATE OPERATOR attack.= (FUNCTION = attack.eq, LEFTARG = attack.number, RIGHTARG = int)""",
    "key with a cast": """
        CREATE TYPE attack.number AS (n int);
        CREATE FUNCTION attack.to_int(attack.number) RETURNS int LANGUAGE plpgsql IMMUTABLE
        AS $$ BEGIN PERFORM attack.strike_pure('cast'); RETURN ($1).n; END $$;
        CREATE CAST (attack.number AS int) WITH FUNCTION attack.to_int(attack.number) AS IMPLICIT;
        ALTER TABLE amqp.broker ALTER broker_id DROP DEFAULT;
        ALTER TABLE amqp.broker ALTER broker_id TYPE attack.number
        USING row(broker_id)::attack.number""",
    "expression index": """
        CREATE INDEX i ON amqp.broker ((attack.strike_pure(host)));
        CREATE INDEX j ON amqp.broker (host) WHERE attack.strike_pure(host);
        ANALYZE amqp.broker""",
    "statistics": """
        CREATE STATISTICS attack.s ON (attack.strike_pure(host)), host FROM amqp.broker;
        ANALYZE amqp.broker""",
    "check": """
        ALTER TABLE amqp.broker ADD CHECK (attack.strike_pure(host) AND broker_id > 0)""",
    "triggers": """
        CREATE TRIGGER a BEFORE INSERT OR UPDATE ON amqp.broker
        FOR EACH ROW EXECUTE FUNCTION attack.strike_trigger();
        CREATE TRIGGER b AFTER INSERT OR UPDATE ON amqp.broker
        FOR EACH STATEMENT EXECUTE FUNCTION attack.strike_trigger()""",
    "deferred trigger": """
        CREATE CONSTRAINT TRIGGER a AFTER INSERT ON amqp.broker DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION attack.strike_trigger()""",
    "defaults": """
        ALTER TABLE amqp.broker ALTER ssl_verify_peer SET DEFAULT attack.strike('default');
        ALTER TABLE amqp.broker ALTER ssl_verify_hostname SET DEFAULT
        attack.strike_pure('default')""",
    "child": """
        CREATE TABLE attack.child (CHECK (attack.strike_pure(host))) INHERITS (amqp.broker);
        INSERT INTO attack.child SELECT * FROM amqp.broker;
        CREATE RULE r AS ON INSERT TO attack.child DO INSTEAD SELECT attack.strike('child')""",
    "generated column": """
        ALTER TABLE amqp.broker ADD extra boolean GENERATED ALWAYS AS (
        attack.strike_pure(host)) STORED""",
    "overload of load_python": """
        CREATE FUNCTION amqp.load_python(x int DEFAULT 1) RETURNS void LANGUAGE sql
        AS $$ SELECT attack.strike('overload'), attack.strike_pure('overload') $$""",
    "overload of publish": """
        CREATE FUNCTION amqp.publish(a int, b text, c text, d text, content_type text)
        RETURNS boolean
        LANGUAGE sql
        AS $$ SELECT attack.strike('publish'), attack.strike_pure('publish'); SELECT true $$""",
    "overload of publish with a better match": """
        CREATE FUNCTION amqp.publish(a anyelement, b text, c text, d text,
        content_type text) RETURNS boolean
        LANGUAGE sql
        AS $$ SELECT attack.strike('publish'), attack.strike_pure('publish'); SELECT true $$;
        CREATE FUNCTION amqp.publish(a int, b text, c text, d text,
            x int DEFAULT 1, content_type text DEFAULT '')
        RETURNS boolean
        LANGUAGE sql
        AS $$ SELECT attack.strike('publish'), attack.strike_pure('publish'); SELECT true $$""",
    "overload of change_routing_key": """
        CREATE FUNCTION amqp.change_routing_key(text, text, text, text, jsonb, jsonb) RETURNS text
        LANGUAGE sql
        AS $$ SELECT attack.strike('key'), attack.strike_pure('key'); SELECT 'x' $$""",
    "overloads of publish_change and publish_outbox_change": """
        CREATE FUNCTION amqp.publish_change(int, text, text, text) RETURNS boolean
        LANGUAGE sql
        AS $$ SELECT attack.strike('change'), attack.strike_pure('change'); SELECT true $$;
        CREATE FUNCTION amqp.publish_outbox_change(int, text, text, json) RETURNS boolean
        LANGUAGE sql
        AS $$ SELECT attack.strike('change'), attack.strike_pure('change'); SELECT true $$""",
}


@pytest.fixture
def owner(session: Session, role: str, publisher: str, broker_id: int) -> str:
    """A role that is no superuser and owns schema and table, as existing installations have it."""
    session.run("CREATE TABLE victim (n int); CREATE TABLE outbox_victim (n int)")
    for number, (event, tables) in enumerate(
        {
            "INSERT": "NEW TABLE AS new_rows",
            "UPDATE": "NEW TABLE AS new_rows OLD TABLE AS old_rows",
            "DELETE": "OLD TABLE AS old_rows",
        }.items()
    ):
        for level, referencing in (("ROW", ""), ("STATEMENT", f"REFERENCING {tables}")):
            session.run(
                f"""CREATE TRIGGER t{number}{level} AFTER {event} ON victim {referencing}
                    FOR EACH {level} EXECUTE FUNCTION
                    amqp.publish_change({broker_id}, 'events', '{{op}}.{{new.n}}')"""
            )
            session.run(
                f"""CREATE TRIGGER t{number}{level} AFTER {event} ON outbox_victim {referencing}
                    FOR EACH {level} EXECUTE FUNCTION
                    amqp.publish_change_outbox({broker_id}, 'events', '{{op}}.{{new.n}}')"""
            )
    session.run(f"ALTER SCHEMA amqp OWNER TO {role}; ALTER TABLE amqp.broker OWNER TO {role}")
    session.run(f"CREATE SCHEMA attack AUTHORIZATION {role}")
    return role


def test_triggers_of_an_owner_that_is_no_superuser_go_on_working(
    database: str, session: Session, broker_id: int, channel: BlockingChannel, owner: str
) -> None:
    with Session(database, role=owner) as app:
        app.run("CREATE TEMP TABLE orders (n int)")
        app.run(
            f"""CREATE TRIGGER x AFTER INSERT ON orders FOR EACH ROW
                EXECUTE FUNCTION amqp.publish_change({broker_id}, 'events')"""
        )
        app.run("INSERT INTO orders VALUES (1)")
        app.publish(broker_id, "events", [2])
        # It is the owner: the table of brokers is its own, and changes count.
        app.run("UPDATE amqp.broker SET vhost = 'elsewhere'")
        assert app.error(OPEN["publish"], broker_id).sqlstate == "08004"
    # The superuser goes on, and so does everybody else.
    session.run("UPDATE amqp.broker SET vhost = (SELECT 'x')")
    assert len(drain(channel, "events", 2)) == 2


def use_everything(session: Session, broker_id: int) -> None:
    """Do what leads into the extension, whatever comes of it; errors are as good as successes."""

    def try_to(query: str, *values: object) -> None:
        failure = ""
        try:
            session.run(query, *values)
        except psycopg.Error as error:
            failure = str(error)
        assert "conquered" not in failure, query

    try_to("SET constraint_exclusion = on")
    for query in OPEN.values():
        try_to(query, broker_id)
    try_to("SELECT amqp.add_broker('amqp://h1,h2')")
    try_to("SELECT * FROM amqp.status()")
    try_to("SELECT amqp.queue_declare(%s, 'q')", broker_id)
    for query in (
        "INSERT INTO public.victim VALUES (1)",
        "UPDATE public.victim SET n = 2",
        "DELETE FROM public.victim",
        "INSERT INTO public.outbox_victim VALUES (1)",
        "UPDATE public.outbox_victim SET n = 2",
        "DELETE FROM public.outbox_victim",
    ):
        try_to(query)


@pytest.mark.parametrize("strike", STRIKES)
def test_owner_does_not_become_superuser(
    database: str, session: Session, broker_id: int, owner: str, strike: str
) -> None:
    if strike.startswith("key"):
        # It would keep the type of the key as it is.
        session.run("ALTER EXTENSION pg_amqp_py DROP FUNCTION amqp.outbox_status()")
        session.run("DROP FUNCTION amqp.outbox_status()")
    with Session(database, role=owner) as attacker:
        attacker.run(ATTACK)
        attacker.run(STRIKES[strike])
        use_everything(attacker, broker_id)
    # In a session that has used the extension before, and in a new one.
    use_everything(session, broker_id)
    with Session(database) as other:
        use_everything(other, broker_id)
        assert other.value("SELECT current_user") == "postgres"
    struck = session.run("SELECT DISTINCT what, who FROM attack.log WHERE NOT super ORDER BY 1")
    if strike in ("rules", "policies", "domain", "triggers", "defaults"):
        # The code did run, with the rights of its author.
        assert [who for _, who in struck] == [owner]
    assert session.run("SELECT DISTINCT what, who FROM attack.log WHERE super") == []
    assert session.run("SELECT FROM pg_roles WHERE rolname = 'conquered'") == []


def test_owner_who_puts_another_schema_in_place_does_not_become_superuser(
    database: str, session: Session, broker_id: int, owner: str
) -> None:
    name = conninfo_to_dict(database)["dbname"]
    session.run(f"GRANT CREATE ON DATABASE {name} TO {owner}")
    publish = "(a int, b text, c text, d text, e int, f text, g text, h text, i boolean, j jsonb,"
    publish += " k text, l int, m text, n text, o timestamptz, p text, q text, r text)"
    with Session(database, role=owner) as attacker:
        attacker.run(ATTACK)
        attacker.run(
            f"""ALTER SCHEMA amqp RENAME TO former;
            CREATE SCHEMA amqp;
            GRANT USAGE ON SCHEMA amqp TO PUBLIC;
            CREATE TABLE amqp.broker (LIKE former.broker INCLUDING ALL);
            INSERT INTO amqp.broker (broker_id, host, port) VALUES (99, '127.0.0.1', 1);
            CREATE FUNCTION attack.seen() RETURNS boolean LANGUAGE sql
            AS $$ SELECT attack.strike('outbox'), attack.strike_pure('outbox'); SELECT true $$;
            CREATE VIEW amqp.outbox AS
            SELECT 99 AS broker_id, NULL::timestamptz AS next_attempt_at WHERE attack.seen();
            CREATE FUNCTION amqp.load_python() RETURNS void LANGUAGE sql
            AS $$ SELECT attack.strike('load'), attack.strike_pure('load') $$;
            CREATE FUNCTION amqp.publish{publish} RETURNS boolean LANGUAGE sql
            AS $$ SELECT attack.strike('publish'), attack.strike_pure('publish'); SELECT true $$;
            CREATE FUNCTION amqp.change_routing_key(text, text, name, name, jsonb, jsonb)
            RETURNS text LANGUAGE sql
            AS $$ SELECT attack.strike('key'), attack.strike_pure('key'); SELECT 'x' $$;
            CREATE FUNCTION amqp.publish_outbox_change(int, text, text, text)
            RETURNS boolean LANGUAGE sql
            AS $$ SELECT attack.strike('outbox'), attack.strike_pure('outbox'); SELECT true $$;
            CREATE FUNCTION amqp.publish_change(int, text, text, text)
            RETURNS boolean LANGUAGE sql
            AS $$ SELECT attack.strike('change'), attack.strike_pure('change'); SELECT true $$"""
        )
    with Session(database) as superuser:
        for query in OPEN.values():
            with suppress(psycopg.Error):
                superuser.run(query.replace("amqp.", "former."), broker_id)
        for query in (
            "INSERT INTO public.victim VALUES (1)",
            "UPDATE public.victim SET n = 2",
            "DELETE FROM public.victim",
            "TRUNCATE public.victim",
        ):
            with suppress(psycopg.Error):
                superuser.run(query)
        assert superuser.error("INSERT INTO public.victim VALUES (1)").sqlstate == "55000"
        superuser.set(on_failure="outbox")
        diverted = superuser.error("SELECT former.publish(99, 'events', 'key', 'x')")
        assert diverted.sqlstate == "55000"
        # Nothing in the way of these: they go to the table that was there when they were created.
        superuser.run("INSERT INTO public.outbox_victim VALUES (1)")
        superuser.run("UPDATE public.outbox_victim SET n = 2")
        superuser.run("DELETE FROM public.outbox_victim")
    assert session.value("SELECT count(*) FROM former.outbox") == 6
    assert session.run("SELECT DISTINCT what FROM attack.log WHERE super") == []
    assert session.run("SELECT FROM pg_roles WHERE rolname = 'conquered'") == []


def test_owner_without_create_on_the_database_cannot_put_another_schema_in_place(
    database: str, owner: str
) -> None:
    with Session(database, role=owner) as attacker:
        assert attacker.error("ALTER SCHEMA amqp RENAME TO former").sqlstate == "42501"


def test_attack_is_seen_where_there_is_a_hole(database: str, session: Session, owner: str) -> None:
    """The tests above can fail: a function of the attacker run by a superuser is noticed."""
    with Session(database, role=owner) as attacker:
        attacker.run(ATTACK)
    session.run("SELECT attack.strike('test')")
    assert session.run("SELECT what, super FROM attack.log") == [("test", True)]
    try:
        error = session.error("SELECT attack.strike_pure('test')")
        assert "conquered by test" in error.message
    finally:
        session.run("DROP ROLE IF EXISTS conquered")


def test_view_in_the_place_of_the_table_is_named(
    database: str, session: Session, broker_id: int, owner: str
) -> None:
    session.run("ALTER TABLE amqp.broker RENAME TO hidden")
    session.run("CREATE VIEW amqp.broker AS SELECT * FROM amqp.hidden")
    report: Report = session.error(OPEN["publish"], broker_id)
    assert report.sqlstate == "42809"
    assert "not an ordinary table" in report.message
    assert session.error("SELECT amqp.add_broker('amqp://h')").sqlstate == "42809"
    session.run("DROP VIEW amqp.broker")
    assert session.error(OPEN["publish"], broker_id).sqlstate == "42P01"
    session.run("ALTER TABLE amqp.hidden RENAME TO broker")
    session.run(OPEN["publish"], broker_id)


def test_publisher_does_not_act_as_the_owner(
    database: str, session: Session, broker_id: int, channel: BlockingChannel, publisher: str
) -> None:
    """Whoever adds a broker by EXECUTE alone does so with the owner's rights, and no others."""
    session.run(f"GRANT EXECUTE ON FUNCTION amqp.add_broker(text) TO {publisher}")
    with Session(database, role=publisher) as somebody:
        somebody.run("SELECT amqp.add_broker('amqp://h1,h2')")
        for _ in range(2):
            assert somebody.run("SELECT current_user, session_user") == [(publisher, publisher)]
            # An error inside must not leave the owner's rights behind.
            somebody.error("SELECT amqp.add_broker('amqp://h1,h1')")
        assert somebody.error("SELECT * FROM amqp.broker").sqlstate == "42501"
        assert somebody.error("CREATE ROLE x SUPERUSER").sqlstate == "42501"
    assert session.value("SELECT count(*) FROM amqp.broker") == 3


def test_cancel_while_acting_as_the_owner(
    database: str, session: Session, broker_id: int, publisher: str
) -> None:
    session.run("BEGIN")
    session.run("LOCK amqp.broker")
    with Session(database, role=publisher) as somebody:
        somebody.run("SET statement_timeout = '200ms'")
        assert somebody.error(OPEN["publish"], broker_id).sqlstate == "57014"
        assert somebody.value("SELECT current_user") == publisher
        assert somebody.error("CREATE ROLE x SUPERUSER").sqlstate == "42501"
        session.run("ROLLBACK")
        somebody.run("SET statement_timeout = 0")
        somebody.run(OPEN["publish"], broker_id)


# ---- Dump, restore, drop, create again ----


def tool(name: str, *arguments: str) -> str:
    """Run one of the server's client programs."""
    completed = subprocess.run(
        [str(bindir() / name), *arguments], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_dump_keeps_brokers_and_their_numbers(
    postgres: PostgreSQL, database: str, session: Session, broker: Broker, channel: BlockingChannel
) -> None:
    declare(channel)
    first = session.add_broker(broker.url())
    session.add_broker("amqps://user:p%40ss@h1,h2/v")
    before = session.run("SELECT * FROM amqp.broker ORDER BY broker_id, host")
    name = f"restored_{next(_numbers)}"
    session.run(f"CREATE DATABASE {name}")
    dsn = postgres.dsn(name)
    try:
        dumped = tool("pg_dump", f"--dbname={database}")
        assert "CREATE TABLE amqp.broker" not in dumped
        file = postgres.folder / f"{name}.sql"
        file.write_text(dumped)
        tool("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-f", str(file))
        with Session(dsn) as restored:
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
    session: Session, broker: Broker, channel: BlockingChannel
) -> None:
    declare(channel)
    for number in (1, 2, 3):
        broker_id = session.add_broker(broker.url())
        session.publish(broker_id, "events", [number])
        session.run("DROP EXTENSION pg_amqp_py")
        assert session.run("SELECT FROM pg_namespace WHERE nspname = 'amqp'") == []
        session.run("CREATE EXTENSION pg_amqp_py")
    assert session.warnings() == []
    assert numbers_in(channel, "events", 3) == [1, 2, 3]


def test_extension_dropped_while_messages_are_pending(
    session: Session, broker_id: int, channel: BlockingChannel
) -> None:
    with session.connection.transaction():
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
    with Session(database, role=role) as somebody:
        assert somebody.error("CREATE EXTENSION pg_amqp_py").sqlstate == "42501"
