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

from pg_amqp_daemon.relay.outbox import Status, outbox_status, relay_database
from pg_amqp_daemon.relay.worker import Worker
from pg_amqp_daemon.runtime.brokers import addresses_of_brokers
from pg_amqp_daemon.runtime.database import first_line
from pg_amqp_daemon.runtime.metrics import Metrics, serve

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
        self._status: dict[int, Status] = {}
        """What the outbox said of each broker when it was last asked."""
        self._last_error: str | None = None
        self._shown: set[int] = set()
        """Brokers of which the metrics say whether they are in trouble."""
        self._showing = threading.Lock()
        self._database = relay_database(dsn, " (brokers)")
        self._log = structlog.get_logger()

    def serve(self, host: str, port: int) -> None:
        """Answer /metrics and /health. Raises OSError."""
        port = serve(host, port, self._metrics, self.health)
        self._measuring = True
        self._log.info("metrics", url=f"http://{host}:{port}/metrics")

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and what is not; the metrics say the same then."""
        error = self._database_error
        for worker in list(self._workers.values()):
            error = error or worker.session_trouble
        brokers = {}
        troubles = self._troubles()
        with self._showing:
            self._show_troubles(troubles)
        self._last_error = error or self._last_error
        for broker_id, trouble in sorted(troubles.items()):
            known = self._workers.get(broker_id)
            doing = "leading" if known is not None and known.leading else "standing by"
            brokers[str(broker_id)] = trouble or doing
        well = error is None and not any(troubles.values())
        answer = {"healthy": well, "database": error or "ok", "brokers": brokers}
        if self._last_error is not None:
            answer["last_error"] = self._last_error
        return well, answer

    def _troubles(self) -> dict[int, str | None]:
        """For each broker, what keeps its messages from being delivered as far as is known here."""
        # Copies: another thread adds and removes.
        workers, status = dict(self._workers), dict(self._status)
        troubles: dict[int, str | None] = {}
        for broker_id, worker in workers.items():
            troubles[broker_id] = worker.trouble
            known = status.get(broker_id)
            # Whoever stands by is well as long as another one works: what troubles that one, it
            # says itself.
            if not worker.leading and known is not None and known.relay is None:
                troubles[broker_id] = worker.trouble or known.trouble
        for broker_id, known in status.items():
            if broker_id not in workers and known.trouble is not None:
                troubles[broker_id] = known.trouble
        return troubles

    def _show_troubles(self, troubles: dict[int, str | None]) -> None:
        for broker_id, trouble in troubles.items():
            self._metrics.trouble.labels(broker_id).set(trouble is not None)
            self._last_error = trouble or self._last_error
        for broker_id in self._shown - troubles.keys():
            self._metrics.trouble.remove(broker_id)
        self._shown = set(troubles)

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
            self.health()
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
                with self._database.connected():
                    next_status = 0.0
                    while not self._stopping.is_set():
                        self._keep_workers(set(addresses_of_brokers(self._database)))
                        self._database_error = None
                        self._metrics.database_up.set(1)
                        if self._measuring and time.monotonic() >= next_status:
                            next_status = time.monotonic() + _STATUS_INTERVAL
                            self._measure()
                        self._stopping.wait(_LOOK)
            except psycopg.Error as error:
                text = first_line(error)
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
        try:
            lines = outbox_status(self._database)
        except psycopg.errors.QueryCanceled as error:
            # Counting a very large outbox takes long. Whether it is delivered does not hang on it.
            self._log.warning("could not look at the status of the outbox", error=first_line(error))
            return
        for line in lines:
            self._metrics.pending.labels(line.broker_id).set(line.pending)
            self._metrics.waiting.labels(line.broker_id).set(line.waiting)
            self._metrics.oldest.labels(line.broker_id).set(line.oldest)
            self._metrics.dead.labels(line.broker_id).set(line.dead)
        self._status = {line.broker_id: line for line in lines}

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
            with self._database.connected():
                brokers = addresses_of_brokers(self._database)
                due = {
                    line.broker_id: line.pending - line.waiting
                    for line in outbox_status(self._database)
                }
        except psycopg.Error as error:
            self._log.error("database not usable", error=first_line(error))
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
