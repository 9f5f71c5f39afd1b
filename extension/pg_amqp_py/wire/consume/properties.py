"""The properties of a received message: from the list of a content header to raw values.

AMQP 0-9-1, section 4.2.6.1. Nothing is decoded here: most of what is received is only handed on.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from pg_amqp_py.wire.errors import MalformedError

_SHORT_STRING, _OCTET, _TABLE, _TIMESTAMP = range(4)


class Properties(NamedTuple):
    """The properties of class basic, in AMQP's order; None is one that was not given."""

    content_type: bytes | None = None
    content_encoding: bytes | None = None
    headers: bytes | None = None
    """The table, its length included: see wire.consume.headers."""
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: bytes | None = None
    reply_to: bytes | None = None
    expiration: bytes | None = None
    message_id: bytes | None = None
    timestamp: int | None = None
    """Unsigned, 64 bits: seconds, if the publisher keeps to AMQP."""
    type: bytes | None = None
    user_id: bytes | None = None
    app_id: bytes | None = None
    cluster_id: bytes | None = None


_KINDS = {
    "headers": _TABLE,
    "delivery_mode": _OCTET,
    "priority": _OCTET,
    "timestamp": _TIMESTAMP,
}
_LAYOUT = tuple(
    (1 << (15 - position), position, _KINDS.get(name, _SHORT_STRING))
    for position, name in enumerate(Properties._fields)
)
_KNOWN = sum(bit for bit, _, _ in _LAYOUT)
_NONE = [None] * len(_LAYOUT)
_new = tuple.__new__


def split_properties(raw: bytes) -> Properties:
    """Tell apart the property flags and list of a content header.

    Raises MalformedError where they are no AMQP.
    """
    values: list[bytes | int | None] = [*_NONE]
    at = 2
    try:
        for position, kind in _steps(raw[:2]):
            if kind == _SHORT_STRING:
                behind = at + 1 + raw[at]
                values[position] = raw[at + 1 : behind]
                at = behind
            elif kind == _OCTET:
                values[position] = raw[at]
                at += 1
            else:
                behind = at + 8
                if kind == _TABLE:
                    behind = at + 4 + int.from_bytes(raw[at : at + 4])
                    values[position] = raw[at:behind]
                else:
                    values[position] = int.from_bytes(raw[at:behind])
                at = behind
    except IndexError:
        at = -1
    if at != len(raw):
        # What is cut short ends behind the end.
        raise MalformedError("the properties are not as long as they say")
    return _new(Properties, values)


@lru_cache(maxsize=64)
def _steps(flags: bytes) -> tuple[tuple[int, int], ...]:
    """The position in Properties and the kind of each value that these flags announce."""
    bits = int.from_bytes(flags)
    if bits & ~_KNOWN:
        raise MalformedError(f"the property flags are {flags.hex()}")
    return tuple((position, kind) for bit, position, kind in _LAYOUT if bits & bit)
