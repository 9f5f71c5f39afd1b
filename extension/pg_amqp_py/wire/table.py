"""AMQP field tables from and to JSON values (AMQP 0-9-1, section 4.2.5.5).

pika has no encoding for doubles and cuts them to integers when it decodes them, so tables are
done here. The type octets are those of RabbitMQ's errata, which differ from the specification:

    S string   I 32-bit integer   l 64-bit integer   d double   t boolean   V null
    F table    A array
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

from pg_amqp_py.wire.errors import MessageError, RangeError, TooLargeError, TooLongError
from pg_amqp_py.wire.message import JSON

_length = struct.Struct(">I")


def parse_table(text: str, field: str) -> dict[str, JSON]:
    """The table that a JSON object describes; `field` is named in errors.

    Raises MessageError if the text is no JSON object, RangeError for a number that neither
    a 64-bit integer nor a double can hold, TooLargeError if it is nested too deeply.
    """

    def integer(digits: str) -> int:
        number = int(digits) if len(digits) <= 20 else 1 << 64
        if not -(1 << 63) <= number < 1 << 63:
            raise RangeError(field, f"integer {digits[:40]} is out of range")
        return number

    def double(digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            raise RangeError(field, f"number {digits[:40]} is out of range")
        return number

    try:
        table = json.loads(text, parse_int=integer, parse_float=double)
    except RecursionError:
        raise TooLargeError(field, "nested too deeply") from None
    if not isinstance(table, dict):
        raise MessageError(field, "not a JSON object")
    return table


def encode_table(table: dict[str, JSON], field: str) -> bytes:
    """The bytes of a field table, its length included.

    Raises TooLongError for a key of more than 255 bytes, TooLargeError for too deep a nesting.
    """
    try:
        return _encode_table(table, field)
    except RecursionError:
        raise TooLargeError(field, "nested too deeply") from None


def _encode_table(table: dict[str, JSON], field: str) -> bytes:
    parts: list[bytes] = []
    for key, value in table.items():
        name = key.encode()
        if len(name) > 255:
            raise TooLongError(field, f"a key of {len(name)} bytes")
        parts += (bytes((len(name),)), name, _encode_value(value, field))
    payload = b"".join(parts)
    return _length.pack(len(payload)) + payload


def _encode_value(value: JSON, field: str) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return b"S" + _length.pack(len(text)) + text
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t\1" if value else b"t\0"
    if isinstance(value, int):
        return (
            struct.pack(">ci", b"I", value)
            if -(1 << 31) <= value < 1 << 31
            else struct.pack(">cq", b"l", value)
        )
    if isinstance(value, float):
        return struct.pack(">cd", b"d", value)
    if isinstance(value, list):
        payload = b"".join([_encode_value(item, field) for item in value])
        return b"A" + _length.pack(len(payload)) + payload
    return b"F" + _encode_table(value, field)


def decode_table(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    """The table at offset `at` and the offset behind it; only types that encode_table writes."""
    end = at + 4 + int(_length.unpack_from(data, at)[0])
    at += 4
    table = {}
    while at < end:
        behind = at + 1 + data[at]
        key = data[at + 1 : behind].decode()
        table[key], at = _decode_value(data, behind)
    return table, at


def _decode_value(data: bytes, at: int) -> tuple[Any, int]:
    kind, at = data[at : at + 1], at + 1
    if kind == b"V":
        return None, at
    if kind == b"t":
        return data[at] != 0, at + 1
    if kind in _NUMBERS:
        number = _NUMBERS[kind]
        return number.unpack_from(data, at)[0], at + number.size
    if kind == b"F":
        return decode_table(data, at)
    end = at + 4 + int(_length.unpack_from(data, at)[0])
    at += 4
    if kind == b"S":
        return data[at:end].decode(), end
    items = []
    while at < end:
        item, at = _decode_value(data, at)
        items.append(item)
    return items, end


_NUMBERS = {b"I": struct.Struct(">i"), b"l": struct.Struct(">q"), b"d": struct.Struct(">d")}
