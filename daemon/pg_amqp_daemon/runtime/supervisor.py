"""Keeps a door's workers going: what has died begins anew.

A worker is made for whatever the door works separately (a broker's outbox, a consumer), and has
threads of its own. At the end all are asked to stop, and what does not within the grace is aborted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Set
from typing import Generic, Protocol, TypeVar

_GRACE = 3.5
"""Seconds after which, at the end, what is still awaited is given up."""
_LAST = 1.0


class Supervised(Protocol):
    """Works from the moment it is made."""

    @property
    def alive(self) -> bool:
        """Whether all its threads work."""

    @property
    def ended(self) -> bool:
        """Whether it works no more."""

    def unblock(self) -> None:
        """Give up a database that does not answer. Called now and then."""

    def stop(self) -> None:
        """Finish what is under way, and end."""

    def abort(self) -> None:
        """End at once."""

    def join(self, timeout: float) -> None:
        """Wait until it has ended."""


Key = TypeVar("Key", bound=Hashable)
Worker = TypeVar("Worker", bound=Supervised)


class Supervisor(Generic[Key, Worker]):
    """The workers of a process, each for a key."""

    def __init__(self, begin: Callable[[Key], Worker]) -> None:
        self.workers: dict[Key, Worker] = {}
        """Changed by the thread that calls keep(); others look at copies."""
        self._begin = begin

    def keep(self, wanted: Set[Key]) -> None:
        """Have a worker for each of these keys, and for no other."""
        for key, worker in list(self.workers.items()):
            if not worker.alive:
                # A defect of ours, or a log that nobody takes: begin anew.
                worker.stop()
                del self.workers[key]
        for key in wanted - self.workers.keys():
            self.workers[key] = self._begin(key)
        for key in self.workers.keys() - wanted:
            self.workers.pop(key).stop()

    def unblock(self) -> None:
        """Give up databases that do not answer. Called now and then."""
        for worker in list(self.workers.values()):
            worker.unblock()

    def stop(self) -> None:
        """Have all finish what is under way."""
        for worker in list(self.workers.values()):
            worker.stop()

    def end(self) -> None:
        """Stop the workers, in bounded time whatever they wait for."""
        self.stop()
        workers = list(self.workers.values())
        deadline = time.monotonic() + _GRACE
        for worker in workers:
            worker.join(max(deadline - time.monotonic(), 0))
        for worker in workers:
            if not worker.ended:
                worker.abort()
        for worker in workers:
            worker.join(_LAST / len(workers))
