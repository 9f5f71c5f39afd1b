"""What is told of a consumer: to the metrics, the log, and amqp.inbox_status()."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from pg_amqp_daemon.consume.batch import Batch
from pg_amqp_daemon.consume.inbox import Inbox, Report
from pg_amqp_daemon.consume.metrics import ConsumeMetrics
from pg_amqp_daemon.consume.pace import Pace
from pg_amqp_daemon.consume.receiver import Receiver
from pg_amqp_daemon.consume.store import Stored

_INTERVAL = 1.0
"""Seconds between reports to the database."""


class Record:
    """Of one consumer. Raises psycopg.Error."""

    def __init__(
        self, consumer: str, inbox: Inbox, receiver: Receiver, metrics: ConsumeMetrics, log: Any
    ) -> None:
        self._consumer = consumer
        self._inbox = inbox
        self._receiver = receiver
        self._metrics = metrics
        self._log = log
        self._pace = Pace()
        self._next = 0.0
        self._told: Report | None = None
        self._counted = 0
        """Messages that the metrics know to be received."""
        self._noted: str | None = None
        """What amqp.inbox_status() is to remember, though it is over."""

    def begin(self) -> None:
        """Others may have worked the consumer meanwhile: tell all again."""
        self._told = None

    def count(self, stored: Stored) -> None:
        """So much has become of messages."""
        metrics, consumer = self._metrics, self._consumer
        self._pace.add(stored.stored)
        metrics.stored.labels(consumer).inc(stored.stored)
        metrics.duplicates.labels(consumer).inc(stored.duplicates)
        metrics.skipped.labels(consumer).inc(stored.skipped)
        if stored.dead:
            metrics.dead.labels(consumer).inc(stored.dead)
            self._log.warning(
                "messages set aside", messages=stored.dead, sqlstates=Counter(stored.sqlstates)
            )

    def note_loss(self, due: int, batch: Batch) -> None:
        """Tell if a stream has dropped what was not read yet: it begins with what it has."""
        first = batch.offset
        if first is not None and first > due:
            text = f"the stream has messages {due} to {first - 1} no more"
            self._log.warning("messages are lost", error=text, messages=first - due)
            self._noted = text

    def tell(self, trouble: str | None, ready: int | None) -> None:
        """Report to the database, if it is time to and anything is new."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL
        self.tell_now(trouble, ready)

    def tell_now(self, trouble: str | None, ready: int | None) -> None:
        """Report to the database, if anything is new."""
        receiver = self._receiver
        self._metrics.received.labels(self._consumer).inc(receiver.received - self._counted)
        self._counted = receiver.received
        report = Report(
            receiver.received,
            receiver.unacked,
            ready,
            receiver.oldest,
            self._pace.rate(),
            trouble or self._noted,
        )
        self._noted = None
        if report != self._told:
            self._inbox.report(report)
            self._told = report
