"""Retained messages of one broker's outbox: reads them, and has them published by MQTT.

All of them are read in order, a page at a time, those that wait as well: what goes to the same
topic stands behind these. In the worker's session, whose lock is the whole outbox's.
"""

from __future__ import annotations

import time
from contextlib import suppress

import psycopg

from pg_amqp_daemon.relay.ledger import Ledger
from pg_amqp_daemon.relay.metrics import RelayMetrics
from pg_amqp_daemon.relay.mqtt_publisher import MqttPublisher
from pg_amqp_daemon.relay.outbox import Outbox
from pg_amqp_daemon.relay.retained_message import RetainedMessage
from pg_amqp_daemon.runtime.brokers import mqtt_addresses_of_broker
from pg_amqp_daemon.runtime.database import Database, first_line

_POLL = 0.05
"""Seconds between looks whether there are any: half of it, on average, is a message's latency."""
_HOSTS_INTERVAL = 1.0
_SWEEP_SHARE = 20
"""All are read over again as often as that costs less than such a part of the time."""
_MOST_ROWS = 500
_MOST_BYTES = 8 << 20


class Retained:
    """Used by the worker's thread, which calls `look` again and again. Raises psycopg.Error."""

    def __init__(
        self,
        broker_id: int,
        database: Database,
        outbox: Outbox,
        ledger: Ledger,
        publisher: MqttPublisher,
        metrics: RelayMetrics,
    ) -> None:
        self._broker_id = broker_id
        self._database = database
        self._outbox = outbox
        self._ledger = ledger
        self._publisher = publisher
        self._published = metrics.retained_published.labels(broker_id)
        self._refused = metrics.retained_refused
        self._due = False
        """Whether any is due, as far as is known."""
        self._topics: dict[int, str] = {}
        """Of those that the publisher has."""
        self._noted: str | None = ""
        """The trouble that outbox_status() shows; empty if that is not known."""
        self._next_look = 0.0
        self._next_hosts = 0.0
        self.quiet = False
        """Whether there were none at the last look, and no connection is held for any."""
        self._begin_sweep()

    @property
    def trouble(self) -> str | None:
        """What keeps retained messages from being delivered now."""
        return self._publisher.trouble if self._due else None

    @property
    def under_way(self) -> bool:
        """Whether some are being published."""
        return self._publisher.under_way

    @property
    def busy(self) -> bool:
        """Whether there is something to do, and nothing in the way of it."""
        return self._publisher.under_way or (self._due and self._publisher.trouble is None)

    def begin(self) -> None:
        """Others may have worked the outbox meanwhile."""
        self._noted = ""
        self._next_look = self._next_hosts = 0.0
        self._due = True
        self.quiet = False
        self._begin_sweep()

    def rest(self) -> None:
        """Another one may work the outbox now."""
        self._publisher.want(False)

    def look(self) -> None:
        """Do what there is to do now; nothing is waited for."""
        self.take()
        now = time.monotonic()
        if not self._publisher.under_way and now >= self._next_look:
            self.quiet = False
            if self._publisher.connected:
                self._read_hosts(now)
                self._read(now)
            else:
                self._next_look = now + _POLL
                found, self._due = self._outbox.holds_retained()
                if found:
                    self._read_hosts(now)
                self._publisher.want(found)
                self.quiet = not found
        self._note()

    def take(self) -> None:
        """Take down what became of those that are being published."""
        outcome = self._publisher.get()
        if outcome is None:
            return
        self._published.inc(len(outcome.delivered))
        for refusal in outcome.undelivered:
            self._refused.labels(self._broker_id, refusal.verdict).inc()
            self._held.add(self._topics[refusal.id])
        self._ledger.add(outcome)
        if len(outcome.delivered) + len(outcome.undelivered) < len(self._topics):
            # What was not told of is to be read again.
            self._begin_sweep()

    def _read_hosts(self, now: float) -> None:
        """Have the publisher use the hosts that are configured now, if it is time to look."""
        if now >= self._next_hosts:
            self._next_hosts = now + _HOSTS_INTERVAL
            self._publisher.configure(mqtt_addresses_of_broker(self._database, self._broker_id))

    def _begin_sweep(self) -> None:
        self._after: int | None = None
        self._held: set[str] = set()
        """Topics of which a message waits: those behind it wait, too."""
        self._found_due = False
        self._sweep_cost = 0.0

    def _read(self, started: float) -> None:
        if not self._ledger.reported:
            # What is not settled yet would be read again.
            return
        found = self._page()
        if self._after is None:
            self._publisher.want(bool(found))
        messages = [message for message in found if self._may_go(message)]
        self._found_due = self._found_due or bool(messages)
        self._sweep_cost += time.monotonic() - started
        if found:
            self._after = found[-1].id
        else:
            self._due = self._found_due
            self._next_look = time.monotonic() + max(_POLL, _SWEEP_SHARE * self._sweep_cost)
            self._begin_sweep()
        if messages:
            self._topics = {message.id: message.topic for message in messages}
            self._publisher.put(messages)

    def _page(self) -> list[RetainedMessage]:
        """Read what comes next; what PostgreSQL itself cannot hand over is set aside."""
        rows = _MOST_ROWS
        while True:
            try:
                return self._outbox.retained(self._after, rows, _MOST_BYTES)
            except (
                psycopg.DataError,
                psycopg.errors.ProgramLimitExceeded,
                psycopg.errors.OutOfMemory,
            ) as error:
                if rows == 1:
                    self._set_aside(first_line(error))
                rows = max(rows // 10, 1)

    def _set_aside(self, text: str) -> None:
        first = self._outbox.first_retained(self._after)
        if first is not None:
            self._ledger.set_aside(*first, text)

    def _may_go(self, message: RetainedMessage) -> bool:
        verdict = self._ledger.locked(message.id, message.message_id)
        if verdict == "delivered":
            return False
        if not message.is_due or verdict == "refused":
            self._held.add(message.topic)
        return message.topic not in self._held

    def _note(self) -> None:
        trouble = self.trouble
        if trouble != self._noted:
            # Somebody may have locked its row: then it is noted later.
            with suppress(psycopg.errors.LockNotAvailable):
                self._outbox.note_mqtt(trouble)
                self._noted = trouble
