"""The thread that receives a consumer's messages and acknowledges what is stored.

It holds what has come until the worker takes it, whatever becomes of the database meanwhile: each
message that went back to its queue would count against the delivery limit of a quorum queue.
"""

from __future__ import annotations

import os
import random
import select
import threading
import time
from contextlib import suppress
from typing import Any

from pg_amqp_daemon.consume.batch import Batch
from pg_amqp_daemon.consume.subscription import ANSWER, Ending, Subscription
from pg_amqp_daemon.consume.window import Window
from pg_amqp_daemon.runtime.broker_connection import BrokerConnection
from pg_amqp_daemon.runtime.logs import name_of
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.backoff import Backoff
from pg_amqp_py.wire.consume.channel import ConsumingChannel, connect_consumer
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError, WireError

_TICK = 1.0
"""Seconds between looks at what is to be done beside receiving."""
_COUNT_INTERVAL = 2.0
_CERTAIN = 2
"""Answers after which a stream has sent something, if it ever will."""
_FIRST_BACKOFF = 0.2
_LONGEST_BACKOFF = 5.0


class Receiver:
    """At most one subscription at a time. Its methods are the worker's; a thread does the rest.

    A subscription that is lost is over: the worker begins another when it has proved that what is
    received can be stored. `name` is what the broker shows of its connection.
    """

    def __init__(self, consumer: str, name: str, log: Any) -> None:
        self.received = 0
        """Messages since the beginning."""
        self._log = log
        self._stopping = threading.Event()
        self._window = Window(on_room=self._wake)
        """Of the subscription that is live; it guards what follows, too."""
        self._wanted: Subscription | None = None
        self._is_stream: bool | None = None
        """Whether it is to a stream."""
        self._ending: Ending | None = None
        self._quiet = False
        """Whether none comes any more."""
        self._enough = 0
        """Answers after which something must have come, if there is anything."""
        self._refusal: str | None = None
        """Why the broker did not let us consume."""
        self._ended = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._woken = select.poll()
        self._woken.register(self._wake_read, select.POLLIN)
        self._backoff = Backoff(_FIRST_BACKOFF, _LONGEST_BACKOFF, lambda: random.uniform(0.5, 1.0))
        self._next_count = 0.0
        self._channel: ConsumingChannel | None = None
        """The one that the live subscription is on."""
        self._broker: BrokerConnection[ConsumingChannel] = BrokerConnection(
            name,
            connect_consumer,
            on_open=lambda channel: channel.connection.heed(self._wake_read),
            on_wait=lambda: None,
            stopping=self._stopping,
            log=log,
        )
        self._thread = threading.Thread(target=self._work, name=f"receiver-{consumer}", daemon=True)
        self._thread.start()

    # -- the worker's ----------------------------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """What keeps messages from being received now; None if nothing does."""
        return self._shortage() if self._window.number else self._broker.trouble or self._refusal

    @property
    def connected(self) -> bool:
        """Whether the broker is connected."""
        return self._broker.connected

    @property
    def ready(self) -> int | None:
        """Messages in the queue when it was last asked."""
        channel = self._channel
        return None if channel is None else channel.ready

    @property
    def alive(self) -> bool:
        """Whether its thread works."""
        return self._thread.is_alive()

    @property
    def subscribed(self) -> bool:
        """Whether there is a subscription, or one is being begun."""
        return self._wanted is not None

    @property
    def is_stream(self) -> bool | None:
        """Whether what is consumed is a stream; None if nothing is."""
        return self._is_stream

    @property
    def drained(self) -> bool:
        """After finish(): whether all that has come was taken, stored and acknowledged."""
        window = self._window
        with window.changed:
            return not window.number or (self._quiet and window.is_settled)

    @property
    def unacked(self) -> int:
        """How many messages are held."""
        return self._window.held

    @property
    def oldest(self) -> float | None:
        """When the first of these arrived."""
        return self._window.oldest

    def _shortage(self) -> str | None:
        """Whether a stream lacks what was had before, so that what is new may never come."""
        wanted, channel = self._wanted, self._channel
        if wanted is None or wanted.due is None or self._window.last or channel is None:
            return None
        if not self._is_stream or channel.answers < self._enough or not channel.ready:
            return None
        return (
            f'stream "{wanted.queue}" ends before offset {wanted.due}, where it is to be read on;'
            " if it is a new one, amqp.rewind() says where to begin"
        )

    def configure(self, addresses: list[Address]) -> None:
        """Use these hosts from the next connection on, and no connection to any other."""
        if addresses != self._broker.addresses:
            self._broker.addresses = addresses
            self._wake()

    def subscribe(self, subscription: Subscription) -> None:
        """Consume this, in the place of whatever was consumed before."""
        with self._window.changed:
            self._forget()
            self._wanted = subscription
        self._wake()

    def abandon(self) -> None:
        """Give everything back to the broker."""
        with self._window.changed:
            self._forget()
        self._wake()

    def finish(self) -> None:
        """Have the broker send nothing more; what has come can still be taken, and stored."""
        window = self._window
        with window.changed:
            if window.number:
                window.ending = True
            else:
                self._forget()
        self._wake()

    def get(self, most: int, timeout: float, linger: float = 0.0) -> Batch | None:
        """The next messages, so many at most; None if none are due within `timeout` seconds.

        Fewer are due when the first of them has been here for `linger` seconds.
        """
        return self._window.take(most, timeout, linger)

    def upcoming(self, most: int, most_bytes: int) -> Batch | None:
        """What get() would give next, which stays here; None if there is nothing."""
        return self._window.upcoming(most, most_bytes)

    def put_back(self, batch: Batch) -> None:
        """What could not be stored comes next again, unless the broker delivers it anew."""
        self._window.put_back(batch)

    def ack(self, batch: Batch) -> None:
        """A batch is stored."""
        self._window.note_stored(batch)
        self._wake()

    def stop(self) -> None:
        """Acknowledge what is stored, say goodbye, and end."""
        self._stopping.set()
        self._wake()

    def join(self, timeout: float) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout)

    def _wake(self) -> None:
        with self._window.changed, suppress(BlockingIOError):
            if not self._ended:
                os.write(self._wake_write, b"\0")

    def _forget(self) -> None:
        """Guarded: there is no subscription any more."""
        self._wanted = self._is_stream = None
        self._quiet = False
        self._window.close()

    # -- in the thread ---------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn()
            if self._channel is not None and self._window.number:
                with suppress(WireError):
                    self._acknowledge(self._channel)
            self._broker.close()
        except Exception as error:
            # A defect of ours: whoever looks finds that the thread is gone, and begins anew.
            self._log.exception("receiving failed", error=name_of(error))
        finally:
            self._broker.drop()
            with self._window.changed:
                self._forget()
                self._ended = True
                os.close(self._wake_read)
                os.close(self._wake_write)

    def _turn(self) -> None:
        """Receive what comes next, or do what else is to be done."""
        self._drain()
        wanted = self._wanted
        if self._channel is not None and (wanted is None or wanted.number != self._window.number):
            # Given up: the broker has again what was not acknowledged.
            self._channel = None
            self._broker.drop()
        if wanted is None:
            self._rest(_TICK)
            return
        channel = self._broker.established()
        if channel is None:
            return
        try:
            if self._channel is None:
                self._begin(channel, wanted)
            elif channel is not self._channel:
                self._over("the host of the broker is not configured any more")
            else:
                self._go_on(channel, wanted)
        except (ConnectionLostError, StalledError) as error:
            self._broker.lose(error)
            self._over(None)
        except ChannelClosedError as error:
            self._log.warning("the broker has closed the channel", error=str(error))
            self._broker.drop()
            self._over(str(error))

    def _begin(self, channel: ConsumingChannel, wanted: Subscription) -> None:
        """Begin to consume, if the broker lets us."""
        wait = self._backoff.wait(time.monotonic())
        if wait > 0:
            self._rest(min(wait, _TICK))
            self._broker.listen()
            return
        try:
            is_stream = wanted.begin(channel)
        except ChannelClosedError as error:
            self._backoff.failed(time.monotonic())
            if self._refusal != str(error):
                self._log.warning("could not consume", queue=wanted.queue, error=str(error))
            self._refusal = str(error)
            return
        self._channel, self._ending = channel, None
        self._enough = channel.answers + _CERTAIN
        with self._window.changed:
            if self._wanted is wanted:
                self._window.begin(wanted.number)
                self._is_stream = is_stream
        self._backoff.succeeded()
        self._refusal = None
        self._log.info("consuming", queue=wanted.queue)

    def _go_on(self, channel: ConsumingChannel, wanted: Subscription) -> None:
        """Acknowledge what is stored, and receive more."""
        window = self._window
        if window.ending and not self._quiet and not channel.cancelled:
            self._end(channel, wanted)
        else:
            self._acknowledge(channel)
        if channel.cancelled:
            if window.is_settled:
                self._backoff.failed(time.monotonic())
                self._over("the broker has cancelled the consumer")
                return
        elif not window.ending:
            self._count(channel, wanted)
        if window.is_full:
            self._rest(_TICK)
            channel.connection.beat()
            return
        with suppress(StalledError):
            channel.wait(time.monotonic() + _TICK)
        channel.connection.receive()
        channel.connection.beat()
        self._keep(channel)

    def _end(self, channel: ConsumingChannel, wanted: Subscription) -> None:
        """Have nothing more sent."""
        if self._ending is None:
            self._ending = Ending(wanted)
        if self._ending.go_on(channel, self._window.last - self._window.acked):
            self._keep(channel)
            self._quiet = True

    def _keep(self, channel: ConsumingChannel) -> None:
        size = channel.pending_bytes
        deliveries = channel.take()
        if deliveries:
            with self._window.changed:
                # Unless it was given up meanwhile.
                if self._window.number:
                    self.received += len(deliveries)
                    self._window.add(deliveries, size)

    def _acknowledge(self, channel: ConsumingChannel) -> None:
        window = self._window
        stored = window.stored
        if stored > window.acked:
            channel.ack(stored, time.monotonic() + ANSWER)
            window.acked = stored

    def _count(self, channel: ConsumingChannel, wanted: Subscription) -> None:
        """Ask how many messages wait in the queue, if it is time to."""
        now = time.monotonic()
        if now >= self._next_count:
            self._next_count = now + _COUNT_INTERVAL
            channel.ask_count(wanted.queue, now + ANSWER)

    def _over(self, reason: str | None) -> None:
        """The subscription is lost."""
        if reason is not None:
            self._log.warning("consuming has ended", error=reason)
        self._refusal = reason
        self._channel = None
        with self._window.changed:
            self._forget()

    def _rest(self, seconds: float) -> None:
        """Wait to be woken."""
        self._woken.poll(seconds * 1000)

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
