"""The daemon: a worker for each broker in the table, until a signal says stop."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import psycopg
import structlog
from tqdm import tqdm

from pg_amqp_py.bridge.database import Database, words
from pg_amqp_py.bridge.metrics import Metrics, serve
from pg_amqp_py.bridge.worker import Worker

_LOOK = 1.0
"""Seconds between looks at the table of brokers."""
_STATUS_INTERVAL = 10.0
_GRACE = 3.5
"""Seconds after a signal to stop at which what is still awaited is given up."""
_LAST = 1.0


class Relay:
    """All workers of a process."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._metrics = Metrics()
        self._workers: dict[int, Worker] = {}
        self._stopping = threading.Event()
        self._database_error: str | None = "not connected yet"
        self._measuring = False
        self._database = Database(dsn, " (brokers)")
        self._log = structlog.get_logger()

    def serve(self, host: str, port: int) -> None:
        """Answer /metrics and /health. Raises OSError."""
        port = serve(host, port, self._metrics, self.health)
        self._measuring = True
        self._log.info("metrics", url=f"http://{host}:{port}/metrics")

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and what is not."""
        error = self._database_error
        brokers = {}
        well = error is None
        # A copy: another thread adds and removes workers.
        for broker_id, worker in dict(self._workers).items():
            trouble = worker.trouble
            well = well and not trouble
            doing = "leading" if worker.leading else "standing by"
            brokers[str(broker_id)] = trouble or doing
        return well, {"healthy": well, "database": error or "ok", "brokers": brokers}

    def run(self) -> int:
        """Work until SIGTERM or SIGINT; returns the exit status."""
        self._heed_signals()
        self._log.info("relay started")
        watcher = threading.Thread(target=self._watch, name="brokers", daemon=True)
        watcher.start()
        while not self._stopping.wait(0.5):
            self._database.unblock()
            for worker in list(self._workers.values()):
                worker.unblock()
        self._log.info("relay stops")
        self._end()
        return 0

    def _heed_signals(self) -> None:
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, self._on_signal)

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def _watch(self) -> None:
        """Have a worker for each broker, in a session of its own."""
        while not self._stopping.is_set():
            try:
                with self._database.session():
                    next_status = 0.0
                    while not self._stopping.is_set():
                        self._keep_workers(set(self._database.brokers()))
                        self._database_error = None
                        self._metrics.database_up.set(1)
                        if self._measuring and time.monotonic() >= next_status:
                            next_status = time.monotonic() + _STATUS_INTERVAL
                            self._measure()
                        self._stopping.wait(_LOOK)
            except psycopg.Error as error:
                text = words(error)
                if text != self._database_error:
                    self._log.warning("database not usable", error=text)
                self._database_error = text
                self._metrics.database_up.set(0)
            self._stopping.wait(_LOOK)

    def _keep_workers(self, brokers: set[int]) -> None:
        for broker_id, worker in list(self._workers.items()):
            if not worker.alive:
                # A defect of ours, or a log that nobody takes: begin anew.
                worker.stop()
                del self._workers[broker_id]
        for broker_id in brokers - self._workers.keys():
            self._workers[broker_id] = Worker(self._dsn, broker_id, self._metrics)
        for broker_id in self._workers.keys() - brokers:
            self._workers.pop(broker_id).stop()
        for broker_id, worker in self._workers.items():
            self._metrics.connected.labels(broker_id).set(worker.connected)

    def _measure(self) -> None:
        for broker_id, pending, waiting, oldest, dead in self._database.status():
            self._metrics.pending.labels(broker_id).set(pending)
            self._metrics.waiting.labels(broker_id).set(waiting)
            self._metrics.oldest.labels(broker_id).set(oldest)
            self._metrics.dead.labels(broker_id).set(dead)

    def _end(self) -> None:
        """Stop the workers, in bounded time whatever they wait for."""
        workers = list(self._workers.values())
        for worker in workers:
            worker.stop()
        deadline = time.monotonic() + _GRACE
        for worker in workers:
            worker.thread.join(max(deadline - time.monotonic(), 0))
        for worker in workers:
            if worker.thread.is_alive():
                worker.abort()
        for worker in workers:
            worker.thread.join(_LAST / len(workers))

    def drain(self) -> int:
        """Deliver what is due and end; returns the exit status."""
        self._heed_signals()
        try:
            with self._database.session():
                brokers = self._database.brokers()
                due = {
                    number: all_ - waiting for number, all_, waiting, *_ in self._database.status()
                }
        except psycopg.Error as error:
            self._log.error("database not usable", error=words(error))
            return 1
        workers = [Worker(self._dsn, number, self._metrics, once=True) for number in brokers]
        self._workers = {worker.broker_id: worker for worker in workers}
        with tqdm(
            total=sum(due.values()), unit=" messages", disable=not sys.stderr.isatty()
        ) as bar:
            while any(worker.thread.is_alive() for worker in workers):
                self._stopping.wait(0.1)
                bar.update(sum(worker.delivered for worker in workers) - bar.n)
                if self._stopping.is_set():
                    self._end()
                    break
            bar.update(sum(worker.delivered for worker in workers) - bar.n)
        failures = {worker.broker_id: worker.failure for worker in workers if worker.failure}
        for broker_id, messages in due.items():
            if messages and broker_id not in brokers:
                failures[broker_id] = "the broker has no row in amqp.broker"
        for broker_id, failure in failures.items():
            self._log.error("not drained", broker_id=broker_id, error=failure)
        return 1 if failures or self._stopping.is_set() else 0
