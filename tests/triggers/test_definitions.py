"""Triggers that are defined wrongly, and surroundings that are hostile."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from psycopg import errors

from support.changes import (
    LEVELS,
    changes,
    only,
    publish_changes,
    publish_rows,
    publish_statements,
)
from support.messages import Inbox
from support.sessions import Session

# ---- Triggers that are defined wrongly ----


WRONG = {
    "no arguments": ("AFTER INSERT", "", "ROW", "", "22023"),
    "no exchange": ("AFTER INSERT", "", "ROW", "'1'", "22023"),
    "too many arguments": ("AFTER INSERT", "", "ROW", "'1', 'amq.topic', 'a', '{}', 'b'", "22023"),
    "broker is no number": ("AFTER INSERT", "", "ROW", "'one', 'amq.topic'", "22P02"),
    "broker is empty": ("AFTER INSERT", "", "ROW", "'', 'amq.topic'", "22P02"),
    "no such broker": ("AFTER INSERT", "", "ROW", "'99', 'amq.topic'", "42704"),
    "no such exchange": ("AFTER INSERT", "", "ROW", "'1', 'nowhere'", "42704"),
    "before the operation": ("BEFORE INSERT", "", "ROW", "'1', 'amq.topic'", "42P17"),
    "before the statement": ("BEFORE INSERT", "", "STATEMENT", "'1', 'amq.topic'", "42P17"),
    "statement without its rows": (
        "AFTER INSERT",
        "",
        "STATEMENT",
        "'1', 'amq.topic'",
        "42P17",
    ),
    "update without the old rows": (
        "AFTER UPDATE",
        "REFERENCING NEW TABLE AS n",
        "STATEMENT",
        "'1', 'amq.topic'",
        "42P17",
    ),
    "update without the new rows": (
        "AFTER UPDATE",
        "REFERENCING OLD TABLE AS o",
        "STATEMENT",
        "'1', 'amq.topic'",
        "42P17",
    ),
    "delete without its rows": ("AFTER DELETE", "", "STATEMENT", "'1', 'amq.topic'", "42P17"),
}


def test_triggers_that_are_defined_wrongly(session: Session, inbox: Inbox) -> None:
    statements = {
        "INSERT": "INSERT INTO orders VALUES (1)",
        "UPDATE": "UPDATE orders SET id = 1",
        "DELETE": "DELETE FROM orders",
    }
    found = {}
    for name, (when, referencing, level, arguments, sqlstate) in WRONG.items():
        session.execute("CREATE TABLE orders (id integer); INSERT INTO orders VALUES (0)")
        session.execute(
            f"""
            CREATE TRIGGER wrong {when} ON orders {referencing}
            FOR EACH {level} EXECUTE FUNCTION amqp.publish_change({arguments})
            """
        )
        statement = statements[when.split()[1]]
        with pytest.raises(errors.Error) as caught:
            session.execute(statement)
        diagnostic = caught.value.diag
        found[name] = caught.value.sqlstate
        if sqlstate != "42704":
            assert '"wrong"' in str(diagnostic.message_primary)
            assert diagnostic.message_hint or diagnostic.message_detail
        session.execute("DROP TRIGGER wrong ON orders")
        publish_rows(session, "orders")
        session.execute(statement)
        assert len(inbox.drain()) == 1
        session.execute("DROP TABLE orders")
    assert found == {name: sqlstate for name, (*_, sqlstate) in WRONG.items()}


@pytest.mark.parametrize("function", ["publish_change", "publish_change_outbox"])
def test_swapped_arguments_are_told(session: Session, function: str) -> None:
    session.execute(
        f"""
        CREATE TABLE orders (id integer);
        CREATE TRIGGER swapped AFTER INSERT ON orders
        FOR EACH ROW EXECUTE FUNCTION amqp.{function}('events', '1')
        """
    )
    error = session.error("INSERT INTO orders VALUES (1)")
    assert error.sqlstate == "22P02"
    assert error.message == 'trigger "swapped" has "events" for a broker_id'
    assert error.detail == (
        f"The arguments of amqp.{function}() are broker_id, exchange, routing key template and"
        " properties."
    )
    assert error.hint == (
        "The first argument is the broker_id, a number; the second is the exchange."
    )


def test_instead_of_trigger_is_refused(session: Session) -> None:
    session.execute("CREATE VIEW seen AS SELECT 1 AS id")
    session.execute(
        """
        CREATE TRIGGER wrong INSTEAD OF INSERT ON seen
        FOR EACH ROW EXECUTE FUNCTION amqp.publish_change('1', 'amq.topic')
        """
    )
    with pytest.raises(errors.InvalidObjectDefinition):
        session.execute("INSERT INTO seen VALUES (1)")


def test_direct_call_is_refused(session: Session) -> None:
    with pytest.raises(errors.FeatureNotSupported):
        session.execute("SELECT amqp.publish_change()")


# ---- Surroundings that are hostile ----


@LEVELS
def test_hostile_search_path_changes_nothing(session: Session, inbox: Inbox, level: str) -> None:
    session.execute(
        """
        CREATE TABLE public.orders (id integer, name text);
        CREATE SCHEMA evil
        """
    )
    publish_changes(session, "public.orders", level, "{table}.{op}.{new.name}")
    # Everything that a name without its schema could mean, and operators too.
    session.execute(
        """
        CREATE FUNCTION evil.trap(anyelement, anyelement) RETURNS boolean LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
        CREATE FUNCTION evil.trap(jsonb, text) RETURNS text LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
        CREATE FUNCTION evil.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql
        AS $$ SELECT '"evil"'::jsonb $$;
        CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
        CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql
        AS $$ SELECT 'evil' $$;
        CREATE FUNCTION evil.publish_change() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
        CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql
        AS $$ SELECT 'epoch'::timestamptz $$;
        CREATE FUNCTION evil.row_number() RETURNS bigint LANGUAGE sql AS $$ SELECT 1::bigint $$;
        CREATE TABLE evil.pg_trigger AS SELECT 1 AS tgrelid;
        CREATE TABLE evil.new_rows AS SELECT 'evil' AS id;
        CREATE TABLE evil.old_rows AS SELECT 'evil' AS id;
        CREATE DOMAIN evil.text AS pg_catalog.text CHECK (VALUE = 'evil');
        CREATE DOMAIN evil.jsonb AS pg_catalog.jsonb CHECK (false);
        CREATE DOMAIN evil.name AS pg_catalog.name CHECK (VALUE = 'evil')
        """
    )
    for operator in ("=", "<>", "<", ">", "-"):
        session.execute(
            f"CREATE OPERATOR evil.{operator}"
            " (LEFTARG = anyelement, RIGHTARG = anyelement, FUNCTION = evil.trap)"
        )
    for operator in ("->>", "->", "?"):
        session.execute(
            f"CREATE OPERATOR evil.{operator}"
            " (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = evil.trap)"
        )
    session.execute("SET search_path = evil, pg_catalog")
    session.execute("INSERT INTO public.orders VALUES (1, 'a')")
    session.execute("UPDATE public.orders SET name = 'b'")
    session.execute("DELETE FROM public.orders")
    deliveries = inbox.drain()
    assert [delivery.routing_key for delivery in deliveries] == [
        "orders.insert.a",
        "orders.update.b",
        "orders.delete.b",
    ]
    messages = [delivery.json for delivery in deliveries]
    one, two = {"id": 1, "name": "a"}, {"id": 1, "name": "b"}
    assert [(m["operation"], m["new"], m["old"], m["changed"]) for m in messages] == [
        ("insert", one, None, None),
        ("update", two, one, ["name"]),
        ("delete", None, two, None),
    ]
    assert not any(message["time"].startswith("1970") for message in messages)


@LEVELS
def test_temporary_objects_change_nothing(session: Session, inbox: Inbox, level: str) -> None:
    session.execute("CREATE TABLE orders (id integer)")
    publish_changes(session, "orders", level)
    session.execute(
        """
        CREATE TEMPORARY TABLE pg_trigger (tgrelid oid, tgname name, tgnewtable name);
        CREATE TEMPORARY TABLE new_rows AS SELECT 99 AS id;
        CREATE TEMPORARY TABLE old_rows AS SELECT 99 AS id;
        CREATE TEMPORARY TABLE broker (broker_id integer)
        """
    )
    session.execute("INSERT INTO orders VALUES (1)")
    session.execute("UPDATE orders SET id = 2")
    assert changes(inbox) == [
        ("insert", {"id": 1}, None, None),
        ("update", {"id": 2}, {"id": 1}, ["id"]),
    ]


def test_role_that_may_use_the_schema_publishes_its_changes(
    session: Session, database: str, inbox: Inbox
) -> None:
    session.execute(
        """
        CREATE ROLE publish_change_clerk;
        GRANT USAGE ON SCHEMA amqp TO publish_change_clerk;
        CREATE TABLE orders (id integer);
        GRANT ALL ON orders TO publish_change_clerk
        """
    )
    publish_statements(session, "orders")
    try:
        with session.transaction():
            session.execute("SET LOCAL ROLE publish_change_clerk")
            session.execute("INSERT INTO orders VALUES (1)")
            session.execute("UPDATE orders SET id = 2")
        assert [d.json["operation"] for d in inbox.drain()] == ["insert", "update"]
        session.execute("REVOKE USAGE ON SCHEMA amqp FROM publish_change_clerk")
        session.execute("SET ROLE publish_change_clerk")
        with pytest.raises(errors.InsufficientPrivilege):
            session.execute("INSERT INTO orders VALUES (3)")
        session.execute("RESET ROLE")
        assert inbox.drain() == []
    finally:
        session.execute("RESET ROLE; DROP OWNED BY publish_change_clerk")
        session.execute("DROP ROLE publish_change_clerk")


def test_numbers_survive_a_decimal_reader(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE item (price numeric)")
    publish_rows(session, "item")
    session.execute("INSERT INTO item VALUES (0.1000000000000000055511151231257827)")
    message = json.loads(only(inbox.drain()).body, parse_float=Decimal)
    assert message["new"]["price"] == Decimal("0.1000000000000000055511151231257827")
