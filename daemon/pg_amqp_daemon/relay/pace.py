"""How many messages are under way at a time: few at first, more as long as confirms come quickly.

What waits behind a queue that does not confirm any more is little then.
"""

from __future__ import annotations

_SMALLEST = 250
_LARGEST = 10_000
_QUICK = 0.5
_SLOW = 1.0
"""Seconds that a wave takes: a quick one is followed by a larger one, a slow one by a smaller."""


class Pace:
    """The size of waves on one connection after the other."""

    def __init__(self) -> None:
        self._size = _SMALLEST

    def longest(self) -> int:
        """How many messages the next wave may have."""
        return self._size

    def begin(self) -> None:
        """There is another connection, of which nothing is known yet."""
        self._size = _SMALLEST

    def adapt(self, messages: int, seconds: float) -> None:
        """So many messages were confirmed in so many seconds."""
        if seconds > _SLOW:
            self._size = max(self._size // 2, _SMALLEST)
        elif seconds < _QUICK and messages >= self._size:
            self._size = min(self._size * 2, _LARGEST)
