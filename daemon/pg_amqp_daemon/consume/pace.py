"""How fast messages are stored."""

from __future__ import annotations

import time

_MINUTE = 60.0


class Pace:
    """Messages stored a second, over the last minute."""

    def __init__(self) -> None:
        self._seconds: dict[int, int] = {}

    def add(self, messages: int) -> None:
        """So many were stored now."""
        second = int(time.monotonic())
        self._seconds[second] = self._seconds.get(second, 0) + messages

    def rate(self) -> float:
        """Messages a second."""
        earliest = time.monotonic() - _MINUTE
        self._seconds = {at: count for at, count in self._seconds.items() if at >= earliest}
        return round(sum(self._seconds.values()) / _MINUTE, 2)
