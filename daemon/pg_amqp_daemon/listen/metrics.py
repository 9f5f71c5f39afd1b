"""The metrics of listeners, by channel."""

from __future__ import annotations

from pg_amqp_daemon.runtime.metrics import Metrics

_CHANNEL = ["channel"]


class ListenMetrics:
    """What listening counts and measures."""

    def __init__(self, metrics: Metrics) -> None:
        texts = {
            "received": "Notifications received, once for each row of amqp.listener.",
            "published": "Notifications that the broker confirmed.",
            "stored": "Notifications put into amqp.outbox, since the broker did not take them.",
            "dropped": "Notifications that are lost, of which gaps tell.",
            "gaps": "Messages that tell of a gap, published or stored.",
        }
        self.counters = {
            what: metrics.counter(f"listener_{what}", text, _CHANNEL)
            for what, text in texts.items()
        }
        self.listening = metrics.gauge("listener_listening", "1 while this process listens.")
        self.pending = metrics.gauge(
            "listener_pending", "Notifications received and not published, stored or dropped yet."
        )
        self.usage = metrics.gauge(
            "notification_queue_usage",
            "Share of PostgreSQL's queue of notifications that is full, 0 to 1, of the whole"
            " cluster: when it is full, each transaction with a NOTIFY fails.",
        )
        self.trouble = metrics.gauge(
            "listener_trouble", "1 while something keeps notifications from being published."
        )
