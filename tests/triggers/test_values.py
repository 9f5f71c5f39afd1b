"""Values of every type keep their exact form in a message."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from support.changes import (
    LEVELS,
    changes,
    only,
    publish_changes,
    publish_rows,
)
from support.messages import Inbox
from support.sessions import Session

TYPES = {
    "numeric scale": ("numeric", "1.10", "1.10"),
    "numeric declared scale": ("numeric(10, 4)", "2.5", "2.5000"),
    "numeric beyond a double": (
        "numeric",
        "123456789012345678901234567890.123456789012345678901234567890",
        "123456789012345678901234567890.123456789012345678901234567890",
    ),
    "numeric NaN": ("numeric", "'NaN'", '"NaN"'),
    "bigint": ("bigint", "9223372036854775807", "9223372036854775807"),
    "smallest bigint": ("bigint", "-9223372036854775808", "-9223372036854775808"),
    "double": ("double precision", "0.1::float8 + 0.2::float8", "0.30000000000000004"),
    "double NaN": ("double precision", "'NaN'", '"NaN"'),
    "double infinity": ("double precision", "'-Infinity'", '"-Infinity"'),
    "boolean": ("boolean", "true", "true"),
    "text": ("text", "E'\"a\\\\b\\n\\u00e9 \\U0001F600'", '"\\"a\\\\b\\né 😀"'),
    "empty text": ("text", "''", '""'),
    "padded char": ("char(4)", "'ab'", '"ab  "'),
    "uuid": (
        "uuid",
        "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
        '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"',
    ),
    "timestamptz": (
        "timestamptz",
        "'2024-02-29 12:34:56.789012+02'",
        '"2024-02-29T16:04:56.789012+05:30"',
    ),
    "timestamp": ("timestamp", "'2024-02-29 12:34:56.5'", '"2024-02-29T12:34:56.5"'),
    "timestamp infinity": ("timestamptz", "'infinity'", '"infinity"'),
    "date": ("date", "'2024-02-29'", '"2024-02-29"'),
    "time": ("time", "'23:59:59.25'", '"23:59:59.25"'),
    "bytea": ("bytea", r"'\x00ff10'", r'"\\x00ff10"'),
    "integer array": ("integer[]", "'{1,NULL,3}'", "[1, null, 3]"),
    "array of arrays": ("numeric[]", "'{{1.0,2.00},{3,4}}'", "[[1.0, 2.00], [3, 4]]"),
    "empty array": ("text[]", "'{}'", "[]"),
    "composite": (
        "address",
        "ROW('Main St', 7.50, ARRAY['a', NULL])",
        '{"street": "Main St", "number": 7.50, "tags": ["a", null]}',
    ),
    "array of composites": (
        "address[]",
        "ARRAY[ROW('x', 1, NULL)::address, NULL]",
        '[{"street": "x", "number": 1, "tags": null}, null]',
    ),
    "jsonb": (
        "jsonb",
        """'{"b": 1.00, "a": [null, true, {"c": 12345678901234567890}]}'""",
        '{"b": 1.00, "a": [null, true, {"c": 12345678901234567890}]}',
    ),
    "json": ("json", """'{"b": 1.0, "a": "x"}'""", '{"b": 1.0, "a": "x"}'),
    "jsonb null": ("jsonb", "'null'", "null"),
    "enum": ("mood", "'very happy'", '"very happy"'),
    "domain": ("positive", "1.50", "1.50"),
    "range": ("int4range", "'[1,5)'", '"[1,5)"'),
    "inet": ("inet", "'10.0.0.1/8'", '"10.0.0.1/8"'),
    "null": ("numeric", "NULL", "null"),
}


def exact(text: bytes | str) -> Any:
    """Decode JSON so that 1.1 and 1.10 differ, and no number loses a digit."""
    return json.loads(
        text, parse_float=lambda digits: ("number", digits), parse_int=lambda d: ("number", d)
    )


@LEVELS
def test_values_keep_their_exact_form(session: Session, inbox: Inbox, level: str) -> None:
    session.execute(
        """
        SET DateStyle = 'German';
        SET TimeZone = 'Asia/Kolkata';
        SET IntervalStyle = 'sql_standard';
        SET bytea_output = 'hex';
        CREATE TYPE mood AS ENUM ('sad', 'very happy');
        CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
        CREATE TYPE address AS (street text, number numeric, tags text[])
        """
    )
    columns = ", ".join(f'"{name}" {type_}' for name, (type_, _, _) in TYPES.items())
    session.execute(f"CREATE TABLE item ({columns})")
    publish_changes(session, "item", level)
    session.execute(
        f"INSERT INTO item VALUES ({', '.join(value for _, value, _ in TYPES.values())})"
    )
    session.execute("UPDATE item SET boolean = boolean")
    session.execute("DELETE FROM item")
    inserted, updated, deleted = (exact(delivery.body) for delivery in inbox.drain())
    expected = {name: exact(text) for name, (_, _, text) in TYPES.items()}
    assert inserted["new"] == expected
    assert updated["new"] == updated["old"] == expected
    assert updated["changed"] == []
    assert deleted["old"] == expected
    time = datetime.fromisoformat(inserted["time"])
    assert abs(time - datetime.now(UTC)) < timedelta(minutes=1)


CHANGES = {
    "scale alone": ("numeric", "1.0", "1.00", True),
    "same numeric": ("numeric", "1.10", "1.10", False),
    "last digit of a bigint": ("bigint", "9223372036854775807", "9223372036854775806", True),
    "to null": ("text", "'x'", "NULL", True),
    "from null": ("text", "NULL", "''", True),
    "null stays": ("text", "NULL", "NULL", False),
    "case of letters": ("text", "'a'", "'A'", True),
    "text null": ("text", "NULL", "'null'", True),
    "array element to null": ("integer[]", "'{1}'", "'{NULL}'", True),
    "array order": ("integer[]", "'{1,2}'", "'{2,1}'", True),
    "composite field": ("pair", "ROW(1, 2)", "ROW(1, 3)", True),
    "jsonb value": ("jsonb", """'{"a": 1}'""", """'{"a": 2}'""", True),
    "jsonb type": ("jsonb", "'1'", """'"1"'""", True),
    "jsonb boolean to text": ("jsonb", "'true'", """'"true"'""", True),
    "jsonb member to null": ("jsonb", """'{"a": 1}'""", """'{"a": null}'""", True),
    "jsonb member goes": ("jsonb", """'{"a": null}'""", "'{}'", True),
    "jsonb order of keys": ("jsonb", """'{"a": 1, "b": 2}'""", """'{"b": 2, "a": 1}'""", False),
    "microsecond": ("timestamptz", "'2024-01-01 00:00:00.000001+00'", "'2024-01-01+00'", True),
    "bytea": ("bytea", r"'\x00'", r"'\x0000'", True),
    "NaN stays": ("double precision", "'NaN'", "'NaN'", False),
}


@LEVELS
def test_changed_columns(session: Session, inbox: Inbox, level: str) -> None:
    columns = ", ".join(f'"{name}" {type_}' for name, (type_, _, _, _) in CHANGES.items())
    values = ", ".join(old for _, old, _, _ in CHANGES.values())
    assignments = ", ".join(f'"{name}" = {new}' for name, (_, _, new, _) in CHANGES.items())
    session.execute("CREATE TYPE pair AS (a integer, b integer)")
    session.execute(f"CREATE TABLE item ({columns}); INSERT INTO item VALUES ({values})")
    publish_changes(session, "item", level)
    session.execute(f"UPDATE item SET {assignments}")
    changed = only(inbox.drain()).json["changed"]
    assert sorted(changed) == sorted(name for name, (*_, is_) in CHANGES.items() if is_)


@LEVELS
def test_generated_identity_and_dropped_columns(session: Session, inbox: Inbox, level: str) -> None:
    session.execute(
        """
        CREATE TABLE item (
            id integer GENERATED ALWAYS AS IDENTITY,
            gone text,
            price numeric,
            gross numeric GENERATED ALWAYS AS (price * 1.20) STORED
        );
        ALTER TABLE item DROP COLUMN gone
        """
    )
    publish_changes(session, "item", level)
    session.execute("INSERT INTO item (price) VALUES (10)")
    session.execute("ALTER TABLE item ADD COLUMN added text DEFAULT 'x'")
    session.execute("UPDATE item SET price = 20")
    old = {"id": 1, "price": 10, "gross": 12}
    assert changes(inbox) == [
        ("insert", old, None, None),
        (
            "update",
            {"id": 1, "price": 20, "gross": 24, "added": "x"},
            {**old, "added": "x"},
            ["gross", "price"],
        ),
    ]


def test_value_that_is_large(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE item (content text)")
    session.execute("ALTER TABLE item ALTER content SET STORAGE EXTERNAL")
    publish_rows(session, "item")
    session.execute("INSERT INTO item VALUES (repeat('é', 1000000))")
    session.execute("UPDATE item SET content = content || '!'")
    inserted, updated = (delivery.json for delivery in inbox.drain())
    assert inserted["new"]["content"] == "é" * 1000000
    assert updated["old"] == inserted["new"]
    assert updated["new"]["content"] == "é" * 1000000 + "!"
