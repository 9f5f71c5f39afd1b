"""The headers of a received message: from an AMQP table to Python's values and to JSON.

The type octets are those of RabbitMQ's errata, which differ from the specification, and as
RabbitMQ's own parser reads them: `l` and `L` are both signed, and a decimal is unsigned.

    t boolean           b B  8-bit integer, unsigned      f float      x bytes
    V null              s u 16-bit integer, unsigned      d double     S text
    T timestamp         I i 32-bit integer, unsigned      D decimal    A array
                        l L 64-bit integer                             F table
"""

from __future__ import annotations

import json
import math
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pg_amqp_py.wire.consume.arguments import Timestamp
from pg_amqp_py.wire.errors import MalformedError
from pg_amqp_py.wire.table import MOST_LEVELS, is_too_deep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NUMBERS = {
    ord(kind): struct.Struct(layout)
    for kind, layout in {
        "b": ">b",
        "B": ">B",
        "s": ">h",
        "u": ">H",
        "I": ">i",
        "i": ">I",
        "l": ">q",
        "L": ">q",
        "f": ">f",
        "d": ">d",
        "t": ">?",
    }.items()
}
_SIZED = b"SxFA"
_text, _bytes, _table, _array = _SIZED
_VOID, _TIMESTAMP, _DECIMAL = b"VTD"
_length = struct.Struct(">I").unpack_from
_OFFSET = b"\x0fx-stream-offset"


def decode_headers(raw: bytes) -> dict[str, Any]:
    """The table, whose length comes first, as Python's values.

    Bytes that are no UTF-8 become surrogates (errors="surrogateescape"). Raises MalformedError.
    """
    try:
        if int.from_bytes(raw[:4]) + 4 != len(raw):
            raise MalformedError("the headers are not as long as they say")
        table = _decode_table(raw, 4, len(raw))
    except (IndexError, struct.error):
        raise MalformedError("the headers are cut short") from None
    except RecursionError:
        raise MalformedError("the headers are nested too deeply") from None
    if raw.count(b"F") + raw.count(b"A") > MOST_LEVELS and is_too_deep(table):
        raise MalformedError("the headers are nested too deeply")
    return table


def _decode_table(raw: bytes, at: int, end: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    while at < end:
        behind = at + 1 + raw[at]
        key = raw[at + 1 : behind].decode("utf-8", "surrogateescape")
        if raw[behind] == _text:
            # Most are: a call for each would cost as much as decoding it.
            begin = behind + 5
            (size,) = _length(raw, behind + 1)
            at = begin + size
            table[key] = raw[begin:at].decode("utf-8", "surrogateescape")
        else:
            table[key], at = _decode_value(raw, behind)
    if at != end:
        raise MalformedError("the headers are cut short")
    return table


def _decode_value(raw: bytes, at: int) -> tuple[Any, int]:
    kind, at = raw[at], at + 1
    if kind in _SIZED:
        # A value that ends too late is noticed where its table or array ends.
        begin = at + 4
        (size,) = _length(raw, at)
        behind = begin + size
        if kind == _text:
            return raw[begin:behind].decode("utf-8", "surrogateescape"), behind
        if kind == _table:
            return _decode_table(raw, begin, behind), behind
        if kind == _array:
            return _decode_array(raw, begin, behind), behind
        return raw[begin:behind], behind
    number = _NUMBERS.get(kind)
    if number is not None:
        return number.unpack_from(raw, at)[0], at + number.size
    if kind == _VOID:
        return None, at
    if kind == _TIMESTAMP:
        return Timestamp(*struct.unpack_from(">Q", raw, at)), at + 8
    if kind == _DECIMAL:
        scale, digits = struct.unpack_from(">BI", raw, at)
        return Decimal(digits).scaleb(-scale), at + 5
    raise MalformedError(f"the headers have a value of type {kind:#04x}")


def _decode_array(raw: bytes, at: int, end: int) -> list[Any]:
    items = []
    while at < end:
        item, at = _decode_value(raw, at)
        items.append(item)
    if at != end:
        raise MalformedError("the headers are cut short")
    return items


# -- JSON ------------------------------------------------------------------------------


def headers_as_json(raw: bytes) -> bytes:
    """The table as JSON text for jsonb. Raises MalformedError.

    What is no UTF-8, or holds a NUL, becomes text that jsonb refuses: it cannot hold it.
    """
    return _as_json(decode_headers(raw))


def readable_headers_as_json(raw: bytes) -> bytes:
    """The table as JSON text for people, which jsonb accepts always. Raises MalformedError.

    What is no UTF-8, and NUL, is shown by escapes: `\\xff`, `\\x00`.
    """
    return _as_json(_readable(decode_headers(raw)))


def _as_json(table: dict[str, Any]) -> bytes:
    try:
        return _write(table, _unicode).encode()
    except UnicodeEncodeError:
        # Surrogates: written as escapes, for jsonb to refuse.
        return _write(table, _ascii).encode()


def _write(table: dict[str, Any], encode: Callable[[Any], str]) -> str:
    try:
        return encode(table)
    except ValueError:
        return _write_value(table, encode)


def _write_value(value: Any, encode: Callable[[Any], str]) -> str:
    """JSON text, also of numbers that Python's encoder does not write as they should be."""
    if isinstance(value, dict):
        members = [f"{encode(key)}:{_write_value(item, encode)}" for key, item in value.items()]
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join([_write_value(item, encode) for item in value]) + "]"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, float) and not math.isfinite(value):
        return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'
    return encode(value)


def _plain(value: Any) -> Any:
    """What JSON has, for a value that it has not."""
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, Timestamp):
        try:
            moment = datetime.fromtimestamp(value.seconds, UTC)
        except (OverflowError, ValueError, OSError):
            return value.seconds
        return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    raise ValueError


_unicode, _ascii = (
    json.JSONEncoder(
        ensure_ascii=ascii_alone,
        allow_nan=False,
        check_circular=False,
        separators=(",", ":"),
        default=_plain,
    ).encode
    for ascii_alone in (False, True)
)


def _readable(value: Any) -> Any:
    """The same with texts that can be stored."""
    if isinstance(value, str):
        raw = value.encode(errors="surrogateescape")
        return raw.decode(errors="backslashreplace").replace("\0", "\\x00")
    if isinstance(value, dict):
        return {_readable(key): _readable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return value


# -- streams ---------------------------------------------------------------------------


def stream_offset(raw: bytes | None) -> int | None:
    """Where in its stream a message is, of its headers; None if it comes from no stream.

    The first of that name counts: RabbitMQ puts its own before what a publisher has called so.
    """
    if raw is None or _OFFSET not in raw:
        return None
    at, end = 4, len(raw)
    try:
        while at < end:
            behind = at + 1 + raw[at]
            value, next_at = _decode_value(raw, behind)
            if raw[at:behind] == _OFFSET:
                return value if type(value) is int else None
            at = next_at
    except (IndexError, struct.error, RecursionError):
        raise MalformedError("the headers are cut short") from None
    return None
