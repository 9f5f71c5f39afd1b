"""Looks once a second what there is to do in a database, in a thread and a session of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import structlog

from pg_amqp_daemon.runtime.database import Database, first_line
from pg_amqp_daemon.runtime.metrics import Metrics

_LOOK = 1.0
"""Seconds between looks, unless a door wants another interval, and between sessions."""


class Watcher:
    """Calls `looks` one after the other, which ask `database`, until `stopping` is set."""

    def __init__(
        self,
        database: Database,
        *looks: Callable[[], None],
        stopping: threading.Event,
        metrics: Metrics,
        interval: float = _LOOK,
    ) -> None:
        self.error: str | None = "not connected yet"
        """Why the last look failed; None if it did not."""
        self._database = database
        self._looks = looks
        self._stopping = stopping
        self._interval = interval
        self._up = metrics.database_up
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._work, name="watcher", daemon=True).start()

    def unblock(self) -> None:
        """Give up a database that does not answer."""
        self._database.unblock()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._database.connected():
                    self._watch()
            except psycopg.Error as error:
                text = first_line(error)
                if text != self.error:
                    self._log.warning("database not usable", error=text)
                self.error = text
                self._up.set(0)
            self._stopping.wait(_LOOK)

    def _watch(self) -> None:
        while not self._stopping.is_set():
            for look in self._looks:
                look()
                self.error = None
                self._up.set(1)
            self._stopping.wait(self._interval)
