"""The thread that delivers runs of messages to one broker, whatever becomes of its connections."""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from contextlib import closing

import structlog

from pg_amqp_py.bridge.database import Lease
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
_SILENCE = 30.0
"""Seconds without a byte or a confirm after which a connection is given up."""
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 10.0


class AbortedError(Exception):
    """The relay must end now, whatever is under way."""


class Publisher:
    """Delivers runs, one after the other, while the lease is valid.

    `put` hands one over and `get` gets it back, delivered as far as it could be.
    """

    def __init__(self, broker_id: int, lease: Lease) -> None:
        self._finished: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self.trouble: str | None = None
        """Why messages cannot be delivered now; None when they can."""
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
        self._under_way = 0
        self._stopping = threading.Event()
        self._aborting = threading.Event()
        self._log = structlog.get_logger().bind(broker_id=broker_id)
        self._thread = threading.Thread(
            target=self._work, name=f"publisher-{broker_id}", daemon=True
        )
        self._thread.start()

    @property
    def under_way(self) -> int:
        """How many runs were handed over and not got back."""
        return self._under_way

    def configure(self, addresses: list[Address]) -> None:
        """Use these hosts from the next connection on, and no connection to any other."""
        self._addresses = addresses

    def put(self, run: Run) -> None:
        """Deliver a run when those before it are done."""
        # What one of those before it fails with holds back what was read before that was known.
        self._todo.put((run, self._under_way == 0))
        self._under_way += 1

    def get(self, timeout: float) -> Run | None:
        """The next run that is done; None if none is within `timeout` seconds."""
        try:
            run = self._finished.get(timeout=timeout)
        except queue.Empty:
            return None
        self._under_way -= 1
        return run

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
            try:
                self._deliver(run)
            except AbortedError:
                self._drop()
            except Exception as error:
                # A defect of ours: what was not confirmed is tried again.
                self._log.exception("delivery failed", error=repr(error))
                self._drop()
            self._held = run.held
            self._finished.put(run)
        if self._connection is not None:
            self._connection.close()

    def _next(self) -> tuple[Run, bool] | None:
        while True:
            try:
                return self._todo.get(timeout=1.0)
            except queue.Empty:
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
            except (ConnectionLostError, ChannelClosedError) as error:
                self._lose(error)

    def _deliver(self, run: Run) -> None:
        # What is written to a broker that has gone must be written again, and may arrive twice.
        self._listen()
        with closing(run.batches(self._missing)) as batches:
            for batch in batches:
                self._write(batch)
                if self._stopped():
                    break

    def _missing(self, exchange: str) -> str | None:
        """What the broker has against an exchange, as far as that can be known now."""
        while not self._stopped():
            connection = self._ready()
            if connection is None:
                continue
            try:
                return missing_exchange(connection, exchange, time.monotonic() + _SILENCE)
            except ConnectionLostError as error:
                self._lose(error)
                if error.hard:
                    return error.reply
            except StalledError as error:
                self._lose(error)
        return None

    def _write(self, batch: Batch) -> None:
        """Write until all is settled, on as many connections as it takes."""
        while batch.pending and not self._stopped():
            connection = self._ready()
            if connection is None:
                continue
            try:
                batch.write(connection, _SILENCE, patient=True, stop=self._stopped)
            except (ConnectionLostError, StalledError) as error:
                self._lose(error)

    def _stopped(self) -> bool:
        return self._stopping.is_set() or not self._lease.valid

    def _ready(self) -> Connection | None:
        """A connection to a host that is still configured; waits a little where there is none."""
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
                connection = connect(address, name, _CONNECT_TIMEOUT, self._on_wait)
            except ConnectError as error:
                failure = f"could not connect to {address}: {error}"
                continue
            self._connection = connection
            self.frame_max = connection.encoder.frame_max
            self._backoff = 0.0
            self.connected = True
            self.trouble = None
            self._log.info("connected to broker", host=str(address))
            return connection
        self._backoff = min(max(self._backoff * 2, _FIRST_BACKOFF), _LONGEST_BACKOFF)
        # Jitter, so that many relays do not all come back in the same moment.
        self._retry_at = time.monotonic() + self._backoff * random.uniform(0.5, 1.0)
        if failure != self.trouble:
            self._log.warning("broker not reachable", error=failure)
        self.trouble = failure
        return None

    def _on_wait(self) -> None:
        if self._aborting.is_set():
            raise AbortedError
        connection = self._connection
        blocked = connection.blocked if connection is not None else None
        if blocked is not None:
            trouble = f"the broker blocks publishers: {blocked}"
            if self.trouble != trouble:
                self._log.warning("broker blocked", reason=blocked)
            self.trouble = trouble
        elif connection is not None:
            self.trouble = None

    def _lose(self, error: WireError) -> None:
        self._log.warning("connection to broker lost", error=str(error))
        self._drop()
        self.trouble = f"the connection was lost: {error}"
        self._retry_at = time.monotonic() + _FIRST_BACKOFF * random.uniform(0.5, 1.0)

    def _drop(self) -> None:
        self.connected = False
        if self._connection is not None:
            self._connection.abandon(ConnectionLostError("given up"))
            self._connection = None
