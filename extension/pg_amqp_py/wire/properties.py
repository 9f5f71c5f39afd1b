"""The properties of a message as bytes: the content header's flags and list.

AMQP 0-9-1, section 4.2.6.1, and class basic for the order of the properties. One table drives
both directions: the highest flag bit is the first property.
"""

from __future__ import annotations

import struct

from pg_amqp_py.wire.errors import RangeError, TooLongError, UnacceptableError
from pg_amqp_py.wire.fields import FIELDS
from pg_amqp_py.wire.table import OCTETS, decode_table, encode_table, parse_table, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pg_amqp_py.wire.table import JSON

_pack_flags = struct.Struct(">H").pack
_pack_timestamp = struct.Struct(">Q").pack
# RabbitMQ keeps a message's time to live in 32 bits of milliseconds.
_LARGEST_EXPIRATION = (1 << 32) - 1


class _OwnReplies(str):
    """A reply_to that means the channel which the message is published on."""


DIRECT_REPLY_TO = _OwnReplies("amq.rabbitmq.reply-to")
"""RabbitMQ's "Direct Reply-to", for a channel that consumes from there (wire.request).

Anybody else's text that says the same is refused.
"""

PROPERTIES = (
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
"""The fields that are AMQP properties, in AMQP's order."""


def short_string(name: str, value: str) -> bytes:
    """A short string: one octet of length, at most 255 of UTF-8 (section 4.2.5.3)."""
    text = value.encode()
    if len(text) > 255:
        raise TooLongError(name, f"{len(text)} bytes")
    return OCTETS[len(text)] + text


def encode_properties(fields: tuple[Any, ...]) -> bytes:
    """The property flags and list of a content header; `fields` is all that FIELDS names.

    Raises MessageError (TooLongError, RangeError, TooLargeError) naming the property.
    """
    flags = 0
    parts = [b""]
    for name, position, bit, encode in _LAYOUT:
        value = fields[position]
        if value is None:
            continue
        flags |= bit
        if encode is not None:
            parts.append(encode(name, value))
        else:
            text = value.encode()
            if len(text) > 255:
                raise TooLongError(name, f"{len(text)} bytes")
            parts += OCTETS[len(text)], text
    parts[0] = _pack_flags(flags)
    return b"".join(parts)


def _encode_headers(name: str, value: str) -> bytes:
    table = parse_table(value, name)
    if "CC" in table or "BCC" in table:
        _check_routing_headers(table)
    return encode_table(table, name)


def _encode_delivery_mode(name: str, value: int) -> bytes:
    if value not in (1, 2):
        raise RangeError(name, str(value))
    return OCTETS[value]


def _encode_priority(name: str, value: int) -> bytes:
    if not 0 <= value <= 255:
        raise RangeError(name, str(value))
    return OCTETS[value]


def _encode_timestamp(name: str, value: int) -> bytes:
    if not 0 <= value < 1 << 63:
        raise RangeError(name, str(value))
    return _pack_timestamp(value)


def _encode_expiration(name: str, value: str) -> bytes:
    text = short_string(name, value)
    if not (value.isdigit() and value.isascii() and int(value) <= _LARGEST_EXPIRATION):
        raise RangeError(name, value[:40])
    return text


def _encode_reply_to(name: str, value: str) -> bytes:
    text = short_string(name, value)
    if value == DIRECT_REPLY_TO and not isinstance(value, _OwnReplies):
        raise UnacceptableError(name, "it needs a consumer on the same channel")
    return text


_ENCODINGS: dict[str, Callable[[str, Any], bytes]] = {
    "headers": _encode_headers,
    "delivery_mode": _encode_delivery_mode,
    "priority": _encode_priority,
    "timestamp": _encode_timestamp,
    "expiration": _encode_expiration,
    "reply_to": _encode_reply_to,
}
"""How to encode what is not just a short string."""

_LAYOUT = tuple(
    (name, FIELDS.index(name), 1 << (15 - position), _ENCODINGS.get(name))
    for position, name in enumerate(PROPERTIES)
)
"""Name, position in FIELDS and flag of each property, and how to encode it."""


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
    for name, _, bit, _ in _LAYOUT:
        if not flags & bit:
            continue
        if name == "headers":
            table, at = decode_table(data, at)
            found[name] = to_json(table)
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
