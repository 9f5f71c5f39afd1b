"""The headers of a received message: every type that RabbitMQ knows, as values and as JSON."""

from __future__ import annotations

import json
import math
import random
import struct
from decimal import Decimal
from typing import Any

import pika.data
import pytest

from pg_amqp_py.wire.consume.arguments import Timestamp
from pg_amqp_py.wire.consume.headers import (
    decode_headers,
    headers_as_json,
    readable_headers_as_json,
    stream_offset,
)
from pg_amqp_py.wire.errors import MalformedError
from pg_amqp_py.wire.table import encode_table
from support.deliveries import (
    INTEGERS,
    field,
    number_of_any_type,
    random_text,
    seeded,
    sized,
    table,
)

MOMENT = 1_793_491_200
"""2026-11-01."""
LARGE = (1 << 64) - 1

VALUES: dict[str, tuple[bytes, Any, str]] = {
    "true": (field("t", ">B", 1), True, "true"),
    "false": (field("t", ">B", 0), False, "false"),
    "true in another way": (field("t", ">B", 255), True, "true"),
    "b": (field("b", ">b", -128), -128, "-128"),
    "B": (field("B", ">B", 255), 255, "255"),
    "s": (field("s", ">h", -32768), -32768, "-32768"),
    "u": (field("u", ">H", 65535), 65535, "65535"),
    "I": (field("I", ">i", -(1 << 31)), -(1 << 31), "-2147483648"),
    "i": (field("i", ">I", (1 << 32) - 1), (1 << 32) - 1, "4294967295"),
    "l": (field("l", ">q", -(1 << 63)), -(1 << 63), "-9223372036854775808"),
    "L": (field("L", ">q", -1), -1, "-1"),
    "f": (field("f", ">f", 0.1), 0.10000000149011612, "0.10000000149011612"),
    "f of few bits": (field("f", ">f", 0.5), 0.5, "0.5"),
    "d": (field("d", ">d", 0.1), 0.1, "0.1"),
    "d that is large": (field("d", ">d", 1.7976931348623157e308), 1.7976931348623157e308, ""),
    "infinity": (field("d", ">d", math.inf), math.inf, '"Infinity"'),
    "below all": (field("f", ">f", -math.inf), -math.inf, '"-Infinity"'),
    "decimal": (field("D", ">BI", 2, 12345), Decimal("123.45"), "123.45"),
    "decimal with zeros": (field("D", ">BI", 3, 1000), Decimal("1.000"), "1.000"),
    "decimal without": (field("D", ">BI", 0, LARGE >> 32), Decimal(4294967295), "4294967295"),
    "decimal that is tiny": (field("D", ">BI", 255, 1), Decimal("1e-255"), f"0.{'0' * 254}1"),
    "T": (field("T", ">Q", MOMENT), Timestamp(MOMENT), '"2026-11-01T00:00:00Z"'),
    "the first": (field("T", ">Q", 0), Timestamp(0), '"1970-01-01T00:00:00Z"'),
    "the last of datetime": (
        field("T", ">Q", 253402300799),
        Timestamp(253402300799),
        '"9999-12-31T23:59:59Z"',
    ),
    "behind it": (field("T", ">Q", 253402300800), Timestamp(253402300800), "253402300800"),
    "the last of all": (field("T", ">Q", LARGE), Timestamp(LARGE), str(LARGE)),
    "S": (sized("S", 'aß€😀"\\\n'.encode()), 'aß€😀"\\\n', '"aß€😀\\"\\\\\\n"'),
    "S of nothing": (sized("S", b""), "", '""'),
    "x": (sized("x", b"\x0a\x1b\xff\0"), b"\x0a\x1b\xff\0", '"\\\\x0a1bff00"'),
    "x of nothing": (sized("x", b""), b"", '"\\\\x"'),
    "V": (b"V", None, "null"),
    "F": (b"F" + table((b"k", b"V"), (b"n", field("I", ">i", 1))), {"k": None, "n": 1}, ""),
    "F of nothing": (b"F" + table(), {}, "{}"),
    "A": (sized("A", b"V" + field("B", ">B", 7) + sized("S", b"x")), [None, 7, "x"], ""),
    "A of nothing": (sized("A", b""), [], "[]"),
    "A of A": (sized("A", sized("A", b"V") + b"F" + table()), [[None], {}], "[[null],{}]"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_type(name: str) -> None:
    encoded, value, text = VALUES[name]
    raw = table((b"h", encoded))
    found = decode_headers(raw)["h"]
    assert (found, type(found)) == (value, type(value))
    text = text or json.dumps(value, separators=(",", ":"))
    assert headers_as_json(raw) == b'{"h":%b}' % text.encode()
    assert readable_headers_as_json(raw) == headers_as_json(raw)


@pytest.mark.parametrize("layout", ["f", "d"])
def test_what_is_no_number(layout: str) -> None:
    raw = table((b"h", field(layout, f">{layout}", math.nan)))
    assert math.isnan(decode_headers(raw)["h"])
    assert headers_as_json(raw) == b'{"h":"NaN"}'


def test_all_types_in_one_table() -> None:
    raw = table(*((name.encode(), encoded) for name, (encoded, _, _) in VALUES.items()))
    assert decode_headers(raw) == {name: value for name, (_, value, _) in VALUES.items()}
    texts = json.loads(headers_as_json(raw), parse_float=Decimal)
    for name, (_, value, text) in VALUES.items():
        found = json.loads(text or json.dumps(value), parse_float=Decimal)
        assert texts[name] == found, name


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_of_every_type(kind: str) -> None:
    chance = seeded()
    for _ in range(200):
        encoded, number = number_of_any_type(kind, chance)
        raw = table((b"n", encoded))
        assert decode_headers(raw) == {"n": number}
        assert headers_as_json(raw) == b'{"n":%d}' % number


@pytest.mark.parametrize(("kind", "layout"), [("f", ">f"), ("d", ">d")])
def test_floats_come_back_as_the_same_double(kind: str, layout: str) -> None:
    chance = seeded()
    for _ in range(2000):
        raw = chance.randbytes(struct.calcsize(layout))
        (number,) = struct.unpack(layout, raw)
        if math.isfinite(number):
            text = headers_as_json(table((b"n", kind.encode() + raw)))
            assert struct.pack(">d", json.loads(text)["n"]) == struct.pack(">d", number)


def random_value(chance: random.Random, levels: int) -> Any:
    """What wire.table can encode."""
    kinds = ["text", "integer", "long", "double", "boolean", "null", "array", "table"]
    kind = chance.choice(kinds[: 8 if levels else 6])
    if kind == "text":
        return random_text(chance, 40)
    if kind == "integer":
        return chance.randint(-(1 << 31), (1 << 31) - 1)
    if kind == "long":
        return chance.randint(-(1 << 63), (1 << 63) - 1)
    if kind == "double":
        return chance.uniform(-1e9, 1e9)
    if kind == "array":
        return [random_value(chance, levels - 1) for _ in range(chance.randint(0, 5))]
    if kind == "table":
        return random_table(chance, levels - 1)
    return {"boolean": chance.random() < 0.5, "null": None}[kind]


def random_table(chance: random.Random, levels: int = 4) -> dict[str, Any]:
    count = chance.randint(0, 6)
    return {random_text(chance, 30): random_value(chance, levels) for _ in range(count)}


def test_what_is_published_is_read() -> None:
    chance = seeded()
    for _ in range(500):
        headers = random_table(chance)
        raw = encode_table(headers, "headers")
        assert decode_headers(raw) == headers
        assert json.loads(headers_as_json(raw)) == headers


def test_what_pika_writes() -> None:
    headers = {
        "a": 1,
        "b": 1 << 40,
        "c": "ü",
        "d": True,
        "e": None,
        "f": [1, {"g": Decimal("1.5")}],
    }
    pieces: list[bytes] = []
    pika.data.encode_table(pieces, headers)
    assert decode_headers(b"".join(pieces)) == headers


# -- what jsonb cannot hold ----------------------------------------------------------------------


def test_what_is_no_utf_8_becomes_what_jsonb_refuses() -> None:
    raw = table((b"\xffk", sized("A", sized("S", b"a\xe2\x82"))), (b"ok", sized("S", "ü".encode())))
    assert decode_headers(raw) == {"\udcffk": ["a\udce2\udc82"], "ok": "ü"}
    assert headers_as_json(raw) == b'{"\\udcffk":["a\\udce2\\udc82"],"ok":"\\u00fc"}'
    assert readable_headers_as_json(raw).decode() == r'{"\\xffk":["a\\xe2\\x82"],"ok":"ü"}'


def test_surrogates_in_utf_8_do_not_become_a_letter() -> None:
    # 😀 as two surrogates of three bytes each: as escapes, jsonb would take them together.
    raw = table((b"k", sized("S", "\ud83d\ude00".encode(errors="surrogatepass"))))
    assert b"\\ud83d" not in headers_as_json(raw)
    assert readable_headers_as_json(raw) == rb'{"k":"\\xed\\xa0\\xbd\\xed\\xb8\\x80"}'


def test_nul() -> None:
    raw = table((b"a\0", sized("S", b"\0")), (b"b", sized("S", rb"\u0000")))
    assert headers_as_json(raw) == rb'{"a\u0000":"\u0000","b":"\\u0000"}'
    assert readable_headers_as_json(raw) == rb'{"a\\x00":"\\x00","b":"\\u0000"}'


def test_numbers_beside_what_is_no_utf_8() -> None:
    raw = table((b"d", field("D", ">BI", 1, 15)), (b"t", sized("S", b"\xff")))
    assert headers_as_json(raw) == b'{"d":1.5,"t":"\\udcff"}'


def test_of_two_values_of_one_name_the_last_counts() -> None:
    # As in jsonb.
    raw = table((b"k", field("B", ">B", 1)), (b"k", field("B", ">B", 2)))
    assert headers_as_json(raw) == b'{"k":2}'


# -- what is no table ----------------------------------------------------------------------------


def test_what_is_cut_short_at_any_byte() -> None:
    whole = table(*((name.encode(), encoded) for name, (encoded, _, _) in VALUES.items()))
    for size in range(len(whole)):
        with pytest.raises(MalformedError):
            decode_headers(whole[:size])
        if size > 4:
            # The same, and its length says so.
            payload = whole[4:size]
            try:
                decode_headers(struct.pack(">I", len(payload)) + payload)
            except MalformedError:
                pass


@pytest.mark.parametrize("kind", ["S", "x", "F", "A"])
def test_a_value_longer_than_what_is_around_it(kind: str) -> None:
    inner = field(kind, ">I", 3) + b"\1kV"
    for outer in (
        table((b"k", field(kind, ">I", 4) + b"\1kV")),
        # It ends within the message, but not within its own table or array.
        table((b"k", b"F\0\0\0\7\1k" + inner[:5]), (b"l", b"V")),
        table((b"k", b"A\0\0\0\5" + inner), (b"l", b"V")),
    ):
        with pytest.raises(MalformedError):
            decode_headers(outer)


@pytest.mark.parametrize("kind", [*"tbBsuIilLfdDT"])
def test_a_number_longer_than_what_is_around_it(kind: str) -> None:
    cut = kind.encode() + bytes({"t": 0, "b": 0, "B": 0}.get(kind, 1))
    for outer in (
        table((b"k", cut)),
        table((b"k", sized("A", cut)), (b"l", sized("x", bytes(8)))),
        table((b"k", sized("F", b"\1j" + cut)), (b"l", sized("x", bytes(8)))),
    ):
        with pytest.raises(MalformedError):
            decode_headers(outer)


@pytest.mark.parametrize("kind", [*"acnzZ\0\xff"])
def test_a_type_that_nobody_knows(kind: str) -> None:
    with pytest.raises(MalformedError, match=f"a value of type 0x{ord(kind):02x}"):
        decode_headers(table((b"k", kind.encode("latin-1") + bytes(8))))


def test_any_bytes_are_a_table_or_malformed() -> None:
    chance = seeded()
    whole = bytearray(table(*((b"k", encoded) for encoded, _, _ in VALUES.values())))
    for _ in range(5000):
        raw = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(4, len(raw))] = chance.choice([0, 1, 255, chance.randrange(256)])
        try:
            decode_headers(bytes(raw))
        except MalformedError:
            continue
        json.loads(headers_as_json(bytes(raw)))
        json.loads(readable_headers_as_json(bytes(raw)))


def nested(levels: int, kind: str, inner: bytes = b"") -> bytes:
    """The header `h`, of so many levels."""
    for _ in range(levels - 1):
        value = sized(kind, inner)
        inner = b"\1k" + value if kind == "F" else value
    return table((b"h", sized(kind, inner)))


@pytest.mark.parametrize("kind", ["F", "A"])
def test_many_levels(kind: str) -> None:
    deepest = nested(199, kind)
    assert headers_as_json(deepest).count(b"{" if kind == "F" else b"[") >= 199
    assert readable_headers_as_json(deepest) == headers_as_json(deepest)
    for levels in (200, 300, 5_000):
        for function in (decode_headers, headers_as_json, readable_headers_as_json):
            with pytest.raises(MalformedError, match="nested too deeply"):
                function(nested(levels, kind))


@pytest.mark.parametrize("kind", ["F", "A"])
def test_many_levels_with_numbers_that_python_does_not_write(kind: str) -> None:
    number = field("D", ">BI", 1, 15)
    deepest = nested(199, kind, b"\1n" + number if kind == "F" else number)
    assert b"1.5" in headers_as_json(deepest)


def test_many_values_are_no_levels() -> None:
    raw = table(*((b"%d" % number, b"F" + table()) for number in range(1000)))
    assert len(decode_headers(raw)) == 1000


# -- streams -------------------------------------------------------------------------------------

OFFSET = (b"x-stream-offset", field("l", ">q", 1 << 40))


@pytest.mark.parametrize(
    "raw",
    [
        table(OFFSET),
        table((b"a", sized("S", b"x")), OFFSET, (b"z", b"V")),
        table(
            *((b"h%d" % at, encoded) for at, (encoded, _, _) in enumerate(VALUES.values())), OFFSET
        ),
        # In RabbitMQ's place comes what a publisher may have called so.
        table(OFFSET, (b"x-stream-offset", field("l", ">q", 7))),
        # It only looks like one.
        table((b"a", sized("S", b"\x0fx-stream-offsetl" + bytes(8))), OFFSET),
        table((b"a", b"F" + table((b"x-stream-offset", field("l", ">q", 7)))), OFFSET),
    ],
)
def test_the_offset_of_a_stream(raw: bytes) -> None:
    assert stream_offset(raw) == 1 << 40


@pytest.mark.parametrize(
    "raw",
    [
        None,
        table(),
        table((b"x-stream-offsets", field("l", ">q", 7))),
        table((b"a", sized("S", b"\x0fx-stream-offsetl" + bytes(8)))),
        table((b"x-stream-offset", sized("S", b"7"))),
        table((b"x-stream-offset", field("t", ">B", 1))),
    ],
)
def test_no_offset_of_a_stream(raw: bytes | None) -> None:
    assert stream_offset(raw) is None


def test_an_offset_that_is_cut_short() -> None:
    for size in range(20, 28):
        with pytest.raises(MalformedError):
            stream_offset(table(OFFSET)[:size])
