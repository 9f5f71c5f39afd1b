"""The arguments of Basic.Consume as an AMQP table."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pg_amqp_py.wire.errors import RangeError
from pg_amqp_py.wire.properties import short_string
from pg_amqp_py.wire.table import encode_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pg_amqp_py.wire.table import JSON

_FIELD = "arguments"


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A value of AMQP's type timestamp: seconds since 1970, unsigned."""

    seconds: int


def encode_arguments(arguments: Mapping[str, JSON | Timestamp]) -> bytes:
    """The table of the arguments, its length included. Raises MessageError.

    Whole numbers go out with 64 bits, however small: the offset of a stream must be one of those.
    """
    parts = []
    for key, value in arguments.items():
        if isinstance(value, Timestamp):
            parts.append(_number(key, b"T", ">Q", value.seconds))
        elif isinstance(value, int) and not isinstance(value, bool):
            parts.append(_number(key, b"l", ">q", value))
        else:
            parts.append(encode_table({key: value}, _FIELD)[4:])
    table = b"".join(parts)
    return struct.pack(">I", len(table)) + table


def _number(key: str, kind: bytes, layout: str, value: int) -> bytes:
    try:
        return short_string(_FIELD, key) + kind + struct.pack(layout, value)
    except struct.error:
        raise RangeError(_FIELD, f"integer {str(value)[:40]} is out of range") from None
