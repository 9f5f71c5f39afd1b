"""Which resource a request is for, by its path as it came: `%2F` is a part of a name."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from pg_amqp_daemon.gateway.problem import Problem

_DEFAULT_EXCHANGE = "amq.default"
"""As management calls it, since a path cannot hold an empty name."""
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_LONGEST = 255
"""Bytes of a virtual host's name, an exchange's and a routing key: AMQP's short strings."""


class Place(NamedTuple):
    """Where to publish, and in what form the request says what."""

    kind: str
    """`one` message, `many`, or `management`, one in management's form."""
    vhost: str
    exchange: str = ""
    routing_key: str = ""


@lru_cache(maxsize=1024)
def place_of(raw_path: bytes) -> Place | None:
    """What a path names; None where there is nothing to publish to. Raises Problem."""
    parts = raw_path.split(b"/")[1:]
    if parts[:2] == [b"api", b"exchanges"] and len(parts) == 5:
        if parts[4] != b"publish" or not (parts[2] and parts[3]):
            return None
        return Place(
            "management", _name("vhost", parts[2]), exchange_of(_name("exchange", parts[3]))
        )
    if len(parts) == 1 and parts[0]:
        return Place("many", _name("vhost", parts[0]))
    if len(parts) == 3 and parts[0] and parts[1]:
        return Place(
            "one",
            _name("vhost", parts[0]),
            exchange_of(_name("exchange", parts[1])),
            _name("routing_key", parts[2]),
        )
    return None


def exchange_of(name: str) -> str:
    """An exchange by its name in a request."""
    return "" if name == _DEFAULT_EXCHANGE else name


def _name(field: str, part: bytes) -> str:
    if _ESCAPE.search(part):
        raise Problem(400, f"{field}: a % is not followed by two hexadecimal digits", field=field)
    name = unquote_to_bytes(part)
    if len(name) > _LONGEST:
        raise Problem(400, f"{field}: longer than {_LONGEST} bytes", field=field)
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise Problem(400, f"{field}: not UTF-8", field=field) from None
