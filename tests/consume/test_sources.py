"""Where the values of columns come from, and what becomes of them in columns of every type."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from support.sessions import Session, session_fixture
from support.storing import ARRIVED, consume_into, counted, dead, message, storing

session = session_fixture()

FULL = message(
    '{"a": {"b": [10, {"c": "deep"}], "x.y": {"é\\"q": 1}}, "0": "zero", "null": null}',
    "plant.hall/1.machine",
    "amq.topic",
    redelivered=True,
    content_type="application/json",
    content_encoding="utf-8",
    headers={"tenant": "acme", "x.y": True, "list": [1, "two"], "n": None},
    delivery_mode=2,
    priority=9,
    correlation_id="c-1",
    reply_to="answers",
    expiration="60000",
    message_id="m-1",
    timestamp=1_790_000_000,
    type="order",
    user_id="guest",
    app_id="shop",
    cluster_id="cluster",
)
MOMENT = datetime.fromtimestamp(1_790_000_000, UTC)

SOURCES: list[tuple[str, str, Any]] = [
    ("body", "text", FULL.body.decode()),
    ("body", "bytea", FULL.body),
    ("body", "jsonb", json.loads(FULL.body)),
    ("body.a.b", "text", '[10, {"c": "deep"}]'),
    ("body.a.b", "jsonb", [10, {"c": "deep"}]),
    ("body.a.b.0", "integer", 10),
    ("body.a.b.1.c", "text", "deep"),
    ("body.a.b.-1.c", "text", "deep"),
    ('body."a".b."0"', "integer", 10),
    ('body.a."x.y"."é""q"', "integer", 1),
    ("body.0", "text", "zero"),
    ("body.null", "text", None),
    ("body.missing", "text", None),
    ("body.a.missing.c", "text", None),
    ("body.a.b.7", "text", None),
    ("headers", "jsonb", {"tenant": "acme", "x.y": True, "list": [1, "two"], "n": None}),
    ("headers.tenant", "text", "acme"),
    ('headers."x.y"', "boolean", True),
    ("headers.list.1", "text", "two"),
    ("headers.list", "integer[]", None),
    ("headers.n", "text", None),
    ("headers.missing", "text", None),
    ("exchange", "text", "amq.topic"),
    ("routing_key", "text", "plant.hall/1.machine"),
    ("redelivered", "boolean", True),
    ("redelivered", "text", "true"),
    ("redelivered", "integer", 1),
    ("mqtt_topic", "text", "plant/hall.1/machine"),
    ("mqtt_topic[1]", "text", "plant"),
    ("mqtt_topic[2]", "text", "hall.1"),
    ("mqtt_topic[4]", "text", None),
    ("content_type", "text", "application/json"),
    ("content_encoding", "text", "utf-8"),
    ("delivery_mode", "integer", 2),
    ("priority", "smallint", 9),
    ("priority", "text", "9"),
    ("correlation_id", "text", "c-1"),
    ("reply_to", "text", "answers"),
    ("expiration", "integer", 60000),
    ("expiration", "text", "60000"),
    ("message_id", "varchar(3)", "m-1"),
    ("timestamp", "timestamptz", MOMENT),
    ("timestamp", "date", MOMENT.date()),
    ("type", "text", "order"),
    ("user_id", "name", "guest"),
    ("app_id", "text", "shop"),
    ("cluster_id", "text", "cluster"),
    ("stream_offset", "bigint", None),
]


def test_every_source_gives_what_it_names(session: Session, database: str) -> None:
    given = [(s, t, v) for s, t, v in SOURCES if (s, t) != ("headers.list", "integer[]")]
    columns = ", ".join(f"c{n} {kind}" for n, (_, kind, _) in enumerate(given))
    session.run(f"CREATE TABLE t ({columns})")
    consume_into(session, "t", columns={f"c{n}": s for n, (s, _, _) in enumerate(given)})
    with storing(database) as one:
        assert one.put(FULL).stored == 1
    (row,) = session.run("SELECT * FROM t")
    found = [(s, t, v) for (s, t, _), v in zip(given, row, strict=True)]
    assert found == given


def test_what_is_not_there_is_null_or_the_default(session: Session, database: str) -> None:
    names = [s for s, _, _ in SOURCES if s not in ("body", "now", "exchange", "routing_key")]
    columns = ", ".join(f"a{n} text, b{n} text DEFAULT 'default'" for n in range(len(names)))
    session.run(f"CREATE TABLE t ({columns})")
    sources = {f"{c}{n}": source for n, source in enumerate(names) for c in "ab"}
    consume_into(session, "t", columns=sources)
    with storing(database) as one:
        one.put(message("{}", ""))
    (row,) = session.run("SELECT * FROM t")
    for name, without, with_default in zip(names, row[::2], row[1::2], strict=True):
        if name == "redelivered":
            assert (without, with_default) == ("false", "false")
        elif name == "mqtt_topic":
            assert (without, with_default) == ("", "")
        else:
            assert (without, with_default) == (None, "default"), name


def test_now_is_the_time_of_the_transaction(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (a timestamptz, b timestamptz, c date, d text)")
    consume_into(session, "t", columns={"a": "now", "b": "now", "c": "now", "d": "now"})
    with storing(database) as one:
        one.put(message(), message())
    ((first, second, day, text),) = session.run("SELECT DISTINCT * FROM t")
    assert first == second
    assert abs(first - datetime.now(UTC)) < timedelta(minutes=5)
    assert day == first.date()
    assert text.startswith(str(day))


def test_the_offset_and_the_header_of_a_stream(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (a bigint, b text, c bigint)")
    sources = {"a": "stream_offset", "b": "headers.k", "c": "headers.x-stream-offset"}
    consume_into(session, "t", columns=sources)
    with storing(database, is_stream=True) as one:
        one.put(message(offset=7, headers={"k": "v"}), message(offset=8), rewinds=0)
    assert session.run("SELECT * FROM t") == [(7, "v", 7), (8, None, 8)]


# ---- Types ----

TYPES: list[tuple[str, object, Any]] = [
    ("integer", 1, 1),
    ("integer", "1", 1),
    ("bigint", 2**62, 2**62),
    ("numeric", Decimal("0.10"), Decimal("0.10")),
    ("numeric(5,2)", 1.005, Decimal("1.01")),
    ("numeric", "NaN", Decimal("NaN")),
    ("double precision", 1e-300, 1e-300),
    ("boolean", True, True),
    ("boolean", "yes", True),
    ("text", "ü\n\"'\\", "ü\n\"'\\"),
    ("text", 1.50, "1.5"),
    ("text", True, "true"),
    ("text", {"a": 1}, '{"a": 1}'),
    ("varchar(3)", "abc", "abc"),
    ("varchar(3)", "abc  ", "abc"),
    ("char(5)", "ab", "ab   "),
    ("bit(3)", "101", "101"),
    ("bit varying(5)", "101", "101"),
    ("bytea", "\\x00ff", b"\x00\xff"),
    ("uuid", "12345678123456781234567812345678", UUID("12345678123456781234567812345678")),
    ("date", "2026-11-01", date(2026, 11, 1)),
    ("timestamptz", "2026-11-01T00:00:00Z", datetime(2026, 11, 1, tzinfo=UTC)),
    ("interval", "1 day", timedelta(days=1)),
    ("inet", "10.0.0.1", None),
    ("json", {"a": [1]}, {"a": [1]}),
    ("jsonb", [1, None], [1, None]),
    ("jsonb", "text", "text"),
    ("jsonb", 1, 1),
    ("integer[]", [1, 2], [1, 2]),
    ("integer[]", [[1], [2]], [[1], [2]]),
    ("numeric(4,1)[]", [1.25], [Decimal("1.3")]),
    ("text[]", ["a,b", None], ["a,b", None]),
    ("text[]", "{a,b}", ["a", "b"]),
    ("jsonb[]", [{"a": 1}], [{"a": 1}]),
    ("mood", "sad", "sad"),
    ("mood[]", ["sad"], None),
    ("small", 5, 5),
    ("smalls", [1, 2], [1, 2]),
    ("pair", {"a": 1, "b": "x"}, None),
    ("pair", "(1,x)", None),
    ("pair[]", [{"a": 1}], None),
    ("int4range", "[1,5)", None),
    ("point", "(1,2)", "(1,2)"),
    ("oid", 5, 5),
    ("regclass", "pg_class", "pg_class"),
    ("xml", "<a/>", "<a/>"),
    ("tsvector", "a b", "'a' 'b'"),
]
MAKE_TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN small AS integer CHECK (VALUE < 10);
CREATE DOMAIN smalls AS integer[] CHECK (cardinality(VALUE) < 3);
CREATE TYPE pair AS (a integer, b text);
"""


@pytest.mark.parametrize("named", [False, True], ids=["by their names", "by columns"])
def test_every_type_takes_what_json_has_for_it(
    session: Session, database: str, named: bool
) -> None:
    session.run(MAKE_TYPES)
    columns = ", ".join(f"c{n} {kind}" for n, (kind, _, _) in enumerate(TYPES))
    session.run(f"CREATE TABLE t ({columns})")
    names = [f"c{n}" for n in range(len(TYPES))]
    consume_into(session, "t", columns={n: f"body.{n}" for n in names} if named else None)
    values = {f"c{n}": value for n, (_, value, _) in enumerate(TYPES)}
    with storing(database) as one:
        done = one.put(message(json.dumps(values, default=float)))
    assert (done.stored, dead(session, "error")) == (1, [])
    (row,) = session.run("SELECT * FROM t")
    for (kind, value, expected), found in zip(TYPES, row, strict=True):
        if expected is None:
            assert found is not None, kind
        elif kind != "numeric" or value != "NaN":
            assert found == expected, kind
    pairs = [f"to_jsonb(c{n})" for n, (kind, _, _) in enumerate(TYPES) if kind.startswith("pair")]
    assert session.run(f"SELECT {', '.join(pairs)} FROM t") == [
        ({"a": 1, "b": "x"}, {"a": 1, "b": "x"}, [{"a": 1, "b": None}])
    ]


WRONG: list[tuple[str, object, str]] = [
    ("integer", "one", "22P02"),
    ("integer", 1.5, "22P02"),
    ("integer", 2**31, "22003"),
    ("numeric(5,2)", 1000, "22003"),
    ("varchar(3)", "abcd", "22001"),
    ("char(2)", "abc", "22001"),
    ("bit(3)", "10", "22026"),
    ("bytea", "\\xzz", "22023"),
    ("mood", "glad", "22P02"),
    ("small", 10, "23514"),
    ("smalls", [1, 2, 3], "23514"),
    ("integer[]", ["x"], "22P02"),
    ("pair", {"a": "x"}, "22P02"),
    ("date", "2026-02-30", "22008"),
    ("text", "\0", "22P05"),
]


@pytest.mark.parametrize("named", [False, True], ids=["by their names", "by columns"])
def test_what_a_type_does_not_take_is_set_aside(
    session: Session, database: str, named: bool
) -> None:
    session.run(MAKE_TYPES)
    columns = ", ".join(f"c{n} {kind}" for n, (kind, _, _) in enumerate(WRONG))
    session.run(f"CREATE TABLE t ({columns})")
    names = [f"c{n}" for n in range(len(WRONG))]
    consume_into(session, "t", columns={n: f"body.{n}" for n in names} if named else None)
    bodies = [message(json.dumps({f"c{n}": value})) for n, (_, value, _) in enumerate(WRONG)]
    with storing(database) as one:
        done = one.put(*bodies)
    assert (done.stored, done.dead) == (0, len(WRONG))
    assert dead(session) == [state for _, _, state in WRONG]


def test_the_same_json_null_is_null_and_what_is_missing_the_default(
    session: Session, database: str
) -> None:
    session.run(
        """
        CREATE DOMAIN never_null AS text NOT NULL;
        CREATE TABLE t (
            id integer GENERATED BY DEFAULT AS IDENTITY,
            n serial,
            a text DEFAULT 'default',
            b jsonb DEFAULT '{"d": 1}',
            c integer[] DEFAULT '{7}',
            d never_null DEFAULT 'domain',
            e timestamptz DEFAULT now(),
            f uuid DEFAULT gen_random_uuid(),
            gone integer DEFAULT 1 / 0,
            g integer GENERATED ALWAYS AS (n * 2) STORED,
            h integer GENERATED ALWAYS AS IDENTITY
        );
        ALTER TABLE t DROP COLUMN gone
        """
    )
    consume_into(session, "t")
    sources = {name: f"body.{name}" for name in ("id", "n", "a", "b", "c", "d", "e", "f")}
    consume_into(session, "t", name="named", columns=sources)
    for name in ("c", "named"):
        session.run("TRUNCATE t RESTART IDENTITY")
        with storing(database, name) as one:
            done = one.put(
                message("{}"),
                message('{"id": 70, "n": 71, "d": "given"}'),
                message('{"a": null, "b": null, "c": null, "e": null, "f": null}'),
                message("{}"),
            )
            assert (done.stored, dead(session, "error, convert_from(body, $$UTF8$$)", name)) == (
                4,
                [],
            )
            one.put(
                message('{"d": null}'),
                message('{"id": null}'),
                message('{"n": null}'),
            )
        rows = session.run(
            "SELECT id, n, a, b, c, d, e IS NULL, f IS NULL, g = n * 2, h FROM t ORDER BY h"
        )
        default = ("default", {"d": 1}, [7])
        assert rows == [
            (1, 1, *default, "domain", False, False, True, rows[0][9]),
            (70, 71, *default, "given", False, False, True, rows[1][9]),
            (2, 2, None, None, None, "domain", True, True, True, rows[2][9]),
            (3, 3, *default, "domain", False, False, True, rows[3][9]),
        ]
        assert session.value("SELECT count(DISTINCT f) FROM t") == 3
        assert dead(session, consumer=name) == ["23502"] * 3


@pytest.mark.parametrize("named", [False, True], ids=["by their names", "by columns"])
def test_the_default_of_a_type_is_taken_where_the_column_has_none(
    session: Session, database: str, named: bool
) -> None:
    session.run(
        """
        CREATE DOMAIN unit AS text DEFAULT 'metre' NOT NULL;
        CREATE DOMAIN length AS unit;
        CREATE DOMAIN moment AS timestamptz DEFAULT now();
        CREATE TABLE t (
            id integer,
            a unit,
            b length,
            c unit DEFAULT 'mile',
            d moment,
            e moment DEFAULT NULL,
            f text DEFAULT NULL
        )
        """
    )
    names = ("id", "a", "b", "c", "d", "e", "f")
    consume_into(session, "t", columns={n: f"body.{n}" for n in names} if named else None)
    with storing(database) as one:
        one.put(
            message('{"id": 1}'),
            message('{"id": 2, "a": "inch", "b": "inch", "c": "inch", "d": null, "f": "x"}'),
            message('{"id": 3, "a": null}'),
        )
    assert session.run("SELECT id, a, b, c, d IS NULL, e IS NULL, f FROM t ORDER BY id") == [
        (1, "metre", "metre", "mile", False, True, None),
        (2, "inch", "inch", "inch", True, True, "x"),
    ]
    assert dead(session) == ["23502"]


def test_an_identity_that_is_always_generated_is_no_column_of_messages(
    session: Session, database: str
) -> None:
    session.run("CREATE TABLE t (id integer GENERATED ALWAYS AS IDENTITY, a text)")
    consume_into(session, "t")
    with storing(database) as one:
        one.put(message('{"id": 7, "a": "x"}'), message('{"a": "y"}'))
    assert session.run("SELECT id, a FROM t ORDER BY id") == [(1, "x"), (2, "y")]
    with pytest.raises(psycopg.errors.GeneratedAlways, match="non-DEFAULT"):
        consume_into(session, "t", name="named", columns={"id": "body.id"})


# ---- Names ----

HOSTILE = [
    *("n", "again", "n_", "amqp_n", "amqp_again", "s", "v", "j", "b", "t", "k", "body", "order"),
    *("select", "a b", "50%", "%s", "%(x)s", "it's", 'say "x"', "\\", "Case", "x.y", "é", "e" * 63),
    *("s.body", "todo", "stored", "retried", "redelivered", "message_id", "$1", "{}", "--", '"b"'),
]


@pytest.mark.parametrize("on_conflict", ["error", "ignore", "update"])
@pytest.mark.parametrize("named", [False, True], ids=["by their names", "by columns"])
def test_names_may_be_anything(
    session: Session, database: str, named: bool, on_conflict: str
) -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in HOSTILE]
    schema, table = '"s%s.""x"', '"t%.\'"'
    session.run(f"CREATE SCHEMA {schema}")
    session.run(
        f"CREATE TABLE {schema}.{table} ({', '.join(f'{name} text' for name in quoted)},"
        f" PRIMARY KEY ({quoted[0]}, {quoted[1]}, {quoted[15]}))"
    )
    sources = {name: f"body.{q}" for name, q in zip(HOSTILE, quoted, strict=True)}
    consume_into(
        session,
        f"{schema}.{table}",
        name="it's %s",
        queue="q'%",
        columns=sources if named else None,
        on_conflict=on_conflict,
    )
    body = json.dumps({name: name for name in HOSTILE})
    with storing(database, "it's %s") as one:
        assert one.put(message(body), message(body, message_id="%s")).stored >= 1
        assert one.put(message(body, redelivered=True), message("[]")).dead == 1
    assert session.run(f"SELECT * FROM {schema}.{table}") == [tuple(HOSTILE)]


def test_keys_of_the_body_that_no_column_has_are_let_be(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        one.put(message('{"id": 1, "more": {"x": [1]}}'))
    assert session.run("SELECT * FROM t") == [(1,)]


@pytest.mark.parametrize("body", ["", "[]", "1", '"text"', "null", "{", "{'a': 1}", "\xff", "{}x"])
def test_a_body_that_is_no_object_is_set_aside(session: Session, database: str, body: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        done = one.put(message('{"id": 1}'), message(body.encode("latin-1")), message('{"id": 2}'))
    assert (done.stored, done.dead) == (2, 1)
    assert session.run("SELECT * FROM t") == [(1,), (2,)]


def test_the_body_is_not_looked_into_where_nothing_asks_for_it(
    session: Session, database: str
) -> None:
    session.run("CREATE TABLE t (id text, raw bytea)")
    consume_into(session, "t", columns={"id": "message_id", "raw": "body"})
    with storing(database) as one:
        assert one.put(message(b"\xff\0", message_id="a")).stored == 1
    assert session.run("SELECT * FROM t") == [("a", b"\xff\0")]
    assert counted(session) == (1, 0, 0)


def test_a_large_body_is_no_fault(session: Session, database: str) -> None:
    text = "x" * 20_000_000
    session.run("CREATE TABLE t (note text)")
    consume_into(session, "t")
    consume_into(session, name="whole")
    for name in ("c", "whole"):
        with storing(database, name) as one:
            one.put(message('{"note": "' + text + '"}'))
    assert session.value("SELECT note = repeat('x', 20000000) FROM t") is True
    assert session.value("SELECT octet_length(body) FROM amqp.inbox") == len(text) + 12


def test_every_message_of_the_inbox_has_all_that_came(session: Session, database: str) -> None:
    consume_into(session, queue="audit", broker_id=5)
    with storing(database) as one:
        one.put(FULL, message(), message(b"\0\xff"))
    rows = session.run("SELECT * FROM amqp.inbox ORDER BY id")
    arrived = datetime.fromtimestamp(ARRIVED, UTC)
    properties: list[Any] = [
        "application/json", "utf-8", {"tenant": "acme", "x.y": True, "list": [1, "two"], "n": None},
        2, 9, "c-1", "answers", "60000", "m-1", MOMENT, "order", "guest", "shop", "cluster",
    ]  # fmt: skip
    assert rows[0][1:-1] == (
        "c", 5, "audit", "amq.topic", "plant.hall/1.machine", True,
        *properties, FULL.body, arrived, None,
    )  # fmt: skip
    empty = ("c", 5, "audit", "events", "key", False, *[None] * 14)
    assert rows[1][1:-1] == (*empty, b"", arrived, None)
    assert rows[2][1:-1] == (*empty, b"\0\xff", arrived, None)
