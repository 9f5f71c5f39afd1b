"""Rows of amqp.consumer: what is refused, and which table or function a row means."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pg_amqp_daemon.consume.fault import fault_of
from support.roles import role_fixtures
from support.sessions import Session, open_session
from support.storing import consume_into, message, storing

session, role, publisher, broker_id = role_fixtures()

TABLES = """
CREATE TABLE plain (id integer, note text);
CREATE TABLE keyed (id integer PRIMARY KEY, note text UNIQUE DEFERRABLE, size integer UNIQUE);
CREATE TABLE made (id integer GENERATED ALWAYS AS IDENTITY,
                   twice integer GENERATED ALWAYS AS (2) STORED, note text);
CREATE TABLE strict (id integer, must text NOT NULL);
CREATE VIEW counted AS SELECT count(*) FROM plain;
CREATE MATERIALIZED VIEW kept AS SELECT 1 AS id;
CREATE FUNCTION f(m amqp.message) RETURNS void RETURN NULL;
CREATE FUNCTION many(m amqp.message) RETURNS SETOF integer RETURN 1;
CREATE FUNCTION as_table(m amqp.message) RETURNS TABLE (a integer) RETURN 1;
CREATE FUNCTION other(m text) RETURNS text RETURN $1;
CREATE PROCEDURE p(m amqp.message) LANGUAGE sql AS '';
CREATE FUNCTION counter(integer, amqp.message) RETURNS integer RETURN 1;
CREATE AGGREGATE agg(amqp.message) (SFUNC = counter, STYPE = integer);
"""

# SQLSTATE, what the error says, and columns of rows that are refused so.
REFUSED: list[tuple[str, str, list[dict[str, Any]]]] = [
    # What contradicts itself.
    ("23514", "name must not be empty", [{"name": ""}]),
    ("23514", "name must not be longer than 255 bytes", [{"name": "ü" * 128}]),
    ("23514", "broker_id must not be null", [{"broker_id": None}]),
    ("23514", "queue must not be empty", [{"queue": ""}]),
    ("23514", "queue must not be longer than 255 bytes", [{"queue": "q" * 256}]),
    (
        "23514",
        "only one of target_table, target_function and influxdb can be given",
        [{"target_table": "plain", "target_function": "f"}],
    ),
    ("23514", "columns needs target_table", [{"columns": {"id": "body"}}]),
    (
        "23514",
        "columns must be a JSON object of texts",
        [
            {"target_table": "plain", "columns": Jsonb(wrong)}
            for wrong in ({}, {"id": 1}, {"id": None}, {"id": ["body"]}, [], ["id"], 1, "id", None)
        ],
    ),
    (
        "23514",
        "on_conflict must be error, ignore or update",
        [{"target_table": "plain", "on_conflict": wrong} for wrong in ("replace", "", None)],
    ),
    ("23514", "on_conflict needs target_table", [{"on_conflict": "ignore"}]),
    (
        "23514",
        "conflict_constraint needs on_conflict = update",
        [{"target_table": "keyed", "conflict_constraint": "keyed_pkey"}],
    ),
    ("23514", "reply_errors needs target_function", [{"reply_errors": True}]),
    ("23514", "influxdb needs measurement", [{"influxdb": "nowhere"}]),
    ("23503", "violates foreign key", [{"influxdb": "nowhere", "measurement": "m"}]),
    ("23514", "measurement, tags, fields, time and content_types need", [{"measurement": "m"}]),
    ("23514", "other_content must be skip or dead", [{"other_content": "drop"}]),
    (
        "23514",
        "deduplicate_for must be longer than nothing",
        [{"deduplicate_for": wrong} for wrong in ("0", "-1 day", "101 years", None)],
    ),
    (
        "23514",
        "batch_size must be between 1 and 32767",
        [{"batch_size": wrong} for wrong in (0, 32768, None)],
    ),
    (
        "23514",
        "batch_timeout must be between 0 and 1 minute",
        [{"batch_timeout": wrong} for wrong in ("-1 s", "61 s", None)],
    ),
    (
        "23514",
        "prefetch must be between batch_size and 65535",
        [{"prefetch": wrong} for wrong in (999, 65536)],
    ),
    (
        "23514",
        "stream_offset must be first, last, next, an offset or a timestamp",
        [{"stream_offset": wrong} for wrong in ("middle", "-1", "1960-01-01", "infinity", "")],
    ),
    ("22023", 'invalid source of a value: "id"', [{"deduplicate_by": "id"}]),
    # What does not fit its target.
    ("42P01", 'relation "gone" does not exist', [{"target_table": "gone"}]),
    ("42P01", "is no table", [{"target_table": "kept"}, {"target_table": "keyed_pkey"}]),
    ("55000", 'cannot insert into view "counted"', [{"target_table": "counted"}]),
    (
        "42703",
        'column "nothing" of table "public.plain" does not exist',
        [{"target_table": "plain", "columns": {"nothing": "body"}}],
    ),
    (
        "42703",
        'column "twice" of table "public.made" does not exist, or is generated',
        [{"target_table": "made", "columns": {"twice": "body.a"}}],
    ),
    (
        "22023",
        "invalid source of a value",
        [
            {"target_table": "plain", "columns": {"id": wrong}}
            for wrong in (
                "",
                "payload.id",
                "body.",
                "body..a",
                'body."a',
                'body.a"b"',
                "headers.",
                "mqtt_topic[0]",
                "mqtt_topic[]",
                "Body",
                "message_id.a",
                "now()",
                "body; SELECT 1",
            )
        ],
    ),
    (
        "42846",
        "cannot cast type timestamp with time zone to integer",
        [{"target_table": "plain", "columns": {"id": wrong}} for wrong in ("now", "timestamp")],
    ),
    (
        "428C9",
        'cannot insert a non-DEFAULT value into column "id"',
        [{"target_table": "made", "columns": {"id": "body.a"}}],
    ),
    (
        "23502",
        'would leave column "must" of table "public.strict" null',
        [{"target_table": "strict", "columns": {"id": "body.id"}}],
    ),
    (
        "42704",
        'table "public.plain" has no primary key',
        [{"target_table": "plain", "on_conflict": "update"}],
    ),
    (
        "22023",
        'do not fill all columns of constraint "keyed_size_key"',
        [
            {
                "target_table": "keyed",
                "on_conflict": "update",
                "conflict_constraint": "keyed_size_key",
                "columns": {"id": "body.a"},
            }
        ],
    ),
    (
        "42704",
        "that is not deferrable",
        [
            {"target_table": "keyed", "on_conflict": "update", "conflict_constraint": wrong}
            for wrong in ("keyed_note_key", "x")
        ],
    ),
    (
        "42883",
        "(amqp.message) does not exist",
        [{"target_function": wrong} for wrong in ("g", "other", "no.f")],
    ),
    (
        "42883",
        "does not take an amqp.message",
        [{"target_function": "f(integer)"}, {"target_function": "f()"}],
    ),
    (
        "42809",
        "is no function that returns one value",
        [{"target_function": wrong} for wrong in ("p", "agg", "many", "as_table")],
    ),
]


def test_a_row_that_cannot_work_is_refused_and_told_why(session: Session) -> None:
    session.run(TABLES)
    for state, text, rows in REFUSED:
        for columns in rows:
            with pytest.raises(psycopg.Error) as raised:
                consume_into(session, **columns)
            said = raised.value
            assert (said.sqlstate, text in str(said)) == (state, True), (columns, said)
    assert session.run("SELECT FROM amqp.consumer") == []


def test_a_hint_says_what_would_work(session: Session) -> None:
    session.run(TABLES)
    hints: list[tuple[dict[str, Any], str]] = [
        ({"target_table": "plain", "columns": {"id": "x"}}, "Sources are body, body.PATH, "),
        ({"target_table": "plain", "on_conflict": "update"}, "Name a unique constraint in "),
        ({"target_table": "strict", "columns": {"id": "body"}}, "Name it in columns, or "),
    ]
    for columns, hint in hints:
        with pytest.raises(psycopg.Error) as raised:
            consume_into(session, **columns)
        assert str(raised.value.diag.message_hint).startswith(hint)


def test_a_row_is_checked_when_it_is_changed_too(session: Session) -> None:
    session.run(TABLES)
    consume_into(session, "plain")
    report = session.error('UPDATE amqp.consumer SET columns = \'{"no": "body"}\'')
    assert report.sqlstate == "42703"
    report = session.error("UPDATE amqp.consumer SET on_conflict = 'update'")
    assert report.sqlstate == "42704"
    assert session.run("SELECT columns, on_conflict FROM amqp.consumer") == [(None, "error")]


def test_the_examples_work_as_they_stand(session: Session) -> None:
    session.run(
        """
        CREATE TABLE orders_in
            (order_id integer PRIMARY KEY, amount numeric, customer text, received timestamptz);
        INSERT INTO amqp.consumer (name, broker_id, queue, target_table, columns, on_conflict)
        VALUES ('orders', 1, 'placed_orders', 'orders_in',
                '{"order_id": "body.order", "amount": "body.amount",
                  "customer": "headers.tenant", "received": "now"}', 'update');
        INSERT INTO amqp.consumer (name, broker_id, queue) VALUES ('audit', 1, 'audit');
        CREATE TABLE orders (id integer, paid boolean);
        CREATE FUNCTION take_payment(m amqp.message) RETURNS jsonb LANGUAGE sql AS $$
            UPDATE orders SET paid = true WHERE id = (amqp.body_json(m)->>'order')::integer
            RETURNING jsonb_build_object('paid', id) $$;
        INSERT INTO amqp.consumer (name, broker_id, queue, target_function)
        VALUES ('payments', 1, 'payments', 'take_payment');
        CREATE TABLE clicks (url text);
        INSERT INTO amqp.consumer (name, broker_id, queue, target_table, stream_offset)
        VALUES ('clicks', 1, 'clicks', 'clicks', 'first');
        SELECT amqp.rewind('clicks', '2026-11-01'::timestamptz);
        SELECT amqp.rewind('clicks', 7);
        INSERT INTO amqp.influxdb (name, url, database)
        VALUES ('metrics', 'http://influx.example:8086', 'rabbitmq');
        INSERT INTO amqp.consumer (name, broker_id, queue, influxdb, measurement, tags)
        VALUES ('pageviews', 1, 'pageviews', 'metrics', '{routing_key}', '{uri}');
        SELECT consumer, message_id, sqlstate, error, body FROM amqp.inbox_dead;
        SELECT amqp.retry_dead_messages('orders');  SELECT amqp.discard_dead_messages('orders');
        """
    )
    rows = session.run("SELECT consumer, queue, running, stored, dead FROM amqp.inbox_status()")
    assert rows == [
        ("audit", "audit", None, 0, 0),
        ("clicks", "clicks", None, 0, 0),
        ("orders", "placed_orders", None, 0, 0),
        ("pageviews", "pageviews", None, 0, 0),
        ("payments", "payments", None, 0, 0),
    ]
    assert session.value("SELECT target_function FROM amqp.consumer WHERE name = 'payments'") == (
        "public.take_payment(amqp.message)"
    )


# ---- Which target a row means ----


def test_a_table_stays_the_target_under_every_name(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        one.put(message('{"id": 1}'))
        session.run("CREATE SCHEMA s; ALTER TABLE t SET SCHEMA s; ALTER TABLE s.t RENAME TO t2")
        session.run("CREATE TABLE t (id integer)")
        one.put(message('{"id": 2}'))
        # By the plan that was made before the names changed.
        session.run("ALTER TABLE s.t2 RENAME TO t3; CREATE TABLE s.t2 (id integer)")
        with pytest.raises(psycopg.Error, match=r"has changed|is another one's") as raised:
            one.put_on(message('{"id": 3}'))
        assert fault_of(raised.value) is None
        one.put(message('{"id": 3}'))
    assert session.run("SELECT id FROM s.t3") == [(1,), (2,), (3,)]
    assert session.run("SELECT FROM t UNION ALL SELECT FROM s.t2") == []


def test_a_function_stays_the_target_under_every_name(session: Session, database: str) -> None:
    session.run(
        """CREATE TABLE called (f text, body text);
           CREATE SCHEMA s;
           CREATE FUNCTION f(m amqp.message) RETURNS void LANGUAGE sql AS
           $$ INSERT INTO public.called VALUES ('first', amqp.body_text(m)) $$"""
    )
    consume_into(session, target_function="f")
    other = """CREATE FUNCTION %s(m amqp.message) RETURNS void LANGUAGE sql AS
               $$ INSERT INTO public.called VALUES ('other', amqp.body_text(m)) $$"""
    with storing(database) as one:
        one.put(message("1"))
        session.run("ALTER FUNCTION f SET SCHEMA s; ALTER FUNCTION s.f RENAME TO g")
        session.run(other % "f")
        one.put(message("2"))
        session.run("ALTER FUNCTION s.g RENAME TO h;" + other % "s.g")
        with pytest.raises(psycopg.Error, match=r"has changed|is another one's") as raised:
            one.put_on(message("3"))
        assert fault_of(raised.value) is None
        one.put(message("3"))
        # Whatever else of the row is changed.
        session.run("UPDATE amqp.consumer SET batch_size = 7")
        one.put(message("4"))
    assert session.run("SELECT * FROM called") == [("first", str(n)) for n in (1, 2, 3, 4)]
    assert session.value("SELECT target_function FROM amqp.consumer") == "s.h(amqp.message)"


@pytest.mark.parametrize(
    "given", ["take", "take(amqp.message)", "public.take", ' "take" ( amqp.message ) ']
)
def test_a_function_can_be_given_in_many_words(session: Session, given: str) -> None:
    session.run("CREATE FUNCTION take(amqp.message) RETURNS void RETURN NULL")
    consume_into(session, target_function=given)
    assert session.value("SELECT target_function FROM amqp.consumer") == "public.take(amqp.message)"


STRANGE = '"s (1)"."f()%s\'"""'


def test_a_function_of_a_strange_name(session: Session, database: str) -> None:
    session.run(
        f"""CREATE SCHEMA "s (1)";
            CREATE FUNCTION {STRANGE} (amqp.message) RETURNS text RETURN amqp.body_text($1)"""
    )
    consume_into(session, target_function=STRANGE)
    with storing(database) as one:
        assert one.put(message("x", reply_to="r")).stored == 1
    assert session.run("SELECT convert_from(body, 'UTF8') FROM amqp.outbox") == [("x",)]


@pytest.mark.parametrize("path", ["", "s", "s, public"])
def test_names_are_looked_up_where_the_row_is_written(session: Session, path: str) -> None:
    session.run(
        """CREATE SCHEMA s; CREATE TABLE s.t (a text); CREATE TABLE public.t (a text);
           CREATE FUNCTION s.f(amqp.message) RETURNS void RETURN NULL"""
    )
    session.run("SELECT set_config('search_path', %s, false)", path)
    if path:
        consume_into(session, "t")
        assert session.value("SELECT target_table = 's.t'::regclass FROM amqp.consumer")
        consume_into(session, "f(amqp.message)", name="f")
        ((found,),) = session.run("SELECT target_function FROM amqp.consumer WHERE name = 'f'")
        assert found == "s.f(amqp.message)"
    else:
        with pytest.raises(psycopg.errors.UndefinedTable):
            consume_into(session, "t")
        with pytest.raises(psycopg.errors.UndefinedFunction):
            consume_into(session, "f(amqp.message)")


# ---- Targets that are gone ----


def test_a_table_that_was_dropped_is_waited_for_and_can_be_named_again(
    session: Session, database: str
) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        one.put(message('{"id": 1}'))
        session.run("DROP TABLE t")
        with pytest.raises(psycopg.errors.UndefinedTable) as raised:
            one.look()
        assert "UPDATE amqp.consumer SET target_table = " in str(raised.value.diag.message_hint)
        session.run("CREATE TABLE t (id integer)")
        # It is another one.
        with pytest.raises(psycopg.errors.UndefinedTable):
            one.look()
        session.run("UPDATE amqp.consumer SET target_table = 't'")
        one.put(message('{"id": 2}'))
    assert session.run("SELECT id FROM t") == [(2,)]


def test_a_function_that_was_dropped_is_waited_for_and_can_be_named_again(
    session: Session, database: str
) -> None:
    create = "CREATE FUNCTION f(amqp.message) RETURNS text RETURN 'x'"
    session.run(create)
    consume_into(session, target_function="f")
    with storing(database) as one:
        one.put(message())
        session.run("DROP FUNCTION f")
        with pytest.raises(psycopg.errors.UndefinedFunction) as raised:
            one.look()
        assert "SET target_function = target_function" in str(raised.value.diag.message_hint)
        session.run(create)
        with pytest.raises(psycopg.errors.UndefinedFunction):
            one.look()
        session.run("UPDATE amqp.consumer SET target_function = target_function")
        assert one.put(message()).stored == 1
        # Replaced, it is the same.
        session.run("CREATE OR REPLACE FUNCTION f(amqp.message) RETURNS text RETURN 'y'")
        assert one.put(message(reply_to="r")).stored == 1
    assert session.run("SELECT convert_from(body, 'UTF8') FROM amqp.outbox") == [("y",)]


@pytest.mark.parametrize("target", ["t", "f(amqp.message)"])
def test_what_has_lost_its_target_can_be_disabled(session: Session, target: str) -> None:
    session.run(
        "CREATE TABLE t (id integer); CREATE FUNCTION f(amqp.message) RETURNS void RETURN NULL"
    )
    consume_into(session, target)
    session.run("DROP TABLE t; DROP FUNCTION f")
    session.run("UPDATE amqp.consumer SET enabled = false")
    assert session.error("UPDATE amqp.consumer SET enabled = true").sqlstate in ("42P01", "42883")
    session.run("DELETE FROM amqp.consumer")


# ---- Who writes a row ----


@pytest.mark.parametrize("restoring", ["on", "off"])
def test_a_consumer_does_for_its_writer_only_what_he_may_do(
    session: Session, database: str, role: str, restoring: str
) -> None:
    session.run(
        f"""CREATE TABLE t (a integer, b integer, c integer);
            CREATE FUNCTION f(amqp.message) RETURNS void RETURN NULL;
            REVOKE EXECUTE ON FUNCTION f FROM PUBLIC;
            GRANT USAGE ON SCHEMA amqp TO {role}"""
    )
    row = "INSERT INTO amqp.consumer (name, broker_id, queue, target_table, columns) VALUES "
    columns = """('c', 1, 'q', 't', '{"a": "body.a", "b": "body.b"}')"""
    with open_session(database, role=role) as somebody:
        # As pg_restore says, to which the rest is not checked.
        somebody.run("SELECT set_config('check_function_bodies', %s, false)", restoring)
        assert somebody.error(row + columns).sqlstate == "42501"
        session.run(f"GRANT SELECT, INSERT, UPDATE ON amqp.consumer TO {role}")
        report = somebody.error(row + columns)
        assert (report.sqlstate, report.message) == ("42501", "permission denied for table t")
        assert report.detail == "A consumer does for you only what you may do yourself."
        session.run(f"GRANT INSERT (a) ON t TO {role}")
        assert somebody.error(row + columns).message == "permission denied for table t"
        session.run(f"GRANT INSERT (b) ON t TO {role}")
        somebody.run(row + columns)
        assert somebody.error("UPDATE amqp.consumer SET columns = NULL").sqlstate == "42501"
        session.run("ALTER TABLE t ADD PRIMARY KEY (a)")
        update = "UPDATE amqp.consumer SET on_conflict = 'update'"
        assert somebody.error(update).message == "permission denied for table t"
        session.run(f"GRANT UPDATE (a, b) ON t TO {role}")
        somebody.run(update)
        call = "INSERT INTO amqp.consumer (name, broker_id, queue, target_function)"
        call += " VALUES ('f', 1, 'q', 'public.f(amqp.message)')"
        assert (
            somebody.error(call).message == "permission denied for function public.f(amqp.message)"
        )
        session.run(f"GRANT EXECUTE ON FUNCTION f TO {role}")
        somebody.run(call)
    session.run("DELETE FROM amqp.consumer")
