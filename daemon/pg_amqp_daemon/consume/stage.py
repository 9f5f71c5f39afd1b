"""The rows of the stage: messages as COPY takes them in its binary format.

PostgreSQL chapter COPY, "Binary Format". What a message holds goes as it came: whether a text is
one is for the server to say.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from itertools import chain
from operator import attrgetter

from pg_amqp_daemon.consume.batch import Batch
from pg_amqp_py.wire.consume.headers import headers_as_json, stream_offset
from pg_amqp_py.wire.consume.properties import Properties, split_properties

CREATE = """
CREATE TEMPORARY TABLE amqp_stage (n integer, retried boolean, LIKE amqp.message)
ON COMMIT DELETE ROWS
"""
EMPTY = "DELETE FROM pg_temp.amqp_stage"
_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_EPOCH = 946_684_800
"""Seconds from 1970 to 2000, where PostgreSQL's time begins."""
_LATEST = (1 << 63) - 2
"""Microseconds that are refused as out of range; one more would be infinity."""
_USED = re.compile(r'\bs\."?([a-z_]+)')

_pack_length = struct.Struct(">i").pack
_pack_start = struct.Struct(">hiiiB").pack
_pack_integer = struct.Struct(">ii").pack
_pack_bigint = struct.Struct(">iq").pack

_Encode = Callable[[Batch, list[Properties]], list[bytes]]
"""Gives a column: of each message its value with the length before it."""


def _bytes(value: bytes | None) -> bytes:
    return _NULL if value is None else _pack_length(len(value)) + value


def _moment(seconds: float) -> bytes:
    return _pack_bigint(8, min(int((seconds - _EPOCH) * 1_000_000), _LATEST))


def _header(raw: bytes | None) -> bytes:
    # jsonb begins with the version of its format.
    return _NULL if raw is None else _bytes(b"\1" + headers_as_json(raw))


def _offset(raw: bytes | None) -> bytes:
    offset = stream_offset(raw)
    return _NULL if offset is None else _pack_bigint(8, offset)


def _place(name: str) -> _Encode:
    of = attrgetter(name)
    return lambda batch, _properties: [*map(_bytes, map(of, batch.deliveries))]


def _redelivered(batch: Batch, _properties: list[Properties]) -> list[bytes]:
    return [b"\0\0\0\1\1" if one.redelivered else b"\0\0\0\1\0" for one in batch.deliveries]


def _text(name: str) -> _Encode:
    of = attrgetter(name)

    def encode(_batch: Batch, properties: list[Properties]) -> list[bytes]:
        # As _bytes() does: a call more would be felt with every message.
        return [
            _NULL if value is None else _pack_length(len(value)) + value
            for value in map(of, properties)
        ]

    return encode


def _integer(name: str) -> _Encode:
    of = attrgetter(name)
    return lambda _batch, properties: [
        _NULL if value is None else _pack_integer(4, value) for value in map(of, properties)
    ]


_ENCODERS: dict[str, _Encode] = {
    "exchange": _place("exchange"),
    "routing_key": _place("routing_key"),
    "redelivered": _redelivered,
    **{name: _text(name) for name in Properties._fields},
    "headers": lambda _batch, properties: [_header(one.headers) for one in properties],
    "delivery_mode": _integer("delivery_mode"),
    "priority": _integer("priority"),
    "timestamp": lambda _batch, properties: [
        _NULL if one.timestamp is None else _moment(one.timestamp) for one in properties
    ],
    "received_at": lambda batch, _properties: [*map(_moment, batch.received)],
    "stream_offset": lambda _batch, properties: [_offset(one.headers) for one in properties],
}


class Stage:
    """The columns that a statement reads of the stage, and how to fill them."""

    def __init__(self, statement: str, *, is_stream: bool) -> None:
        used = set(_USED.findall(statement))
        if not is_stream:
            # A publisher may have written one into its headers.
            used.discard("stream_offset")
        names = [name for name in _ENCODERS if name in used]
        self._encoders = [_ENCODERS[name] for name in names]
        self._has_body = "body" in used
        columns = ["n", "retried", *names, *(["body"] if self._has_body else [])]
        self._columns = len(columns)
        quoted = ", ".join(f'"{name}"' for name in columns)
        self.copy = f"COPY pg_temp.amqp_stage ({quoted}) FROM STDIN (FORMAT binary)"
        """The statement that takes data()."""

    def data(self, *rows: bytes) -> bytes:
        """What rows() has given, as the server takes it."""
        return b"".join((_BEGIN, *rows, _END))

    def rows(self, batch: Batch, first: int = 0) -> bytes:
        """The messages of a batch, numbered from `first` on. Raises MalformedError."""
        properties = [split_properties(one.properties) for one in batch.deliveries]
        retried = batch.dead is not None
        numbers = range(first, first + len(properties))
        # Column by column: to go through them with each message takes half as long again.
        columns = [[_pack_start(self._columns, 4, n, 1, retried) for n in numbers]]
        columns += [encode(batch, properties) for encode in self._encoders]
        if self._has_body:
            bodies = [one.body for one in batch.deliveries]
            columns += [[*map(_pack_length, map(len, bodies))], bodies]
        return b"".join(chain.from_iterable(zip(*columns, strict=True)))
