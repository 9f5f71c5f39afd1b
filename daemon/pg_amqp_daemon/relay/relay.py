"""The relay: a worker for each broker in the table."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NoReturn

import psycopg
import structlog
from tqdm import tqdm

from pg_amqp_daemon.relay.lookout import Lookout
from pg_amqp_daemon.relay.metrics import RelayMetrics
from pg_amqp_daemon.relay.outbox import outbox_status, relay_database
from pg_amqp_daemon.relay.overview import Overview
from pg_amqp_daemon.relay.worker import Worker
from pg_amqp_daemon.runtime.brokers import addresses_of_brokers
from pg_amqp_daemon.runtime.database import first_line
from pg_amqp_daemon.runtime.health import Condition
from pg_amqp_daemon.runtime.logs import standard_error
from pg_amqp_daemon.runtime.process import Process
from pg_amqp_daemon.runtime.supervisor import Supervisor
from pg_amqp_daemon.runtime.watcher import Watcher

_LAST = 1.0
"""Seconds for the lookout to end its last round."""


@contextmanager
def _beside(bar: tqdm[NoReturn]) -> Iterator[None]:
    """Lines of the log do not run into the bar."""
    if not bar.disable:
        standard_error.aside = partial(tqdm.external_write_mode, file=sys.stderr)
    try:
        yield
    finally:
        standard_error.aside = nullcontext


class Relay:
    """All outboxes of a database, as a door of a process."""

    def __init__(self, dsn: str, process: Process, *, once: bool = False) -> None:
        self._dsn = dsn
        self._process = process
        self._once = once
        self._metrics = RelayMetrics(process.metrics)
        self._database = relay_database(dsn, " (brokers)")
        self._lookout = Lookout(dsn)
        self._supervisor: Supervisor[int, Worker] = Supervisor(self._begin)
        self._watcher = Watcher(
            self._database,
            self._keep_workers,
            self._measure,
            stopping=process.stopping,
            metrics=process.metrics,
        )
        self._overview = Overview(self._supervisor.workers.copy, self._metrics)
        process.health.register("database", self._database_condition)
        process.health.register("brokers", self._overview.brokers)
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Begin to work."""
        self._log.info("relay started")
        self._watcher.start()
        self._lookout.start()

    def look(self) -> None:
        """Give up whatever does not answer."""
        self._watcher.unblock()
        self._lookout.unblock()
        self._supervisor.unblock()

    def stop(self) -> None:
        """Have all workers finish what is under way."""
        self._log.info("relay stops")
        self._lookout.stop()
        self._supervisor.stop()

    def end(self) -> None:
        """Wait until all have, in bounded time."""
        self._supervisor.end()
        self._lookout.join(_LAST)

    def drain(self) -> int:
        """Work until nothing is due any more, or a signal says stop; returns the exit status."""
        self._process.heed_signals()
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
        self._supervisor.keep(brokers.keys())
        self._show_progress(sum(due.values()))
        failures = {
            broker_id: worker.failure
            for broker_id, worker in self._supervisor.workers.items()
            if worker.failure
        }
        for broker_id, messages in due.items():
            if messages and broker_id not in brokers:
                failures[broker_id] = "the broker has no row in amqp.broker"
        for broker_id, worker in self._supervisor.workers.items():
            if worker.left:
                text = f"messages were not delivered: {worker.left}"
                failures.setdefault(broker_id, text)
        for broker_id, failure in failures.items():
            self._log.error("not drained", broker_id=broker_id, error=failure)
        return 1 if failures or self._process.stopping.is_set() else 0

    def _show_progress(self, messages: int) -> None:
        """Wait until all workers have ended, or a signal says stop."""
        workers, stopping = self._supervisor.workers.values(), self._process.stopping
        terminal = sys.stderr.isatty()
        with tqdm(total=messages, unit=" messages", disable=not terminal) as bar, _beside(bar):
            while not all(worker.ended for worker in workers):
                stopping.wait(0.1)
                bar.update(sum(worker.delivered for worker in workers) - bar.n)
                if stopping.is_set():
                    self._supervisor.end()
                    break
            bar.update(sum(worker.delivered for worker in workers) - bar.n)

    # -- in the watcher's thread -------------------------------------------------------

    def _keep_workers(self) -> None:
        if self._watcher.error is not None:
            self._overview.forget_time()
        wanted = addresses_of_brokers(self._database).keys()
        for broker_id in self._supervisor.workers.keys() - wanted:
            self._metrics.end(broker_id)
        self._supervisor.keep(wanted)
        for broker_id, worker in self._supervisor.workers.items():
            self._metrics.connected.labels(broker_id).set(worker.connected)

    def _begin(self, broker_id: int) -> Worker:
        self._metrics.begin(broker_id)
        return Worker(self._dsn, broker_id, self._metrics, self._lookout, once=self._once)

    def _measure(self) -> None:
        if self._process.served:
            self._overview.measure(self._database)

    # -- asked by any thread -----------------------------------------------------------

    def _database_condition(self) -> Condition:
        error = self._watcher.error
        for worker in self._supervisor.workers.copy().values():
            error = error or worker.session_trouble
        return Condition(error or "ok", error)
