"""The proof that a session of this program still holds its lock, and until when.

Where one program works and others stand by, an advisory lock says which one: it goes with the
session. So that it goes in time when the network hangs, the server is told to end a session that
is idle for LEASE seconds (idle_session_timeout), and nobody works whose last query that was
answered is older than a little less than that: by then somebody else may have the lock.
"""

from __future__ import annotations

import time

LEASE = 3.0
"""Seconds for which an answer of the server proves that there is a session."""
_MARGIN = 1.0


class Lease:
    """Until when there may be work: the thread that asks tells the one that works."""

    def __init__(self) -> None:
        self._until = 0.0
        self._taken = False

    @property
    def valid(self) -> bool:
        """Whether the lock is certainly held."""
        return time.monotonic() < self._until

    def take(self) -> None:
        """The session has the lock: from now on, whatever it answers proves it."""
        self._taken = True

    def answered(self, asked_at: float) -> None:
        """The session has answered: a proof, if it has the lock."""
        if self._taken:
            self.prove(asked_at)

    def prove(self, asked_at: float) -> None:
        """A query sent at `asked_at` (time.monotonic()) was answered: there was a session."""
        self._until = asked_at + LEASE - _MARGIN

    def revoke(self) -> None:
        """The session is gone, or about to be."""
        self._taken = False
        self._until = 0.0
