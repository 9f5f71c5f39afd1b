"""The metrics of the relay, by broker_id."""

from __future__ import annotations

from pg_amqp_daemon.runtime.metrics import Metrics

_BROKER = ["broker_id"]


class RelayMetrics:
    """What a relay counts and measures."""

    def __init__(self, metrics: Metrics) -> None:
        self.delivered = metrics.counter(
            "delivered", "Messages that the broker confirmed.", _BROKER
        )
        self.refused = metrics.counter(
            "refused", "Messages that were not delivered, by verdict.", [*_BROKER, "verdict"]
        )
        self.leading = metrics.gauge("leading", "1 while this relay works the outbox.", _BROKER)
        self.connected = metrics.gauge("connected", "1 while the broker is connected.", _BROKER)
        self.pending = metrics.gauge("pending", "Messages in the outbox.", _BROKER)
        self.waiting = metrics.gauge(
            "waiting", "Of these, messages that wait for a time or another attempt.", _BROKER
        )
        self.oldest = metrics.gauge("oldest_seconds", "Age of the oldest message.", _BROKER)
        self.dead = metrics.gauge("dead", "Dead letters.", _BROKER)
        self.trouble = metrics.gauge(
            "trouble", "1 while something keeps messages from being delivered.", _BROKER
        )
