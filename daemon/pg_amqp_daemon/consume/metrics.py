"""The metrics of consumers, by name."""

from __future__ import annotations

from contextlib import suppress

from pg_amqp_daemon.runtime.metrics import Metrics

_CONSUMER = ["consumer"]


class ConsumeMetrics:
    """What consumers count and measure."""

    def __init__(self, metrics: Metrics) -> None:
        self.received = metrics.counter(
            "consumer_received", "Messages that the broker delivered.", _CONSUMER
        )
        self.stored = metrics.counter("consumer_stored", "Messages stored.", _CONSUMER)
        self.duplicates = metrics.counter(
            "consumer_duplicates", "Messages passed over as copies.", _CONSUMER
        )
        self.dead = metrics.counter(
            "consumer_dead", "Messages set aside in amqp.inbox_dead.", _CONSUMER
        )
        self.skipped = metrics.counter(
            "consumer_skipped", "Messages of content types that are not asked for.", _CONSUMER
        )
        self.working = metrics.gauge(
            "consumer_working", "1 while this process works the consumer.", _CONSUMER
        )
        self.connected = metrics.gauge(
            "consumer_connected", "1 while the broker is connected.", _CONSUMER
        )
        self.unacked = metrics.gauge(
            "consumer_unacked", "Messages held that are not stored yet.", _CONSUMER
        )
        self.ready = metrics.gauge(
            "consumer_ready",
            "Messages ready in the queue: the lag. Of a stream, none is told.",
            _CONSUMER,
        )
        self.trouble = metrics.gauge(
            "consumer_trouble", "1 while something keeps messages from being stored.", _CONSUMER
        )

    def forget(self, consumer: str) -> None:
        """It is not worked any more: say no longer how it is."""
        for gauge in (self.working, self.connected, self.unacked, self.ready, self.trouble):
            with suppress(KeyError):
                gauge.remove(consumer)
