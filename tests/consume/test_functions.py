"""Functions as targets: how they are called, what they may do, and what becomes of their errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_daemon.consume.fault import fault_of
from pg_amqp_py.wire.consume.delivery import Delivery
from support.fix_servers import VHost
from support.queues import declare, numbers_in
from support.sessions import Session, session_fixture
from support.storing import ARRIVED, consume_into, counted, dead, message, storing

session = session_fixture()

F = "f(amqp.message)"


def function(session: Session, body: str, returns: str = "void", **columns: object) -> None:
    """Create function f in PL/pgSQL, with a table to write to, and a consumer that calls it."""
    session.run("CREATE TABLE IF NOT EXISTS called (nr serial, body text)")
    session.run(
        f"""CREATE FUNCTION f(m amqp.message) RETURNS {returns} LANGUAGE plpgsql AS $$
            BEGIN {body} END $$"""
    )
    consume_into(session, F, **columns)


def called(session: Session) -> list[str]:
    return [body for (body,) in session.run("SELECT body FROM called ORDER BY nr")]


def replies(session: Session) -> list[tuple[str, str, str | None, str | None]]:
    """Whom to, what, for which question, and its content type."""
    rows = session.run(
        "SELECT routing_key, convert_from(body, 'UTF8'), correlation_id, content_type"
        " FROM amqp.outbox ORDER BY id"
    )
    return [(a, b, c, d) for a, b, c, d in rows]


def numbered(*numbers: int) -> list[Delivery]:
    return [message(str(n)) for n in numbers]


NOTE = "INSERT INTO public.called (body) VALUES (amqp.body_text(m));"


def test_it_is_called_in_the_order_of_the_queue(session: Session, database: str) -> None:
    function(session, NOTE, batch_size=32767)
    with storing(database) as one:
        assert one.put(*numbered(*range(5000))).stored == 5000
        one.put(*(message(str(n), message_id=f"{n * 7919 % 1000}") for n in range(1000)))
    assert called(session) == [*map(str, range(5000)), *map(str, range(1000))]


def test_each_bad_message_fails_alone(session: Session, database: str) -> None:
    function(session, NOTE + "PERFORM 1 / (amqp.body_text(m)::integer % 10);")
    with storing(database) as one:
        done = one.put(*numbered(*range(100)), message("x"))
    assert (done.stored, done.dead) == (90, 11)
    assert called(session) == [str(n) for n in range(100) if n % 10]
    assert dead(session) == ["22012"] * 10 + ["22P02"]


@pytest.mark.parametrize(
    ("raises", "state"),
    [
        ("RAISE EXCEPTION 'no'", "P0001"),
        ("RAISE EXCEPTION 'no' USING ERRCODE = 'AB123'", "AB123"),
        ("RAISE EXCEPTION no_data_found", "P0002"),
        ("RAISE EXCEPTION 'no' USING ERRCODE = '42501'", "42501"),
        ("PERFORM no_such_function()", "42883"),
        ("EXECUTE 'SELECT FROM nowhere'", "42P01"),
        ("ASSERT false", "P0004"),
        ("COMMIT", "2D000"),
        ("PERFORM repeat('x', 1 << 30)", "54000"),
        ("PERFORM m.no_such_field", "42703"),
    ],
)
def test_what_it_raises_is_the_message_s_own_fault(
    session: Session, database: str, raises: str, state: str
) -> None:
    function(session, f"IF amqp.body_text(m) = 'bad' THEN {raises}; END IF; {NOTE}")
    with storing(database) as one:
        done = one.put(message("1"), message("bad"), message("2"))
    assert (done.stored, done.dead) == (2, 1)
    assert dead(session) == [state]
    assert called(session) == ["1", "2"]


@pytest.mark.parametrize("state", ["40001", "40P01", "53100", "55P03", "57014", "58030", "08006"])
def test_what_is_nobodys_fault_is_waited_for(session: Session, database: str, state: str) -> None:
    function(session, f"{NOTE} IF m.redelivered THEN RAISE 'no' USING ERRCODE = '{state}'; END IF;")
    with storing(database) as one:
        one.look()
        with pytest.raises(psycopg.Error) as raised:
            one.put_on(message("1"), message("2", redelivered=True))
        assert (raised.value.sqlstate, fault_of(raised.value)) == (state, None)
        assert (called(session), dead(session)) == ([], [])
        assert one.put_on(message("1"), message("2")).stored == 2


def test_it_has_all_of_a_message(session: Session, database: str) -> None:
    session.run("CREATE TABLE seen (LIKE amqp.message)")
    function(session, "INSERT INTO public.seen SELECT (m).*;", queue="q1", broker_id=7)
    headers = {"t": "é", "i": -(2**63), "b": True, "n": None, "a": [1, {"k": "v"}]}
    given = message(
        b"\0\xff", "k", "e", redelivered=True, content_type="a/b", content_encoding="gzip",
        headers=headers, delivery_mode=1, priority=255,
        correlation_id="c", reply_to="", expiration="1", message_id="m", timestamp=1_790_000_000,
        type="t", user_id="u", app_id="a", cluster_id="cl",
    )  # fmt: skip
    with storing(database) as one:
        one.put(given, message())
    moment, arrived = (datetime.fromtimestamp(s, UTC) for s in (1_790_000_000, ARRIVED))
    full, empty = session.run("SELECT * FROM seen")
    assert full == (
        7, "q1", "e", "k", True, "a/b", "gzip", headers, 1, 255, "c", "", "1", "m", moment, "t",
        "u", "a", "cl", b"\0\xff", arrived, None,
    )  # fmt: skip
    assert empty == (7, "q1", "events", "key", False, *[None] * 14, b"", arrived, None)


HEADERS = {
    "long": b"\4longl\x80" + bytes(7),
    "small": b"\5smallb\xff",
    "double": b"\6doubled\x3f\xb9\x99\x99\x99\x99\x99\x9a",
    "float": b"\5floatf\x3f\0\0\0",
    "nan": b"\3nand\x7f\xf8" + bytes(6),
    "infinite": b"\x08infinited\xff\xf0" + bytes(6),
    "decimal": b"\7decimalD\2\0\0\x30\x39",
    "time": b"\4timeT\0\0\0\0\x6a\xb1\x38\x80",
    "bytes": b"\5bytesx\0\0\0\2\0\xff",
    "void": b"\4voidV",
    "list": b"\4listA\0\0\0\7t\0I\0\0\0\5",
    "table": b"\5tableF\0\0\0\4\1at\1",
    "text": b"\4textS\0\0\0\2" + "ß".encode(),
}
AS_JSON = {
    "long": -(2**63), "small": -1, "double": 0.1, "float": 0.5, "nan": "NaN",
    "infinite": "-Infinity", "decimal": 123.45, "time": "2026-09-21T12:26:40Z",
    "bytes": "\\x00ff", "void": None, "list": [False, 5], "table": {"a": True}, "text": "ß",
}  # fmt: skip


def test_headers_of_every_type_are_exact(session: Session, database: str) -> None:
    session.run("CREATE TABLE seen (headers jsonb, decimal text)")
    function(session, "INSERT INTO public.seen VALUES (m.headers, m.headers ->> 'decimal');")
    table = b"".join(HEADERS.values())
    with storing(database) as one:
        one.put(message(headers=len(table).to_bytes(4) + table))
    ((headers, number),) = session.run("SELECT headers, decimal FROM seen")
    assert {**headers, "time": None} == {**AS_JSON, "time": None}
    assert datetime.fromisoformat(headers["time"]).timestamp() == 0x6AB13880
    assert number == "123.45"


# ---- What it returns ----

RETURNED: list[tuple[str, str, str | None, str | None]] = [
    ("void", "RETURN;", None, None),
    ("text", "RETURN NULL;", None, None),
    ("jsonb", "RETURN NULL;", None, None),
    ("pair", "RETURN NULL;", None, None),
    ("jsonb", "RETURN 'null';", "null", "application/json"),
    ("jsonb", """RETURN '{"b": 1, "a": "ü"}';""", '{"a": "ü", "b": 1}', "application/json"),
    ("json", """RETURN '{"b":1}';""", '{"b":1}', "application/json"),
    ("text", "RETURN 'ü';", "ü", None),
    ("text", "RETURN '';", "", None),
    ("bytea", "RETURN convert_to('ü', 'UTF8');", "ü", None),
    ("integer", "RETURN 5;", "5", None),
    ("boolean", "RETURN true;", "true", None),
    ("integer[]", "RETURN '{1,2}';", "{1,2}", None),
    ("record", "RETURN (1, NULL::text);", '{"f1": 1, "f2": null}', "application/json"),
    ("pair", "RETURN (NULL, 'x')::pair;", '{"a": null, "b": "x"}', "application/json"),
    ("pair", "RETURN (NULL, NULL)::pair;", '{"a": null, "b": null}', "application/json"),
    ("called", "RETURN (1, 'x')::called;", '{"nr": 1, "body": "x"}', "application/json"),
]  # fmt: skip


@pytest.mark.parametrize(("returns", "body", "expected", "content_type"), RETURNED)
def test_what_it_returns_is_the_reply(
    session: Session,
    database: str,
    returns: str,
    body: str,
    expected: str | None,
    content_type: str | None,
) -> None:
    session.run("CREATE TYPE pair AS (a integer, b text)")
    function(session, body, returns, broker_id=3)
    with storing(database) as one:
        done = one.put(
            message(reply_to="answers", correlation_id="q-1"), message(), message(reply_to="")
        )
    assert (done.stored, dead(session, "error")) == (3, [])
    wanted = [] if expected is None else [("answers", expected, "q-1", content_type)]
    assert replies(session) == wanted
    places = session.run("SELECT broker_id, exchange, mandatory, delivery_mode FROM amqp.outbox")
    assert places == [(3, "", None, None)][: len(wanted)]


def test_a_reply_of_bytes_is_sent_as_they_are(session: Session, database: str) -> None:
    function(session, "RETURN m.body;", "bytea")
    with storing(database) as one:
        one.put(message(b"\0\xff", reply_to="r"))
    assert session.run("SELECT body FROM amqp.outbox") == [(b"\0\xff",)]


def test_there_is_one_reply_for_a_message_and_none_for_its_copy(
    session: Session, database: str
) -> None:
    function(session, "RETURN amqp.body_text(m);", "text")
    with storing(database) as one:
        for _ in range(2):
            one.put(*(message(n, reply_to=f"r{n}", correlation_id=n, message_id=n) for n in "1213"))
    assert replies(session) == [(f"r{n}", n, n, None) for n in "123"]


@pytest.mark.parametrize("reply_errors", [False, True])
def test_an_error_is_a_reply_only_if_the_row_says_so(
    session: Session, database: str, reply_errors: bool
) -> None:
    body = "IF m.redelivered THEN RAISE 'no %', '\"ü\"' USING DETAIL = 'more'; END IF; RETURN 'ok';"
    function(session, body, "text", reply_errors=reply_errors)
    with storing(database) as one:
        done = one.put(
            message(reply_to="r", correlation_id="c"),
            message(reply_to="r", correlation_id="c", message_id="a", redelivered=True),
            message(reply_to="r", correlation_id="c", message_id="a", redelivered=True),
            message(redelivered=True),
        )
    assert (done.stored, done.dead, done.duplicates) == (1, 2, 1)
    ok, *errors = replies(session)
    assert ok == ("r", "ok", "c", None)
    if reply_errors:
        ((to, text, question, content_type),) = errors
        assert (to, question, content_type) == ("r", "c", "application/json")
        assert json.loads(text) == {"error": 'no "ü"; more', "sqlstate": "P0001"}
    else:
        assert errors == []


@pytest.mark.parametrize("reply_errors", [False, True])
def test_one_that_is_tried_again_has_one_reply_in_all(
    session: Session, database: str, reply_errors: bool
) -> None:
    session.run("CREATE TABLE ready ()")
    body = "IF NOT EXISTS (SELECT FROM public.ready) THEN RAISE 'no'; END IF; RETURN 'ok';"
    function(session, body, "text", reply_errors=reply_errors)
    with storing(database) as one:
        one.put(message(reply_to="r", correlation_id="c"))
        session.run("SELECT amqp.retry_dead_messages('c')")
        one.retry()
        session.run("INSERT INTO ready DEFAULT VALUES; SELECT amqp.retry_dead_messages('c')")
        assert one.retry().stored == 1
    ((_, text, question, _),) = replies(session)
    assert ("ok" in text, question) == (not reply_errors, "c")


# ---- What it does to the session and to the transaction ----


@pytest.mark.parametrize("local", [True, False])
def test_what_it_makes_of_the_session_does_not_outlast_it(
    session: Session, database: str, local: bool
) -> None:
    session.run("CREATE ROLE nobody_special")
    word = str(local).lower()
    function(
        session,
        f"""{NOTE} PERFORM set_config('search_path', 'nowhere', {word}),
                           set_config('role', 'nobody_special', {word}); RETURN 'x';""",
        "text",
    )
    session.run("GRANT USAGE ON SCHEMA amqp TO nobody_special")
    session.run("GRANT ALL ON called, called_nr_seq TO nobody_special")
    try:
        with storing(database) as one:
            for n in range(2):
                done = one.put(message(str(n), message_id=str(n), reply_to="r"))
                assert (done.stored, dead(session, "error")) == (1, [])
            assert one.ask("SELECT current_user::text, current_setting('search_path')") == [
                ("postgres", '"$user", public')
            ]
    finally:
        session.run("DROP OWNED BY nobody_special; DROP ROLE nobody_special")
    assert called(session) == ["0", "1"]


def test_rows_that_a_deferred_constraint_refuses_are_the_message_s_own_fault(
    session: Session, database: str
) -> None:
    session.run(
        """CREATE TABLE a (id integer PRIMARY KEY);
           CREATE TABLE b (id integer REFERENCES a DEFERRABLE INITIALLY DEFERRED)"""
    )
    function(session, f"{NOTE} INSERT INTO public.b VALUES (amqp.body_text(m)::integer);")
    session.run("INSERT INTO a SELECT generate_series(0, 98, 2)")
    with storing(database) as one:
        done = one.put(*numbered(*range(100)))
    assert (done.stored, done.dead) == (50, 50)
    assert called(session) == [str(n) for n in range(0, 100, 2)]
    assert set(dead(session)) == {"23503"}


def test_a_commit_that_fails_for_one_message_stores_the_others(
    session: Session, database: str, broker: VHost, channel: BlockingChannel
) -> None:
    """What is published to a missing exchange is refused when the transaction commits."""
    declare(channel)
    broker_id = session.add_broker(broker.url())
    function(
        session,
        f"""{NOTE} PERFORM amqp.publish({broker_id}, m.routing_key, 'k', amqp.body_text(m));""",
    )
    session.set(on_failure="error")
    name = session.info.dbname
    session.run(f"ALTER DATABASE {name} SET amqp.on_failure = 'error'")
    given = [message(str(n), "missing" if n in (3, 4, 11) else "events") for n in range(16)]
    with storing(database) as one:
        done = one.put(*given)
        assert (done.stored, done.dead) == (13, 3)
    stored = [n for n in range(16) if n not in (3, 4, 11)]
    assert called(session) == [str(n) for n in stored]
    assert sorted(dead(session, "convert_from(body, 'UTF8')"), key=int) == ["3", "4", "11"]
    assert sorted(numbers_in(channel, "events", 13)) == stored
    assert counted(session) == (13, 0, 13)


def test_a_function_of_another_language(session: Session, database: str) -> None:
    session.run(
        """CREATE FUNCTION f(m amqp.message) RETURNS text LANGUAGE plpython3u AS
           $$ return m["routing_key"] + str(m["body"]) $$"""
    )
    consume_into(session, F)
    with storing(database) as one:
        assert one.put(message("x", "k", reply_to="r")).stored == 1
    assert replies(session) == [("r", "kb'x'", None, None)]


def test_one_that_is_stable_or_strict_is_called_all_the_same(
    session: Session, database: str
) -> None:
    session.run(
        """CREATE FUNCTION f(m amqp.message) RETURNS text STRICT IMMUTABLE
           RETURN ($1).routing_key"""
    )
    consume_into(session, F)
    with storing(database) as one:
        one.put(*(message("", k, reply_to="r") for k in "abca"))
    assert [text for _, text, _, _ in replies(session)] == list("abca")


def test_the_text_and_the_json_of_a_body(session: Session) -> None:
    def told(function: str, body: bytes) -> Any:
        nulls = ", ".join(["NULL"] * 19)
        query = f"SELECT amqp.{function}(ROW({nulls}, %s::bytea, NULL, NULL)::amqp.message)"
        return session.value(query, body)

    assert told("body_text", "ü".encode()) == "ü"
    assert told("body_json", b'{"a": [1]}') == {"a": [1]}
    for function, body, state in [
        ("body_text", b"\xff", "22021"),
        ("body_text", b"\0", "22021"),
        ("body_json", b"{", "22P02"),
        ("body_json", b"\xff", "22021"),
        ("body_json", b'"\\u0000"', "22P05"),
    ]:
        with pytest.raises(psycopg.Error) as raised:
            told(function, body)
        assert raised.value.sqlstate == state
