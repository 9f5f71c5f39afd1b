"""What became of messages: counted for the metrics, and for amqp.listener_status()."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from pg_amqp_daemon.listen.gaps import Account, Gaps
from pg_amqp_daemon.listen.listener import Message
from pg_amqp_daemon.listen.metrics import ListenMetrics


class Report:
    """What there is to tell of a row: counts since the last report, and what is so now."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.texts: dict[str, str] = {}
        """since, last_error, and last_error_at."""

    def merge(self, later: Report) -> None:
        """Tell this, too."""
        self.counts += later.counts
        self.texts |= later.texts


class Tally:
    """Of all rows. Used by several threads."""

    def __init__(self, metrics: ListenMetrics) -> None:
        self.account = Account()
        self.gaps = Gaps()
        self._metrics = metrics
        self._reports: dict[int, Report] = {}
        self._guard = threading.Lock()

    def receive(self, messages: Iterable[Message]) -> None:
        """These were received, and are in the present epoch."""
        received = list(messages)
        self.account.receive(len(received))
        self._count("received", [message for message in received if message.gap is None])

    def publish(self, messages: Iterable[Message]) -> None:
        """The broker has confirmed these."""
        self._settle("published", messages)

    def store(self, messages: Iterable[Message]) -> None:
        """These are in amqp.outbox."""
        self._settle("stored", messages)

    def drop(self, messages: Iterable[Message], error: str) -> None:
        """These are lost: a gap is to be told, or is to be told again."""
        lost = list(messages)
        since = self.account.settled_until
        for message in lost:
            gap = message.gap
            if gap is None:
                self.gaps.owe(message.listener.id, "dropped", since)
            else:
                self.gaps.owe(gap.listener_id, gap.reason, gap.since)
            self.fail(message, error)
        self._settle("dropped", lost, gaps=False)

    def fail(self, message: Message, error: str) -> None:
        """The broker does not take the message."""
        listener_id = message.listener.id
        now = datetime.now(UTC).isoformat()
        with self._guard:
            self._report(listener_id).texts.update(last_error=error, last_error_at=now)

    def begin(self, listener_id: int, since: str) -> None:
        """Somebody listens for the row."""
        with self._guard:
            self._report(listener_id).texts["since"] = since

    def take(self) -> dict[int, Report]:
        """What was not told yet, by row."""
        with self._guard:
            reports, self._reports = self._reports, {}
            return reports

    def put_back(self, reports: dict[int, Report]) -> None:
        """It could not be told."""
        with self._guard:
            for listener_id, later in self._reports.items():
                reports.setdefault(listener_id, Report()).merge(later)
            self._reports = reports

    def _settle(self, what: str, messages: Iterable[Message], *, gaps: bool = True) -> None:
        settled = list(messages)
        self._count(what, [message for message in settled if message.gap is None])
        if gaps:
            self._count("gaps", [message for message in settled if message.gap is not None])
        epochs = Counter(message.epoch for message in settled)
        for epoch, count in epochs.items():
            self.account.settle(epoch, count)

    def _count(self, what: str, messages: list[Message]) -> None:
        counts = Counter(message.listener.id for message in messages)
        channels = Counter(message.listener.channel for message in messages)
        with self._guard:
            for listener_id, count in counts.items():
                self._report(listener_id).counts[what] += count
        for channel, count in channels.items():
            self._metrics.counters[what].labels(channel).inc(count)

    def _report(self, listener_id: int) -> Report:
        return self._reports.setdefault(listener_id, Report())
