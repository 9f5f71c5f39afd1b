"""Messages that were received and are not stored yet, in the order of the queue.

They are kept as they came, many at once: what is done for each of them costs as much as parsing it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from pg_amqp_py.wire.consume.delivery import Delivery

_OVERHEAD = 200
"""Bytes that a message takes beside what it holds."""


class Chunk(NamedTuple):
    """Messages that came together."""

    deliveries: list[Delivery]
    received: list[float]
    """When each arrived (time.time())."""
    size: int
    """Bytes of all."""


def _chunk_of(deliveries: list[Delivery], received: list[float]) -> Chunk:
    """These messages, measured."""
    return Chunk(deliveries, received, sum(map(_size, deliveries)))


def _size(delivery: Delivery) -> int:
    return len(delivery.body) + len(delivery.properties) + _OVERHEAD


class Held:
    """What came and was not taken. Not safe for use by two threads at once."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        """Bytes, in about."""
        self._chunks: deque[Chunk] = deque()

    def add(self, deliveries: list[Delivery], now: float, size: int) -> None:
        """More has come, of so many bytes."""
        size += _OVERHEAD * len(deliveries)
        chunk = Chunk(deliveries, [now] * len(deliveries), size)
        self._chunks.append(chunk)
        self._measure(chunk)

    def put_back(self, deliveries: list[Delivery], received: list[float]) -> None:
        """These come first again."""
        chunk = _chunk_of(deliveries, received)
        self._chunks.appendleft(chunk)
        self._measure(chunk)

    def clear(self) -> None:
        """Forget all."""
        self._chunks.clear()
        self.count = self.size = 0

    @property
    def oldest(self) -> float | None:
        """When the first of them arrived."""
        return self._chunks[0].received[0] if self._chunks else None

    def take(self, most: int, most_bytes: int) -> tuple[list[Delivery], list[float]]:
        """The next ones, so many and so large at most; one at least, if there is any."""
        deliveries: list[Delivery] = []
        received: list[float] = []
        size = 0
        while self._chunks and len(deliveries) < most:
            chunk = self._chunks.popleft()
            if len(deliveries) + len(chunk.deliveries) > most or size + chunk.size > most_bytes:
                room = most_bytes - size if deliveries else most_bytes
                chunk, rest = _divide(chunk, most - len(deliveries), room, bool(deliveries))
                if rest.deliveries:
                    self._chunks.appendleft(rest)
                if not chunk.deliveries:
                    break
            deliveries += chunk.deliveries
            received += chunk.received
            size += chunk.size
        self.count -= len(deliveries)
        self.size = max(self.size - size, 0) if self.count else 0
        return deliveries, received

    def begin(self, most: int, most_bytes: int) -> tuple[list[Delivery], list[float]]:
        """The next ones, so many and in about so large at most; none is taken."""
        deliveries: list[Delivery] = []
        received: list[float] = []
        size = 0
        for chunk in self._chunks:
            size += chunk.size
            if size > most_bytes or len(deliveries) >= most:
                break
            deliveries += chunk.deliveries
            received += chunk.received
        return deliveries[:most], received[:most]

    def _measure(self, chunk: Chunk) -> None:
        self.count += len(chunk.deliveries)
        self.size += chunk.size


def _divide(chunk: Chunk, most: int, room: int, any_before: bool) -> tuple[Chunk, Chunk]:
    """The beginning of a chunk that has room, and the rest of it."""
    at = size = 0
    for delivery in chunk.deliveries[:most]:
        size += _size(delivery)
        if size > room and (at or any_before):
            break
        at += 1
    first = _chunk_of(chunk.deliveries[:at], chunk.received[:at])
    return first, _chunk_of(chunk.deliveries[at:], chunk.received[at:])
