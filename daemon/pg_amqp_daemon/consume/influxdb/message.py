"""What a point is made of, and what is said of a message that no point can be made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Source(NamedTuple):
    """A delivered message, as far as a point may ask for it."""

    exchange: str
    routing_key: str
    queue: str
    properties: Mapping[str, object]
    """By AMQP's names; what was not set may be missing or None. `timestamp` is in seconds."""
    headers: Callable[[], Mapping[str, Any]]
    """Decodes them: most points need none."""
    body: bytes
    received_at: float
    """In seconds since the epoch."""


class Fault(Exception):  # noqa: N818 - of a message, not of ours
    """The message is at fault, and would be again: it has to be set aside."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
