"""Whose fault an error is: a message's own, or nobody's that sent one."""

from __future__ import annotations

from typing import NamedTuple

import psycopg

from pg_amqp_py.wire.errors import MalformedError

_NOT_THE_MESSAGES = {
    "08",  # connection
    "40",  # deadlocks, serialization
    "53",  # insufficient resources
    "55",  # locks, objects in use
    "57",  # shutdown, cancel
    "58",  # system errors
}
_READ_ONLY = "25006"
_MALFORMED = "22P03"
"""invalid_binary_representation"""


class Fault(NamedTuple):
    """What is wrong with a message."""

    sqlstate: str
    text: str


def fault_of(error: psycopg.Error | MalformedError) -> Fault | None:
    """The fault of the message at hand, as PostgreSQL or wire says it; None if not its own."""
    if isinstance(error, MalformedError):
        return malformed(error)
    state = error.sqlstate
    if state is None or state[:2] in _NOT_THE_MESSAGES or state == _READ_ONLY:
        return None
    words = [error.diag.message_primary or str(error), error.diag.message_detail]
    return Fault(state, "; ".join(filter(None, words)))


def malformed(error: MalformedError) -> Fault:
    """The fault of a message that cannot be read."""
    return Fault(_MALFORMED, str(error))
