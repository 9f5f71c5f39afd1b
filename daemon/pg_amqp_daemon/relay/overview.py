"""How all outboxes are, as far as it is known here, shown by metrics and by /health."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import psycopg
import structlog

from pg_amqp_daemon.relay.metrics import RelayMetrics
from pg_amqp_daemon.relay.outbox import Status, outbox_status
from pg_amqp_daemon.relay.worker import Worker
from pg_amqp_daemon.runtime.database import Database, first_line
from pg_amqp_daemon.runtime.health import Condition

_STATUS_INTERVAL = 10.0
"""Seconds between looks at what is in the outbox, which may take long."""


class Overview:
    """What the workers say, and what the database has said of outboxes."""

    def __init__(self, workers: Callable[[], Mapping[int, Worker]], metrics: RelayMetrics) -> None:
        self._workers = workers
        self._metrics = metrics
        self._status: dict[int, Status] = {}
        """What the outbox said of each broker when it was last asked."""
        self._next_status = 0.0
        self._shown: set[int] = set()
        """Brokers of which the metrics say whether they are in trouble."""
        self._log = structlog.get_logger()

    def forget_time(self) -> None:
        """What is known may be old: measure at the next occasion."""
        self._next_status = 0.0

    def measure(self, database: Database) -> None:
        """Ask what is in the outbox, if it is time to. Raises psycopg.Error."""
        if time.monotonic() < self._next_status:
            return
        self._next_status = time.monotonic() + _STATUS_INTERVAL
        try:
            lines = outbox_status(database)
        except psycopg.errors.QueryCanceled as error:
            # Counting a very large outbox takes long. Whether it is delivered does not hang on it.
            self._log.warning("could not look at the status of the outbox", error=first_line(error))
            return
        self._count(lines)
        self._status = {line.broker_id: line for line in lines}

    def _count(self, lines: Sequence[Status]) -> None:
        """Show what is in the outbox, and nothing of brokers of which nothing is."""
        metrics = self._metrics
        gauges = (
            metrics.pending,
            metrics.waiting,
            metrics.oldest,
            metrics.dead,
            metrics.retained_pending,
        )
        for broker_id in self._status.keys() - {line.broker_id for line in lines}:
            for gauge in gauges:
                gauge.remove(broker_id)
        for line in lines:
            metrics.pending.labels(line.broker_id).set(line.pending)
            metrics.waiting.labels(line.broker_id).set(line.waiting)
            metrics.oldest.labels(line.broker_id).set(line.oldest)
            metrics.dead.labels(line.broker_id).set(line.dead)
            metrics.retained_pending.labels(line.broker_id).set(line.retained)

    def brokers(self) -> Condition:
        """What becomes of each broker's messages; the metrics say the same from now on."""
        workers = self._workers()
        troubles = self._troubles(workers)
        self._show(troubles)
        shown = {}
        last: str | None = None
        for broker_id, trouble in troubles.items():
            worker = workers.get(broker_id)
            doing = "leading" if worker is not None and worker.leading else "standing by"
            shown[broker_id] = trouble or doing
            last = trouble or last
        return Condition({str(number): shown[number] for number in sorted(shown)}, last)

    def _troubles(self, workers: Mapping[int, Worker]) -> dict[int, str | None]:
        """For each broker, what keeps its messages from being delivered as far as is known here."""
        # Another thread may put another one in its place.
        status = self._status
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

    def _show(self, troubles: Mapping[int, str | None]) -> None:
        for broker_id, trouble in troubles.items():
            self._metrics.trouble.labels(broker_id).set(trouble is not None)
        for broker_id in self._shown - troubles.keys():
            self._metrics.trouble.remove(broker_id)
        self._shown = set(troubles)
