"""The metrics of the relay, by broker_id."""

from __future__ import annotations

from contextlib import suppress

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
        self.pending = metrics.gauge(
            "pending",
            "Messages in the outbox: 10,000 and more stand for at least so many.",
            _BROKER,
        )
        self.waiting = metrics.gauge(
            "waiting", "Of these, messages that wait for a time or another attempt.", _BROKER
        )
        self.oldest = metrics.gauge("oldest_seconds", "Age of the oldest message.", _BROKER)
        self.dead = metrics.gauge(
            "dead", "Dead letters: 10,000 stands for at least so many.", _BROKER
        )
        self.retained_published = metrics.counter(
            "retained_published", "Retained messages that the broker confirmed by MQTT.", _BROKER
        )
        self.retained_refused = metrics.counter(
            "retained_refused",
            "Retained messages that were not delivered, by verdict.",
            [*_BROKER, "verdict"],
        )
        self.retained_pending = metrics.gauge(
            "retained_pending", "Of the messages in the outbox, those that go by MQTT.", _BROKER
        )
        self.trouble = metrics.gauge(
            "trouble", "1 while something keeps messages from being delivered.", _BROKER
        )

    def begin(self, broker_id: int) -> None:
        """Show a broker from now on, before anything happens: rates begin at zero."""
        self.delivered.labels(broker_id)
        for verdict in ("busy", "invalid", "refused"):
            self.refused.labels(broker_id, verdict)
        self.leading.labels(broker_id)

    def end(self, broker_id: int) -> None:
        """Show no state of a broker that has no row any more; what was counted stays."""
        for gauge in (self.leading, self.connected):
            with suppress(KeyError):
                gauge.remove(broker_id)
