"""AMQP field tables from and to JSON values (AMQP 0-9-1, section 4.2.5.5).

pika has no encoding for doubles and cuts them to integers when it decodes them, so tables are
done here. The type octets are those of RabbitMQ's errata, which differ from the specification:

    S string   I 32-bit integer   l 64-bit integer   d double   t boolean   V null
    F table    A array
"""

from __future__ import annotations

import struct

from pg_amqp_py.wire.errors import MessageError, RangeError, TooLargeError, TooLongError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    JSON = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None
    """What message headers and declaration arguments are given as."""

MOST_LEVELS = 200
"""As amqp_inner.outbox_check_headers() has it."""
OCTETS = tuple(bytes((number,)) for number in range(256))
_INFINITE = float("inf"), float("-inf")
_SHOWN = 40
"""Digits of a number that an error shows."""
_length = struct.Struct(">I")
_pack_length = _length.pack
_pack_integer = struct.Struct(">ci").pack
_pack_long = struct.Struct(">cq").pack
_pack_double = struct.Struct(">cd").pack


_decode: Callable[[str], tuple[Any, int]] | None = None


def parse_table(text: str, field: str) -> dict[str, JSON]:
    """The table that a JSON object describes; `field` is named in errors.

    Raises MessageError if the text is no JSON object, RangeError for a number of thousands of
    digits, TooLargeError if it is nested too deeply.
    """
    global _decode
    if _decode is None:
        # Here, because most sessions never publish headers.
        import json

        _decode = json.JSONDecoder().raw_decode
    try:
        table, _ = _decode(text)
    except RecursionError:
        raise TooLargeError(field, "nested too deeply") from None
    except ValueError:
        # It was jsonb: nothing else can be wrong with it.
        raise RangeError(field, "an integer is out of range") from None
    if not isinstance(table, dict):
        raise MessageError(field, "not a JSON object")
    if text.count("{") + text.count("[") > MOST_LEVELS and is_too_deep(table):
        raise TooLargeError(field, "nested too deeply")
    return table


def is_too_deep(table: dict[str, Any]) -> bool:
    """Whether a table has more levels than can be coded wherever more is on the stack."""
    level: list[Any] = [table]
    for _ in range(MOST_LEVELS):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return False
    return True


def to_json(table: dict[str, Any]) -> str:
    """The JSON text of a table."""
    import json

    return json.dumps(table, ensure_ascii=False)


def encode_table(table: dict[str, JSON], field: str) -> bytes:
    """The bytes of a field table, its length included.

    Raises TooLongError for a key of more than 255 bytes, TooLargeError for too deep a nesting,
    RangeError for a number that neither a 64-bit integer nor, if it is whole exactly, a double can
    hold.
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
        if type(value) is str:
            # Most are: a call for each would cost as much as encoding it.
            text = value.encode()
            parts += OCTETS[len(name)], name, b"S", _pack_length(len(text)), text
        else:
            parts += OCTETS[len(name)], name, _encode_value(value, field)
    payload = b"".join(parts)
    return _pack_length(len(payload)) + payload


def _encode_value(value: JSON, field: str) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return b"S%b%b" % (_pack_length(len(text)), text)
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t\1" if value else b"t\0"
    if isinstance(value, int):
        if -(1 << 31) <= value < 1 << 31:
            return _pack_integer(b"I", value)
        if -(1 << 63) <= value < 1 << 63:
            return _pack_long(b"l", value)
        return _pack_double(b"d", _exact_double(value, field))
    if isinstance(value, float):
        if value in _INFINITE:
            raise RangeError(field, "a number is out of range")
        return _pack_double(b"d", value)
    if isinstance(value, list):
        payload = b"".join([_encode_value(item, field) for item in value])
        return b"A%b%b" % (_pack_length(len(payload)), payload)
    return b"F" + _encode_table(value, field)


def _exact_double(value: int, field: str) -> float:
    """An integer of more than 64 bits, such as 1e20 in JSON, if it is a double exactly."""
    try:
        number = float(value)
    except OverflowError:
        number = 0.0
    if int(number) != value:
        digits = str(value)
        shown = digits if len(digits) <= _SHOWN else f"{digits[:_SHOWN]}..."
        raise RangeError(field, f"{shown} is neither an integer of 64 bits nor exactly a double")
    return number


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
