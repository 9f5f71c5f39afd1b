"""The properties of a message as bytes: the content header's flags and list.

AMQP 0-9-1, section 4.2.6.1, and class basic for the order of the properties. One table drives
both directions: the highest flag bit is the first property.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from pg_amqp_py.wire.errors import RangeError, TooLongError, UnacceptableError
from pg_amqp_py.wire.message import JSON, Envelope
from pg_amqp_py.wire.table import decode_table, encode_table, parse_table

# RabbitMQ keeps a message's time to live in 32 bits of milliseconds.
_LARGEST_EXPIRATION = (1 << 32) - 1
# RabbitMQ's "Direct Reply-to".
_DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"

_FIELDS = tuple(
    (name, Envelope._fields.index(name), 1 << (15 - position))
    for position, name in enumerate(
        (
            "content_type",
            "content_encoding",
            "headers",
            "delivery_mode",
            "priority",
            "correlation_id",
            "reply_to",
            "expiration",
            "message_id",
            "timestamp",
            "type",
            "user_id",
            "app_id",
        )
    )
)


def short_string(name: str, value: str) -> bytes:
    """A short string: one octet of length, at most 255 of UTF-8 (section 4.2.5.3)."""
    text = value.encode()
    if len(text) > 255:
        raise TooLongError(name, f"{len(text)} bytes")
    return bytes((len(text),)) + text


def encode_properties(envelope: Envelope) -> bytes:
    """The property flags and list of a content header.

    Raises MessageError (TooLongError, RangeError, TooLargeError) naming the property.
    """
    flags = 0
    parts = [b""]
    for name, position, bit in _FIELDS:
        value: Any = envelope[position]
        if value is None:
            continue
        flags |= bit
        if name == "headers":
            table = parse_table(value, name)
            _check_routing_headers(table)
            parts.append(encode_table(table, name))
        elif name == "delivery_mode":
            if value not in (1, 2):
                raise RangeError(name, str(value))
            parts.append(bytes((value,)))
        elif name == "priority":
            if not 0 <= value <= 255:
                raise RangeError(name, str(value))
            parts.append(bytes((value,)))
        elif name == "timestamp":
            if not 0 <= value < 1 << 63:
                raise RangeError(name, str(value))
            parts.append(struct.pack(">Q", value))
        else:
            if name == "expiration" and not (
                value.isascii() and value.isdigit() and int(value) <= _LARGEST_EXPIRATION
            ):
                raise RangeError(name, value[:40])
            if name == "reply_to" and value == _DIRECT_REPLY_TO:
                raise UnacceptableError(name, "it needs a consumer on the same channel")
            parts.append(short_string(name, value))
    parts[0] = struct.pack(">H", flags)
    return b"".join(parts)


def _check_routing_headers(table: dict[str, JSON]) -> None:
    """RabbitMQ's sender-selected distribution: CC and BCC are arrays of routing keys."""
    for key in ("CC", "BCC"):
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UnacceptableError("headers", f"{key} must be an array of strings")


def decode_properties(data: bytes, at: int) -> dict[str, Any]:
    """The properties in a content header whose flags are at offset `at`, as Envelope has them."""
    (flags,) = struct.unpack_from(">H", data, at)
    at += 2
    found: dict[str, Any] = {}
    for name, _, bit in _FIELDS:
        if not flags & bit:
            continue
        if name == "headers":
            table, at = decode_table(data, at)
            found[name] = json.dumps(table, ensure_ascii=False)
        elif name in ("delivery_mode", "priority"):
            found[name] = data[at]
            at += 1
        elif name == "timestamp":
            (found[name],) = struct.unpack_from(">Q", data, at)
            at += 8
        else:
            end = at + 1 + data[at]
            found[name] = data[at + 1 : end].decode()
            at = end
    return found
