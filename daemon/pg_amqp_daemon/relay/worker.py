"""One broker's outbox: take its lock, read what is due, have it delivered, report the outcome.

While the publisher's thread delivers one run, the next is read and encoded.
"""

from __future__ import annotations

from contextlib import suppress

import psycopg
import structlog

from pg_amqp_daemon.relay.ledger import Ledger
from pg_amqp_daemon.relay.lookout import Lookout
from pg_amqp_daemon.relay.metrics import RelayMetrics
from pg_amqp_daemon.relay.mqtt_publisher import MqttPublisher
from pg_amqp_daemon.relay.outbox import Outbox, relay_database
from pg_amqp_daemon.relay.publisher import Publisher
from pg_amqp_daemon.relay.reader import Reader
from pg_amqp_daemon.relay.retained import Retained
from pg_amqp_daemon.relay.upkeep import Upkeep
from pg_amqp_daemon.runtime.connection_name import connection_name
from pg_amqp_daemon.runtime.database import first_line
from pg_amqp_daemon.runtime.session_worker import SessionWorker

_POLL = 0.01
"""Seconds between looks at an empty outbox: half of it, on average, is a message's latency."""
_LOCK_POLL = 0.5
_HEARTBEAT = 0.5
_REST = 1.0
"""Seconds between looks while somebody else looks; short enough for the lease."""
_BESIDE = 0.05
"""Seconds to wait for one kind of message while there is another, too."""
_FAREWELL = 1.0
"""Seconds for the publisher to end its connection."""


class Worker(SessionWorker):
    """A broker's outbox, worked for ever, or, if `once`, until nothing in it is due."""

    def __init__(
        self,
        dsn: str,
        broker_id: int,
        metrics: RelayMetrics,
        lookout: Lookout,
        *,
        once: bool = False,
    ) -> None:
        log = structlog.get_logger().bind(broker_id=broker_id)
        super().__init__(relay_database(dsn), "relay", f"worker-{broker_id}", log)
        self.leading = False
        """Whether it has the lock."""
        self.failure: str | None = None
        """Why `once` was given up."""
        self._once = once
        self._broker_id = broker_id
        self._lookout = lookout
        self._shown = metrics.leading.labels(broker_id)
        self._outbox = Outbox(self._database, broker_id)
        self._ledger = Ledger(broker_id, self._outbox, metrics, once=once)
        name = connection_name("relay", dsn)
        self._publisher = Publisher(broker_id, name, self._database.lease)
        self._reader = Reader(self._database, self._outbox, self._ledger, self._publisher)
        self._mqtt = MqttPublisher(broker_id, name, self._database.lease, log)
        self._retained = Retained(
            broker_id, self._database, self._outbox, self._ledger, self._mqtt, metrics
        )
        self._upkeep = Upkeep(broker_id, self._database, self._outbox, self._publisher, log)
        self.start()

    @property
    def trouble(self) -> str | None:
        """What keeps messages from being delivered or settled now."""
        return (
            self.failure
            or self.session_trouble
            or self._publisher.trouble
            or self._ledger.trouble
            or self._retained.trouble
        )

    @property
    def delivered(self) -> int:
        """How many messages it has delivered."""
        return self._ledger.delivered

    @property
    def left(self) -> int:
        """How many messages `once` has tried and not delivered."""
        return self._ledger.left

    @property
    def connected(self) -> bool:
        """Whether the broker is connected."""
        return self._publisher.connected

    @property
    def alive(self) -> bool:
        """Whether its threads work."""
        return super().alive and self._publisher.alive and self._mqtt.alive

    def stop(self) -> None:
        """Finish what is being written, report it, and end."""
        super().stop()
        self._publisher.wake()
        self._publisher.stop()
        self._mqtt.stop()

    def abort(self) -> None:
        """End at once."""
        self._publisher.abort()
        self._mqtt.abort()

    # -- in the thread -----------------------------------------------------------------

    def work_in_session(self) -> None:
        """Take the lock, and work until the session ends or there is nothing left to do."""
        try:
            self._stand_by()
            self._lead()
        except psycopg.Error as error:
            # Whoever looks at outbox_status() shall know, as far as the database takes it.
            with suppress(psycopg.Error):
                self._outbox.note(first_line(error))
            raise

    def on_session_end(self, failure: psycopg.Error | None) -> None:
        """Learn what becomes of what was written, and keep it for the next session."""
        self.leading = False
        self._shown.set(0)
        self._retained.rest()
        if failure is not None and self._once:
            self.failure = first_line(failure)
            self._stopping.set()
            return
        # Before the next session: with its lock, the publisher would go on, and in between
        # another relay may have had the lock.
        while self._publisher.under_way or self._retained.under_way:
            self._take(_HEARTBEAT if self._publisher.under_way else _POLL)

    def on_end(self) -> None:
        """Let the publisher end its connection."""
        self._publisher.stop()
        self._mqtt.stop()
        self._publisher.join(_FAREWELL)
        self._mqtt.join(_FAREWELL)

    def _stand_by(self) -> None:
        """Wait for the lock."""
        said = False
        while not self._outbox.lock():
            if self._once:
                self.failure = "another relay works this outbox"
                self._stopping.set()
            if not said:
                self._log.info("standing by: another relay works this outbox")
                said = True
            self._well()
            if self._stopping.wait(_LOCK_POLL):
                return
        self.leading = True
        self._shown.set(1)
        self._log.info("working the outbox")

    def _lead(self) -> None:
        self._ledger.settle()
        self._upkeep.begin()
        self._reader.begin()
        self._retained.begin()
        while self.leading and not self._stopping.is_set():
            self._look_after_the_rest()
            found = self._reader.read()
            self._retained.look()
            if found:
                self._collect(0.0)
            elif self._publisher.under_way:
                self._collect(_BESIDE if self._retained.busy else _HEARTBEAT)
            else:
                self._well()
                if self._once and not self._retained.busy:
                    self._stopping.set()
                self._collect(_REST if self._watched() else _POLL)
            if self._once and self._publisher.trouble and not self._publisher.connected:
                self.failure = self._publisher.trouble
                self.stop()
        while self._publisher.under_way or self._retained.under_way:
            self._collect(_BESIDE if self._retained.under_way else _HEARTBEAT)
        if self._once:
            self.failure = self.failure or self.trouble

    def _watched(self) -> bool:
        """Whether the lookout says when there is something to do."""
        position = self._reader.read_up_to
        if position is None or not self._retained.quiet or not self._ledger.complete:
            return False
        return self._lookout.watches(self._broker_id, position, self._publisher.wake)

    def _look_after_the_rest(self) -> None:
        self._upkeep.read_hosts()
        if self.session_trouble is None:
            self._upkeep.note(self._publisher.trouble or self._ledger.trouble)
        if not self._publisher.under_way:
            self._upkeep.forget()
            self._upkeep.compact()

    def _collect(self, timeout: float) -> None:
        """Wait for what becomes of messages, and report it; prove meanwhile that we are there."""
        if not self._take(timeout) and _BESIDE <= timeout < _REST:
            self._database.prove()
        if not self._ledger.complete:
            self._ledger.settle()
            self._upkeep.doubt()
            self._well()

    def _take(self, timeout: float) -> bool:
        """Wait for what becomes of messages; whether there is any news."""
        self._retained.take()
        outcome = self._publisher.get(timeout)
        if outcome is None:
            return False
        if outcome.done:
            self._reader.run_is_done()
        self._ledger.add(outcome)
        return True
