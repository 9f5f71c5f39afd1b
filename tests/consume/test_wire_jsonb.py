"""Headers as JSON text, and what PostgreSQL's jsonb takes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from pg_amqp_py.wire.consume.headers import headers_as_json, readable_headers_as_json
from pg_amqp_py.wire.errors import MalformedError
from servers.postgres import PostgreSQL
from support.deliveries import field, seeded, sized, table


@pytest.fixture
def server(postgres: PostgreSQL) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        yield connection


def as_jsonb(server: psycopg.Connection[Any], text: bytes) -> Any:
    """What becomes of a text in a column of type jsonb."""
    query = "SELECT convert_from(%s, 'UTF8')::jsonb::text"
    found = server.execute(query, [text]).fetchone()
    assert found is not None
    return json.loads(found[0], parse_float=Decimal)


def test_every_type(server: psycopg.Connection[Any]) -> None:
    raw = table(
        (b"boolean", field("t", ">B", 1)),
        (b"void", b"V"),
        (b"long", field("l", ">q", -(1 << 63))),
        (b"float", field("f", ">f", 0.1)),
        (b"double", field("d", ">d", 1.7976931348623157e308)),
        (b"small", field("d", ">d", 5e-324)),
        (b"nan", field("d", ">d", math.nan)),
        (b"decimal", field("D", ">BI", 255, 4294967295)),
        (b"moment", field("T", ">Q", 1_793_491_200)),
        (b"bytes", sized("x", b"\x0a\x1b")),
        (b"text", sized("S", 'ü "€" \\ 😀\x01\x7f'.encode())),
        (b"table", b"F" + table((b"", sized("A", b"V")))),
    )
    found = as_jsonb(server, headers_as_json(raw))
    assert found == {
        "boolean": True,
        "void": None,
        "long": -(1 << 63),
        "float": Decimal("0.10000000149011612"),
        "double": 17976931348623157 * 10**292,
        "small": Decimal("5e-324"),
        "nan": "NaN",
        "decimal": Decimal("4294967295e-255"),
        "moment": "2026-11-01T00:00:00Z",
        "bytes": "\\x0a1b",
        "text": 'ü "€" \\ 😀\x01\x7f',
        "table": {"": [None]},
    }
    query = "SELECT (%s::jsonb ->> 'moment')::timestamptz = '2026-11-01 00:00+00'"
    query += ", (%s::jsonb ->> 'bytes')::bytea"
    text = headers_as_json(raw).decode()
    assert server.execute(query, [text, text]).fetchone() == (True, b"\x0a\x1b")


@pytest.mark.parametrize("data", [b"\xff", b"a\xe2\x82", b"\xed\xa0\xbd\xed\xb8\x80", b"\0"])
def test_what_jsonb_refuses_and_people_can_read(
    server: psycopg.Connection[Any], data: bytes
) -> None:
    for raw in (table((b"k", sized("S", data))), table((data, b"V"))):
        with pytest.raises(psycopg.DataError):
            as_jsonb(server, headers_as_json(raw))
        assert as_jsonb(server, readable_headers_as_json(raw))


def test_whatever_can_be_read_can_be_read_by_people(server: psycopg.Connection[Any]) -> None:
    chance = seeded()
    values = [
        sized("S", bytes(range(256))),
        sized("x", bytes(range(256))),
        field("d", ">d", 1.5),
        field("T", ">Q", (1 << 64) - 1),
        b"F" + table((b"k\xc3", sized("A", field("D", ">BI", 200, 7)))),
    ]
    whole = table(*((b"k%d" % at, value) for at, value in enumerate(values)))
    accepted = 0
    for _ in range(500):
        raw = bytearray(whole)
        for _ in range(chance.randint(1, 20)):
            raw[chance.randrange(4, len(raw))] = chance.randrange(256)
        try:
            text = readable_headers_as_json(bytes(raw))
        except MalformedError:
            continue
        as_jsonb(server, text)
        accepted += 1
    assert accepted > 10
