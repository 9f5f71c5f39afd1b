"""When to try again what has failed: later after each failure, up to a limit.

It knows no clock: whoever uses it passes the time, of whatever clock it goes by.
"""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Backoff:
    """One thing that may fail: a host, a session."""

    def __init__(
        self, first: float, longest: float, jitter: Callable[[], float] | None = None
    ) -> None:
        self._first = first
        """Seconds to wait after the first failure; each further one doubles them."""
        self._longest = longest
        self._jitter = jitter
        """Gives the factor for each wait, so that many do not all come back in the same moment."""
        self._delay = 0.0
        self._until = -math.inf

    def wait(self, now: float) -> float:
        """Seconds until it may be tried again; 0 if it may be now."""
        return max(self._until - now, 0.0)

    def failed(self, now: float) -> float:
        """Note a failure; how many seconds to wait.

        Whoever tries before the time has come does not make the wait any longer: these attempts
        count as one.
        """
        if now >= self._until:
            self._delay = min(max(self._delay * 2, self._first), self._longest)
        return self._pause(now, self._delay)

    def lost(self, now: float) -> float:
        """Note that what had succeeded has ended; how many seconds to wait.

        This is no failure: it makes no later wait longer.
        """
        return self._pause(now, self._first)

    def succeeded(self) -> None:
        """Forget all failures: it may be tried now, and the next wait is the first again."""
        self._delay = 0.0
        self._until = -math.inf

    def _pause(self, now: float, seconds: float) -> float:
        if self._jitter is not None:
            seconds *= self._jitter()
        self._until = now + seconds
        return seconds
