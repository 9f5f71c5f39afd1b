"""The schema and the table in the hands of a role that is no superuser."""

from __future__ import annotations

from contextlib import suppress

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg.conninfo import conninfo_to_dict

from support.queues import take
from support.roles import OPEN, role_fixtures
from support.sessions import Report, Session, open_session

session, role, publisher, broker_id = role_fixtures()


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
    with open_session(database, role=owner) as app:
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
    assert len(take(channel, "events", 2)) == 2


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
    with open_session(database, role=owner) as attacker:
        attacker.run(ATTACK)
        attacker.run(STRIKES[strike])
        use_everything(attacker, broker_id)
    # In a session that has used the extension before, and in a new one.
    use_everything(session, broker_id)
    with open_session(database) as other:
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
    with open_session(database, role=owner) as attacker:
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
            AS $$ SELECT attack.strike('change'), attack.strike_pure('change'); SELECT true $$;
            CREATE FUNCTION amqp.mqtt_topic(text) RETURNS text LANGUAGE sql
            AS $$ SELECT attack.strike('topic'), attack.strike_pure('topic'); SELECT 't' $$"""
        )
    with open_session(database) as superuser:
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
        # Who calls these by their names is told.
        for call in ("publish_outbox(1, 'e', 'k', 'x')", "publish_outbox_mqtt(1, 't', 'x')"):
            assert superuser.error(f"SELECT former.{call}").sqlstate == "55000"
        insert = "INSERT INTO former.outbox (broker_id, routing_key, retain) VALUES (1, 't', true)"
        superuser.run(insert)
    assert session.value("SELECT count(*) FROM former.outbox") == 7
    assert session.run("SELECT DISTINCT what FROM attack.log WHERE super") == []
    assert session.run("SELECT FROM pg_roles WHERE rolname = 'conquered'") == []


def test_owner_without_create_on_the_database_cannot_put_another_schema_in_place(
    database: str, owner: str
) -> None:
    with open_session(database, role=owner) as attacker:
        assert attacker.error("ALTER SCHEMA amqp RENAME TO former").sqlstate == "42501"


def test_attack_is_seen_where_there_is_a_hole(database: str, session: Session, owner: str) -> None:
    """The tests above can fail: a function of the attacker run by a superuser is noticed."""
    with open_session(database, role=owner) as attacker:
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
    with open_session(database, role=publisher) as somebody:
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
    with open_session(database, role=publisher) as somebody:
        somebody.run("SET statement_timeout = '200ms'")
        assert somebody.error(OPEN["publish"], broker_id).sqlstate == "57014"
        assert somebody.value("SELECT current_user") == publisher
        assert somebody.error("CREATE ROLE x SUPERUSER").sqlstate == "42501"
        session.run("ROLLBACK")
        somebody.run("SET statement_timeout = 0")
        somebody.run(OPEN["publish"], broker_id)


def test_an_old_snapshot_permits_one_transaction(
    database: str, session: Session, broker_id: int
) -> None:
    """It shows the schema that has another name by now."""
    publish = "SELECT amqp_inner.publish_change(%s, 'events', 'key', '1')"
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
    session.run("SELECT 1")
    with open_session(database) as owner:
        owner.run("ALTER SCHEMA amqp RENAME TO former")
        session.run("SET LOCAL amqp.capture = on")
        session.run(publish, broker_id)
        session.run("COMMIT")
        error = session.error(publish, broker_id)
        assert error.sqlstate == "55000"
        assert 'no longer named "amqp"' in error.message
