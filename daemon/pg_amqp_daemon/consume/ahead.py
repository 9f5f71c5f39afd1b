"""What is made of the next messages while whoever stores works on those before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from pg_amqp_daemon.consume.batch import Batch

_MOST_BYTES = 1 << 20
"""Of messages: where they are large, making something of them is not what takes the time."""

T = TypeVar("T")

Upcoming = Callable[[int, int], Batch | None]
"""The messages that are to be taken next, so many and so large at most; they are not taken."""


class Ahead(Generic[T]):
    """What was made of the messages that were to be taken next, if these are what was taken."""

    def __init__(self, upcoming: Upcoming) -> None:
        self._upcoming = upcoming
        self._made: tuple[object, Batch, T] | None = None

    def make(self, by: object, most: int, make: Callable[[Batch], T]) -> None:
        """Make something of so many messages at most; it is good for nobody but `by`."""
        batch = self._upcoming(most, _MOST_BYTES)
        self._made = None if batch is None else (by, batch, make(batch))

    def take(self, by: object, batch: Batch) -> tuple[T | None, Batch]:
        """What was made of the beginning of a batch, and its rest, of which nothing was made."""
        made, self._made = self._made, None
        if made is not None:
            maker, those, found = made
            count = len(those.deliveries)
            if maker is by and batch.dead is None and batch.deliveries[:count] == those.deliveries:
                return found, batch.only(range(count, len(batch.deliveries)))
        return None, batch
