"""The thread that delivers runs of messages to one broker, whatever becomes of its connections."""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from contextlib import closing

import structlog

from pg_amqp_daemon.relay.parking import Outcome, Parking
from pg_amqp_daemon.runtime.lease import Lease
from pg_amqp_daemon.runtime.logs import name_of
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.delivery import Batch
from pg_amqp_py.wire.encode import FRAME_MAX
from pg_amqp_py.wire.errors import (
    ChannelClosedError,
    ConnectError,
    ConnectionLostError,
    StalledError,
    WireError,
)
from pg_amqp_py.wire.handshake import connect
from pg_amqp_py.wire.ordered import Run, missing_exchange

_CONNECT_TIMEOUT = 5.0
_HEARTBEAT = 10
"""Seconds; a broker from which nothing comes for twice as long is given up."""
_ANSWER = 30.0
"""Seconds for the answer to a question, which a broker that blocks publishers does not give."""
_PATIENCE = 5.0
"""Seconds without a confirm after which others do not wait any longer for it."""
_TICK = 0.25
"""Seconds between reports of what is confirmed, and between looks at connections."""
_SMALLEST_WAVE = 250
_LARGEST_WAVE = 10_000
_QUICK = 0.5
_SLOW = 1.0
"""Seconds that a wave takes: a quick one is followed by a larger one, a slow one by a smaller one,
so that what waits behind a queue that does not confirm any more is little."""
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 10.0


class AbortedError(Exception):
    """The relay must end now, whatever is under way."""


class Publisher:
    """Delivers runs, one after the other, while the lease is valid.

    `put` hands one over, and `get` tells by and by what became of it, delivered as far as it could
    be.
    """

    def __init__(self, broker_id: int, lease: Lease) -> None:
        self._told: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._trouble: str | None = None
        """Why no message can be delivered now; None when they can."""
        self._parking = Parking(self._told.put, self._lose_parked)
        self.connected = False
        self.frame_max = FRAME_MAX
        """The broker's largest frame, as far as it is known."""
        self._lease = lease
        self._todo: queue.SimpleQueue[tuple[Run, bool] | None] = queue.SimpleQueue()
        self._addresses: list[Address] = []
        self._connection: Connection | None = None
        self._backoff = 0.0
        self._retry_at = 0.0
        self._held: set[str] = set()
        self._run: Run | None = None
        """What is being delivered."""
        self._reported = (0, 0)
        """How many of its messages were reported as delivered and as refused."""
        self._message_ids: dict[int, object] = {}
        self._next_tick = 0.0
        self._wave = _SMALLEST_WAVE
        self._under_way = 0
        self._stopping = threading.Event()
        self._aborting = threading.Event()
        self._log = structlog.get_logger().bind(broker_id=broker_id)
        self._thread = threading.Thread(
            target=self._work, name=f"publisher-{broker_id}", daemon=True
        )
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """What keeps messages from being delivered now; None if nothing does."""
        return self._trouble or self._parking.trouble

    @property
    def under_way(self) -> int:
        """How many runs were handed over and not got back."""
        return self._under_way

    def configure(self, addresses: list[Address]) -> None:
        """Use these hosts from the next connection on, and no connection to any other."""
        self._addresses = addresses
        self._parking.addresses = addresses

    def put(self, run: Run) -> None:
        """Deliver a run when those before it are done."""
        # What one of those before it fails with holds back what was read before that was known.
        self._todo.put((run, self._under_way == 0))
        self._under_way += 1

    def get(self, timeout: float) -> Outcome | None:
        """What became of messages; None if nothing is known within `timeout` seconds."""
        try:
            outcome = self._told.get(timeout=timeout)
        except queue.Empty:
            return None
        if outcome.done:
            self._under_way -= 1
        return outcome

    def stop(self) -> None:
        """Write no more; what is written is still awaited."""
        self._stopping.set()
        self._todo.put(None)

    def abort(self) -> None:
        """Wait for nothing any more."""
        self._aborting.set()
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether its thread works."""
        return self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Wait until the connection is closed."""
        self._thread.join(timeout)

    # -- in the thread -----------------------------------------------------------------

    def _work(self) -> None:
        while (todo := self._next()) is not None:
            run, fresh = todo
            if not fresh:
                run.held |= self._held
            self._run, self._reported = run, (0, 0)
            self._message_ids = {entry.id: entry.message_id for entry in run.entries}
            try:
                self._deliver(run)
            except AbortedError:
                self._drop()
            except Exception as error:
                # A defect of ours: what was not confirmed is tried again.
                self._log.exception("delivery failed", error=name_of(error))
                self._drop()
            self._held = run.held
            self._report(run, done=True)
            self._run = None
        self._parking.close()
        if self._connection is not None:
            self._connection.close()

    def _report(self, run: Run, *, done: bool = False) -> None:
        """Tell what is known of the run and was not told yet."""
        run.look()
        delivered, refused = self._reported
        self._reported = len(run.delivered), len(run.refused)
        if done or self._reported != (delivered, refused):
            news = run.delivered[delivered:], run.refused[refused:]
            self._told.put(Outcome(*news, self._message_ids, done))

    def _tick(self) -> None:
        """What is to be done now and then, whatever is waited for."""
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + _TICK
        self._parking.look()
        if self._run is not None:
            self._report(self._run)

    def _next(self) -> tuple[Run, bool] | None:
        while True:
            try:
                return self._todo.get(timeout=_TICK)
            except queue.Empty:
                self._tick()
                self._look_after_idle_connection()

    def _look_after_idle_connection(self) -> None:
        """Notice while there is nothing to do that the broker has gone, or is back."""
        if self._connection is not None:
            self._listen()
        elif not self._stopped() and time.monotonic() >= self._retry_at:
            self._connect()

    def _listen(self) -> None:
        """Take in what the broker has said by itself: perhaps its farewell."""
        if self._connection is not None:
            try:
                self._connection.receive()
                self._connection.beat()
            except (ConnectionLostError, ChannelClosedError) as error:
                self._lose(error)

    def _deliver(self, run: Run) -> None:
        # What is written to a broker that has gone must be written again, and may arrive twice.
        self._listen()
        with closing(run.batches(self._missing, self._parking.why_not, self._longest)) as batches:
            for batch in batches:
                self._tick()
                self._write(run, batch)
                if self._stopped():
                    break

    def _longest(self) -> int:
        return self._wave

    def _missing(self, exchange: str) -> str | None:
        """What the broker has against an exchange, as far as that can be known now."""
        while not self._stopped():
            connection = self._ready()
            if connection is None:
                continue
            try:
                return missing_exchange(connection, exchange, time.monotonic() + _ANSWER)
            except ConnectionLostError as error:
                self._lose(error)
                if error.hard:
                    return error.reply
            except StalledError as error:
                self._lose(error)
        return None

    def _write(self, run: Run, batch: Batch) -> None:
        """Write until all is settled, on as many connections as it takes, or does not go on."""
        messages = batch.pending
        while batch.pending and not self._stopped():
            connection = self._ready()
            if connection is None:
                continue
            started = time.monotonic()
            try:
                batch.write(connection, _PATIENCE, patient=True, stop=self._stopped)
            except ConnectionLostError as error:
                self._lose(error)
            except StalledError as error:
                if not connection.usable:
                    self._lose(error)
                elif connection.received_at > time.monotonic() - _PATIENCE:
                    # It lives, but for what it does not confirm.
                    self._park(connection, run)
                    return
            else:
                self._adapt(messages, time.monotonic() - started)

    def _adapt(self, messages: int, seconds: float) -> None:
        if seconds > _SLOW:
            self._wave = max(self._wave // 2, _SMALLEST_WAVE)
        elif seconds < _QUICK and messages >= self._wave:
            self._wave = min(self._wave * 2, _LARGEST_WAVE)

    def _park(self, connection: Connection, run: Run) -> None:
        """Leave it waiting, and go on with another one."""
        self._connection = None
        self.connected = False
        self._parking.park(connection, run)
        self._log.warning("queue does not confirm", error=self._parking.trouble)

    def _stopped(self) -> bool:
        return self._stopping.is_set() or not self._lease.valid

    def _ready(self) -> Connection | None:
        """A connection to a host that is still configured; waits a little where there is none."""
        self._tick()
        if self._parking.full:
            self._stopping.wait(0.1)
            return None
        connection = self._connection
        if connection is not None:
            if connection.address in self._addresses:
                return connection
            self._drop()
        wait = self._retry_at - time.monotonic()
        if wait > 0:
            self._stopping.wait(min(wait, 0.1))
            return None
        return self._connect()

    def _connect(self) -> Connection | None:
        hosts = list(self._addresses)
        random.shuffle(hosts)
        failure = "the broker has no row in amqp.broker"
        for address in hosts:
            try:
                name = f"pg-amqp relay {os.getpid()}"
                connection = connect(
                    address, name, _CONNECT_TIMEOUT, self._on_wait, heartbeat=_HEARTBEAT
                )
            except ConnectError as error:
                failure = f"could not connect to {address}: {error}"
                continue
            self._connection = connection
            self.frame_max = connection.encoder.frame_max
            self._backoff = 0.0
            self._wave = _SMALLEST_WAVE
            self.connected = True
            self._trouble = None
            self._log.info("connected to broker", host=str(address))
            return connection
        self._backoff = min(max(self._backoff * 2, _FIRST_BACKOFF), _LONGEST_BACKOFF)
        # Jitter, so that many relays do not all come back in the same moment.
        self._retry_at = time.monotonic() + self._backoff * random.uniform(0.5, 1.0)
        if failure != self._trouble:
            self._log.warning("broker not reachable", error=failure)
        self._trouble = failure
        return None

    def _on_wait(self) -> None:
        if self._aborting.is_set():
            raise AbortedError
        self._tick()
        connection = self._connection
        if connection is None:
            return
        if connection.blocked is not None:
            trouble = f"the broker blocks publishers: {connection.blocked}"
            if self._trouble != trouble:
                self._log.warning("broker blocked", reason=connection.blocked)
            self._trouble = trouble
        else:
            self._trouble = None
        connection.beat()

    def _lose(self, error: WireError) -> None:
        self._log.warning("connection to broker lost", error=str(error))
        self._drop()
        self._trouble = f"the connection was lost: {error}"
        self._retry_at = time.monotonic() + _FIRST_BACKOFF * random.uniform(0.5, 1.0)

    def _lose_parked(self, error: Exception) -> None:
        self._log.warning("connection to broker lost", error=str(error))

    def _drop(self) -> None:
        self.connected = False
        if self._connection is not None:
            self._connection.abandon(ConnectionLostError("given up"))
            self._connection = None
