"""Delivers runs of messages to one broker, whatever becomes of its connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import structlog

from pg_amqp_daemon.relay.outcome import Outcome
from pg_amqp_daemon.relay.pace import Pace
from pg_amqp_daemon.relay.parking import Parking
from pg_amqp_daemon.runtime.broker_connection import BrokerConnection
from pg_amqp_daemon.runtime.lease import Lease
from pg_amqp_daemon.runtime.logs import name_of
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.channel import PublishingChannel, connect_publisher
from pg_amqp_py.wire.errors import ConnectionLostError, StalledError
from pg_amqp_py.wire.methods import FRAME_MAX
from pg_amqp_py.wire.pump import Patience, write
from pg_amqp_py.wire.waves import Run, missing_exchange

_ANSWER = 30.0
"""Seconds for the answer to a question, which a broker that blocks publishers does not give."""
_PATIENCE = 5.0
"""Seconds without a confirm after which others do not wait any longer for it."""
TICK = 0.25
"""Seconds between reports of what is confirmed, and between looks at connections."""
_PAUSE = 0.1
"""Seconds between looks at connections of which there are too many."""


class AbortedError(Exception):
    """The relay must end now, whatever is under way."""


class _Report:
    """What was told of a run."""

    def __init__(self, run: Run, tell: Callable[[Outcome], None]) -> None:
        self._run = run
        self._tell = tell
        self._told = (0, 0)
        """How many messages were told as delivered and as refused."""
        self._message_ids = {entry.id: entry.message_id for entry in run.entries}

    def tell(self, *, done: bool = False) -> None:
        """Tell what is known of the run and was not told yet."""
        run = self._run
        run.look()
        delivered, refused = self._told
        self._told = len(run.delivered), len(run.undelivered)
        if done or self._told != (delivered, refused):
            news = run.delivered[delivered:], run.undelivered[refused:]
            self._tell(Outcome(*news, self._message_ids, done))


class Deliverer:
    """Writes while the lease is valid, and tells what became of messages. Used by one thread.

    Others may read `trouble`, `connected` and `frame_max`, and call `configure`.
    """

    def __init__(
        self,
        broker_id: int,
        name: str,
        lease: Lease,
        tell: Callable[[Outcome], None],
        stopping: threading.Event,
        aborting: threading.Event,
    ) -> None:
        self.frame_max = FRAME_MAX
        """The broker's largest frame, as far as it is known."""
        self._lease = lease
        self._tell = tell
        self._stopping = stopping
        self._aborting = aborting
        self._log = structlog.get_logger().bind(broker_id=broker_id)
        self._parking = Parking(tell, self._log)
        self._broker = BrokerConnection(
            name,
            connect_publisher,
            on_open=self._on_open,
            on_wait=self._on_wait,
            stopping=stopping,
            log=self._log,
        )
        self._pace = Pace()
        self._report: _Report | None = None
        """Of what is being delivered."""
        self._next_tick = 0.0

    @property
    def trouble(self) -> str | None:
        """What keeps messages from being delivered now; None if nothing does."""
        return self._broker.trouble or self._parking.trouble

    @property
    def connected(self) -> bool:
        """Whether there is a connection to write to."""
        return self._broker.connected

    def configure(self, addresses: list[Address]) -> None:
        """Use these hosts from the next connection on, and no connection to any other."""
        self._broker.addresses = addresses
        self._parking.addresses = addresses

    def deliver(self, run: Run) -> None:
        """Deliver a run as far as it can be; all of it is told then."""
        report = self._report = _Report(run, self._tell)
        try:
            self._deliver(run)
        except AbortedError:
            self._broker.drop()
        except Exception as error:
            # A defect of ours: what was not confirmed is tried again.
            self._log.exception("delivery failed", error=name_of(error))
            self._broker.drop()
        report.tell(done=True)
        self._report = None

    def idle(self) -> None:
        """See to the connections while there is nothing to deliver."""
        self._tick()
        self._broker.look_after(may_open=not self._stopped())

    def close(self) -> None:
        """Wait for nothing any more, and end all connections."""
        self._parking.close()
        self._broker.close()

    def _tick(self) -> None:
        """What is to be done now and then, whatever is waited for."""
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + TICK
        self._parking.look()
        if self._report is not None:
            self._report.tell()

    def _on_open(self, channel: PublishingChannel) -> None:
        self.frame_max = channel.encoder.frame_max
        self._pace.begin()

    def _on_wait(self) -> None:
        if self._aborting.is_set():
            raise AbortedError
        self._tick()

    def _stopped(self) -> bool:
        return self._stopping.is_set() or not self._lease.valid

    def _channel(self) -> PublishingChannel | None:
        """A connection to write to; waits a little where there is none."""
        self._tick()
        if self._parking.full:
            self._stopping.wait(_PAUSE)
            return None
        return self._broker.established()

    def _deliver(self, run: Run) -> None:
        # What is written to a broker that has gone must be written again, and may arrive twice.
        self._broker.listen()
        batches = run.batches(self._missing, self._parking.why_not, self._pace.longest)
        with closing(batches):
            for batch in batches:
                self._tick()
                self._write(run, batch)
                if self._stopped():
                    break

    def _missing(self, exchange: str) -> str | None:
        """What the broker has against an exchange, as far as that can be known now."""
        while not self._stopped():
            channel = self._channel()
            if channel is None:
                continue
            try:
                return missing_exchange(channel, exchange, time.monotonic() + _ANSWER)
            except ConnectionLostError as error:
                self._broker.lose(error)
                if error.refuses:
                    return error.reply
            except StalledError as error:
                self._broker.lose(error)
        return None

    def _write(self, run: Run, batch: Batch) -> None:
        """Write until all is settled, on as many connections as it takes, or does not go on."""
        messages = batch.pending
        patience = Patience(_PATIENCE, outlasts_block=True)
        while batch.pending and not self._stopped():
            channel = self._channel()
            if channel is None:
                continue
            started = time.monotonic()
            try:
                write(batch, channel, patience, stop=self._stopped)
            except ConnectionLostError as error:
                self._broker.lose(error)
            except StalledError as error:
                if not channel.usable:
                    self._broker.lose(error)
                elif channel.connection.received_at > time.monotonic() - _PATIENCE:
                    # It lives, but for what it does not confirm.
                    self._park(channel, run)
                    return
            else:
                self._pace.adapt(messages, time.monotonic() - started)

    def _park(self, channel: PublishingChannel, run: Run) -> None:
        """Leave it waiting, and go on with another one."""
        self._broker.give_away()
        self._parking.park(channel, run)
        self._log.warning("queue does not confirm", error=self._parking.trouble)
