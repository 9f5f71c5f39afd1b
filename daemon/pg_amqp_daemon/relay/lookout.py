"""One look into the outboxes of all brokers at rest, so that their workers need not look each.

A worker that has found nothing asks whether its broker is watched; as long as it is not, it goes on
looking by itself. What the lookout finds it does not read: it wakes the worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import psycopg
import structlog
from psycopg.types.numeric import Int4, Int8

from pg_amqp_daemon.relay.outbox import relay_database
from pg_amqp_daemon.runtime.session_worker import SessionWorker

_ROUND = 0.2
"""Seconds of a statement, in which the server looks every 8 ms. Longer ones would be found in the
server's log, where it tells of slow statements."""
_GRACE = 1.0
"""Seconds that an answer may be late before workers look by themselves again."""
_NOBODY = 1.0
"""Seconds between proofs that the session lives, while no broker is at rest."""
_AWAKE = 0.1
"""Seconds for which a broker is not watched once it was woken: more may follow at once, or what is
there may not be delivered yet."""


class _Watch(NamedTuple):
    after: int
    wake: Callable[[], None]


class Lookout(SessionWorker):
    """Of a process. Workers call `watches`; nothing is watched before start()."""

    def __init__(self, dsn: str) -> None:
        log = structlog.get_logger()
        super().__init__(relay_database(dsn, " (lookout)"), "relay", "lookout", log)
        self._guard = threading.Lock()
        self._asked = threading.Event()
        self._wanted: dict[int, _Watch] = {}
        """By broker."""
        self._watched: set[int] = set()
        self._watched_until = 0.0
        self._woken_until: dict[int, float] = {}

    def watches(self, broker_id: int, after: int, wake: Callable[[], None]) -> bool:
        """Whether `wake` is called when there is something for the broker; if not yet, soon.

        `after` is the id up to which all that is visible was read.
        """
        now = time.monotonic()
        with self._guard:
            if now < self._woken_until.get(broker_id, 0.0):
                return False
            self._wanted[broker_id] = _Watch(after, wake)
            self._asked.set()
            return broker_id in self._watched and now < self._watched_until

    def stop(self) -> None:
        """End."""
        super().stop()
        self._asked.set()

    # -- in the thread -----------------------------------------------------------------

    def work_in_session(self) -> None:
        """Look until the session ends."""
        while not self._stopping.is_set():
            watched = self._begin()
            if watched:
                self._wake(self._look(watched))
            else:
                self._database.prove()
                self._asked.wait(_NOBODY)
            self._well()

    def on_session_end(self, failure: psycopg.Error | None) -> None:
        """Nobody looks now."""
        self._wake(self._begin())

    def _begin(self) -> dict[int, int]:
        with self._guard:
            self._asked.clear()
            self._watched = set(self._wanted)
            self._watched_until = time.monotonic() + _ROUND + _GRACE
            return {broker_id: watch.after for broker_id, watch in sorted(self._wanted.items())}

    def _look(self, watched: dict[int, int]) -> list[int]:
        ((found,),) = self._database.ask(
            "SELECT amqp_inner.outbox_await(%s::int4[], %s::int8[], %s)",
            [Int4(broker_id) for broker_id in watched],
            [Int8(after) for after in watched.values()],
            _ROUND,
        )
        return list(found)

    def _wake(self, broker_ids: Iterable[int]) -> None:
        until = time.monotonic() + _AWAKE
        with self._guard:
            woken = [self._wanted.pop(broker_id) for broker_id in broker_ids]
            self._watched.difference_update(broker_ids)
            self._woken_until.update(dict.fromkeys(broker_ids, until))
        for watch in woken:
            watch.wake()
