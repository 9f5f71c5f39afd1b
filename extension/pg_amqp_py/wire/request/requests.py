"""The requests of one call: which were written, and what was answered. No socket, no waiting."""

from __future__ import annotations

import os
from typing import NamedTuple

from pg_amqp_py.wire.consume.properties import split_properties
from pg_amqp_py.wire.errors import MalformedError, RepliesTooLargeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pg_amqp_py.wire.consume.delivery import Delivery
    from pg_amqp_py.wire.consume.properties import Properties
    from pg_amqp_py.wire.encode import Series
    from pg_amqp_py.wire.transport import Bytes

_ID = 32
"""Characters of a correlation_id."""
_PIECE = 1 << 18
"""Bytes of requests that are encoded together: not all at once, which may be many."""
_MOST_BYTES = 1 << 29
"""Of all replies of a call together: as much as a single message may have."""

SAMPLE = "0" * _ID
"""A correlation_id, as a Series needs one."""


class Reply(NamedTuple):
    """A message that answers a request."""

    delivery: Delivery
    properties: Properties


class Requests:
    """Requests that are under way together.

    Each has an id that nobody can guess. Who has answered one knows where replies to this channel
    go; so a reply counts only if it has the id of a request that is open.
    """

    def __init__(self, bodies: Sequence[bytes], series: Series) -> None:
        ids = os.urandom(len(bodies) * _ID // 2).hex()
        self._ids = [ids[at : at + _ID] for at in range(0, len(ids), _ID)]
        self._open = {one.encode(): position for position, one in enumerate(self._ids)}
        self.count = len(bodies)
        """How many requests there are."""
        self._bodies = bodies
        self._series = series
        self._replies: dict[int, Reply] = {}
        self._size = 0
        self.returned: str | None = None
        """Why a request came back, in the broker's words, if one did."""
        self.written = 0
        """How many were written whole: of these nobody knows whether they were carried out."""
        self._encoded = 0
        self._stream = bytearray()
        self._at = 0
        self._ends: list[int] = []
        """Where in `_stream` the requests end that are not written whole."""

    @property
    def answered(self) -> int:
        """How many of them are answered."""
        return len(self._replies)

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return not self._open or self.returned is not None

    def replies(self) -> list[Reply]:
        """The replies to all requests, in the order of these."""
        return [self._replies[position] for position in range(self.count)]

    # -- writing them ------------------------------------------------------------------

    @property
    def unwritten(self) -> bool:
        """Whether there is something left to write."""
        return self._at < len(self._stream) or self._encoded < self.count

    def write_some(self, send_some: Callable[[Bytes], int]) -> None:
        """Hand on what is to be written next, as far as `send_some` takes it."""
        if self._at == len(self._stream):
            self._encode_more()
        self._at += send_some(memoryview(self._stream)[self._at :])
        while self._ends and self._ends[0] <= self._at:
            del self._ends[0]
            self.written += 1

    def _encode_more(self) -> None:
        self._stream, self._at = bytearray(), 0
        while self._encoded < self.count and len(self._stream) < _PIECE:
            position = self._encoded
            self._series.append(self._stream, self._ids[position], self._bodies[position])
            self._ends.append(len(self._stream))
            self._encoded += 1

    # -- what comes --------------------------------------------------------------------

    def take(self, delivery: Delivery) -> None:
        """Keep a reply to one of these requests; drop what is none, or comes a second time.

        Raises RepliesTooLargeError.
        """
        try:
            properties = split_properties(delivery.properties)
        except MalformedError:
            # Nobody knows what it answers.
            return
        position = self._open.pop(properties.correlation_id or b"", None)
        if position is None:
            return
        self._replies[position] = Reply(delivery, properties)
        self._size += len(delivery.body) + len(delivery.properties)
        if self._size > _MOST_BYTES:
            self._replies.clear()
            raise RepliesTooLargeError(f"more than {_MOST_BYTES} bytes")
