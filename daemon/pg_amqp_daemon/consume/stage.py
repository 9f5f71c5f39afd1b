"""The rows of the stage: messages as COPY takes them in its binary format.

PostgreSQL chapter COPY, "Binary Format". What a message holds goes as it came: whether a text is
one is for the server to say.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from pg_amqp_daemon.consume.batch import Batch
from pg_amqp_py.wire.consume.delivery import Delivery
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

_Encode = Callable[[Delivery, Properties, float], bytes]


def _bytes(value: bytes | None) -> bytes:
    return _NULL if value is None else _pack_length(len(value)) + value


def _moment(seconds: float) -> bytes:
    return _pack_bigint(8, min(int((seconds - _EPOCH) * 1_000_000), _LATEST))


def _headers(raw: bytes | None) -> bytes:
    # jsonb begins with the version of its format.
    return _NULL if raw is None else _bytes(b"\1" + headers_as_json(raw))


def _offset(raw: bytes | None) -> bytes:
    offset = stream_offset(raw)
    return _NULL if offset is None else _pack_bigint(8, offset)


def _text(name: str) -> _Encode:
    at = Properties._fields.index(name)

    def encode(_delivery: Delivery, properties: Properties, _received: float) -> bytes:
        # As _bytes() does: a call more would be felt with every message.
        value: Any = properties[at]
        return _NULL if value is None else _pack_length(len(value)) + value

    return encode


def _integer(name: str) -> _Encode:
    of = attrgetter(name)

    def encode(_delivery: Delivery, properties: Properties, _received: float) -> bytes:
        value = of(properties)
        return _NULL if value is None else _pack_integer(4, value)

    return encode


def _timestamp(_delivery: Delivery, properties: Properties, _received: float) -> bytes:
    return _NULL if properties.timestamp is None else _moment(properties.timestamp)


_ENCODERS: dict[str, _Encode] = {
    "exchange": lambda delivery, _properties, _received: _bytes(delivery.exchange),
    "routing_key": lambda delivery, _properties, _received: _bytes(delivery.routing_key),
    "redelivered": lambda delivery, _properties, _received: (
        b"\0\0\0\1\1" if delivery.redelivered else b"\0\0\0\1\0"
    ),
    **{name: _text(name) for name in Properties._fields},
    "headers": lambda _delivery, properties, _received: _headers(properties.headers),
    "delivery_mode": _integer("delivery_mode"),
    "priority": _integer("priority"),
    "timestamp": _timestamp,
    "received_at": lambda _delivery, _properties, received: _moment(received),
    "stream_offset": lambda _delivery, properties, _received: _offset(properties.headers),
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
        """The statement that takes rows()."""

    def rows(self, batch: Batch) -> bytes:
        """The messages of a batch, numbered from 0 on. Raises MalformedError."""
        parts = [_BEGIN]
        add = parts.append
        columns, encoders, has_body = self._columns, self._encoders, self._has_body
        retried = batch.dead is not None
        for n, (delivery, received) in enumerate(
            zip(batch.deliveries, batch.received, strict=True)
        ):
            add(_pack_start(columns, 4, n, 1, retried))
            properties = split_properties(delivery.properties)
            for encode in encoders:
                add(encode(delivery, properties, received))
            if has_body:
                body = delivery.body
                add(_pack_length(len(body)))
                add(body)
        add(_END)
        return b"".join(parts)
