"""What may have been missed, and what certainly was not: pure, and used by several threads.

Times are PostgreSQL's clock, as text (ISO 8601, UTC, microseconds), which sorts by time.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple


class Gap(NamedTuple):
    """Notifications of a row of amqp.listener may be missing between two times."""

    listener_id: int
    reason: str
    """start, postgres, dropped or row."""
    since: str | None
    """None: nobody knows."""
    until: str

    @property
    def headers(self) -> dict[str, str]:
        """What a message says of it."""
        found = {"gap-reason": self.reason, "gap-to": self.until}
        return found if self.since is None else {**found, "gap-from": self.since}


class Gaps:
    """The gaps of which messages are to be sent: one a row and reason, as long as that takes."""

    def __init__(self) -> None:
        self._owed: dict[int, dict[str, str | None]] = {}
        """Since when, by row and reason."""
        self._guard = threading.Lock()

    def owe(self, listener_id: int, reason: str, since: str | None) -> None:
        """There is a gap since then, up to the time at which it is told."""
        with self._guard:
            owed = self._owed.setdefault(listener_id, {})
            before = owed.get(reason, since)
            owed[reason] = None if before is None or since is None else min(before, since)

    @property
    def owing(self) -> set[int]:
        """The rows of which any is owed."""
        with self._guard:
            return set(self._owed)

    def take(self, listener_id: int, until: str) -> list[Gap]:
        """What is owed of a row; it is told, unless it is owed again."""
        with self._guard:
            owed = self._owed.pop(listener_id, {})
        return [
            # A clock that was put back, or another server's, does not say since when.
            Gap(listener_id, reason, None if since is None or since > until else since, until)
            for reason, since in owed.items()
        ]

    def keep(self, listener_ids: set[int]) -> None:
        """Other rows are gone."""
        with self._guard:
            self._owed = {key: owed for key, owed in self._owed.items() if key in listener_ids}


class Epoch:
    """The time between two looks at PostgreSQL's clock."""

    __slots__ = ("open", "since")

    def __init__(self, since: str | None) -> None:
        self.since = since
        """What was received in it was not sent before."""
        self.open = 0
        """Messages received in it that are neither published nor stored yet."""


class Account:
    """Until when all that was received is settled: published, stored, or dropped and told of.

    What is received after a look at the clock may have been sent a moment before it. So an epoch
    counts from the look before that.
    """

    def __init__(self) -> None:
        self._clock: str | None = None
        self._epochs = deque([Epoch(None)])
        self._guard = threading.Lock()

    @property
    def epoch(self) -> Epoch:
        """The present one."""
        return self._epochs[-1]

    @property
    def settled_until(self) -> str | None:
        """Everything that was sent before is settled; None: nothing is known."""
        return self._epochs[0].since

    @property
    def reached(self) -> str | None:
        """Everything that was sent before was received, as far as that is known."""
        return self._epochs[-1].since

    @property
    def open(self) -> int:
        """Messages that are not settled."""
        with self._guard:
            return sum(epoch.open for epoch in self._epochs)

    def begin(self, clock: str) -> None:
        """A session listens since then: what is sent from now on is received."""
        self.look(clock)
        self.look(clock)

    def look(self, clock: str) -> None:
        """PostgreSQL has answered, at this time."""
        with self._guard:
            if self._clock is not None and clock < self._clock:
                # It was put back: what is sent from now on may bear a time that has been.
                self._clock = None
                for epoch in self._epochs:
                    epoch.since = None
            self._epochs.append(Epoch(self._clock))
            self._clock = clock
            self._advance()

    def receive(self, messages: int) -> None:
        """So many more in the present epoch."""
        with self._guard:
            self._epochs[-1].open += messages

    def settle(self, epoch: Epoch, messages: int = 1) -> None:
        """So many fewer are open."""
        with self._guard:
            epoch.open -= messages
            self._advance()

    def _advance(self) -> None:
        while len(self._epochs) > 1 and not self._epochs[0].open:
            self._epochs.popleft()
