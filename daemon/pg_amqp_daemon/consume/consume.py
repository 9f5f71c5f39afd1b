"""Consumes: a worker for each enabled row of amqp.consumer."""

from __future__ import annotations

import time

import structlog

from pg_amqp_daemon.consume.metrics import ConsumeMetrics
from pg_amqp_daemon.consume.news import News
from pg_amqp_daemon.consume.worker import Worker
from pg_amqp_daemon.runtime.database import Database
from pg_amqp_daemon.runtime.health import Condition
from pg_amqp_daemon.runtime.process import Process
from pg_amqp_daemon.runtime.supervisor import Supervisor
from pg_amqp_daemon.runtime.watcher import Watcher

_LOOK = 0.25
"""Seconds between looks for news: a changed row shall count within a second."""
_FORGET_INTERVAL = 60.0
_MAY_LOOK = """
SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class AS c
WHERE c.oid = pg_catalog.to_regclass('amqp.consumer')
"""
# What a worker forgets by itself, it forgets sooner.
_FORGET = """
SELECT amqp_inner.inbox_forget(s.consumer, COALESCE(c.deduplicate_for, '1 day'), 10000)
FROM amqp.inbox_state AS s LEFT JOIN amqp.consumer AS c ON c.name = s.consumer
WHERE c.enabled IS NOT TRUE
"""


class Consume:
    """All consumers of a database, as a door of a process.

    Where this is `optional`, a role that may not see any has none.
    """

    def __init__(self, dsn: str, process: Process, *, optional: bool = False) -> None:
        self._dsn = dsn
        self._optional = optional
        self._metrics = ConsumeMetrics(process.metrics)
        self._news = News()
        self._database = Database(dsn, "consume", " (rows)", own=True)
        self._supervisor: Supervisor[str, Worker] = Supervisor(self._begin)
        self._watcher = Watcher(
            self._database,
            self._keep_workers,
            stopping=process.stopping,
            metrics=process.metrics,
            interval=_LOOK,
        )
        process.health.register("database", self._database_condition)
        process.health.register("consumers", self._condition)
        self._next_forgetting = 0.0
        self._shown: set[str] = set()
        """Consumers of which the metrics say how they are."""
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Begin to work."""
        self._log.info("consume started")
        self._watcher.start()

    def look(self) -> None:
        """Give up whatever does not answer."""
        self._watcher.unblock()
        self._supervisor.unblock()

    def stop(self) -> None:
        """Have all workers finish what is under way."""
        self._log.info("consume stops")
        self._supervisor.stop()

    def end(self) -> None:
        """Wait until all have, in bounded time."""
        self._supervisor.end()

    # -- in the watcher's thread -------------------------------------------------------------

    def _keep_workers(self) -> None:
        names = set()
        if not self._optional or self._database.ask(_MAY_LOOK) == [(True,)]:
            names = self._news.ask(self._database)
            self._forget()
        self._supervisor.keep(names)

    def _forget(self) -> None:
        """Let the ledger forget what nobody works any more, if it is time to look."""
        now = time.monotonic()
        if now >= self._next_forgetting:
            self._next_forgetting = now + _FORGET_INTERVAL
            self._database.ask(_FORGET)

    def _begin(self, name: str) -> Worker:
        # Many take a while to begin, in which the session must not seem to be idle.
        self._database.prove()
        return Worker(self._dsn, name, self._metrics, self._news)

    # -- asked by any thread -----------------------------------------------------------------

    def _database_condition(self) -> Condition:
        error = self._watcher.error
        return Condition(error or "ok", error)

    def _condition(self) -> Condition:
        workers = self._supervisor.workers.copy()
        shown: dict[str, str] = {}
        last: str | None = None
        metrics = self._metrics
        for name, worker in sorted(workers.items()):
            trouble = worker.trouble
            shown[name] = trouble or ("working" if worker.working else "standing by")
            last = trouble or last
            metrics.working.labels(name).set(worker.working)
            metrics.connected.labels(name).set(worker.connected)
            metrics.unacked.labels(name).set(worker.unacked)
            metrics.trouble.labels(name).set(trouble is not None)
            if worker.ready is not None:
                metrics.ready.labels(name).set(worker.ready)
        for name in self._shown - workers.keys():
            metrics.forget(name)
        self._shown = set(workers)
        return Condition(shown, last)
