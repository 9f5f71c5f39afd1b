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
from typing import Any, NamedTuple

from pg_amqp_daemon.consume.batch import Batch, new_batch
from pg_amqp_daemon.consume.held import Held
from pg_amqp_daemon.runtime.broker_connection import BrokerConnection
from pg_amqp_daemon.runtime.logs import name_of
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.backoff import Backoff
from pg_amqp_py.wire.consume.arguments import Timestamp
from pg_amqp_py.wire.consume.channel import ConsumingChannel, connect_consumer
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError, WireError

_ANSWER = 10.0
"""Seconds for the answer to a question."""
_TICK = 0.25
"""Seconds between looks at what is to be done beside receiving."""
_COUNT_INTERVAL = 2.0
_QUIET = 5
"""Answers between which nothing has come, before it is believed that nothing will."""
_CERTAIN = 2
"""Answers after which a stream has sent something, if it ever will."""
_MOST_BYTES = 16 << 20
"""Bytes of messages held at which nothing more is received, and of a batch of more than one."""
_NO_STREAM = "invalid arg 'x-stream-offset'"
"""What RabbitMQ says if it is asked to begin anywhere in a queue."""
_FIRST_BACKOFF = 0.2
_LONGEST_BACKOFF = 5.0


class Subscription(NamedTuple):
    """What is to be consumed."""

    number: int
    """A new one for every change, so that nobody takes the messages of another."""
    queue: str
    prefetch: int
    start: str | int | Timestamp
    """Where to begin in a stream."""
    due: int | None = None
    """The offset of what comes next in a stream that was read before: one message earlier."""


class Receiver:
    """At most one subscription at a time. Its methods are the worker's; a thread does the rest.

    A subscription that is lost is over: the worker begins another when it has proved that what is
    received can be stored.
    """

    def __init__(self, consumer: str, log: Any) -> None:
        self.received = 0
        """Messages since the beginning."""
        self._log = log
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        """Guards what follows; told when the worker may find something new."""
        self._held = Held()
        self._first_came = 0.0
        """When the first of these did, or the last batch was taken (time.monotonic())."""
        self._wanted: Subscription | None = None
        self._live = 0
        """The number of the subscription whose messages are held; 0 if there is none."""
        self._is_stream: bool | None = None
        """Whether it is to a stream."""
        self._finishing = self._quiet = False
        """Whether no more messages are wanted, and whether none come any more."""
        self._asked = (0, 0, 0)
        """At the end: how often it was asked since anything came, the answers and what was held
        then."""
        self._last = 0
        """The last delivery tag that has come."""
        self._handed = self._stored = self._acked = 0
        """The last delivery tags that the worker has taken, has stored, and that were told."""
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
            f"pg-amqp consume {consumer} {os.getpid()}",
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
        return self._shortage() if self._live else self._broker.trouble or self._refusal

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
        with self._changed:
            return not self._live or (
                self._quiet and not self._held.count and self._handed == self._acked
            )

    @property
    def unacked(self) -> int:
        """How many messages are held."""
        return self._held.count

    @property
    def oldest(self) -> float | None:
        """When the first of these arrived."""
        with self._changed:
            return self._held.oldest

    def _shortage(self) -> str | None:
        """Whether a stream lacks what was had before, so that what is new may never come."""
        wanted, channel = self._wanted, self._channel
        if wanted is None or wanted.due is None or self._last or channel is None:
            return None
        if not self._is_stream or channel.answers < self._enough or not channel.ready:
            return None
        return (
            f'stream "{wanted.queue}" ends before offset {wanted.due}, where it is to be read on;'
            " if it is a new one, amqp.rewind() says where to begin"
        )

    def configure(self, addresses: list[Address]) -> None:
        """Use these hosts from the next connection on, and no connection to any other."""
        self._broker.addresses = addresses

    def subscribe(self, subscription: Subscription) -> None:
        """Consume this, in the place of whatever was consumed before."""
        with self._changed:
            self._forget()
            self._wanted = subscription
        self._wake()

    def abandon(self) -> None:
        """Give everything back to the broker."""
        with self._changed:
            self._forget()
        self._wake()

    def finish(self) -> None:
        """Have the broker send nothing more; what has come can still be taken, and stored."""
        with self._changed:
            if self._live:
                self._finishing = True
            else:
                self._forget()
        self._wake()

    def is_live(self, batch: Batch) -> bool:
        """Whether the broker waits for the acknowledgement of a batch."""
        return batch.subscription == self._live

    def get(self, most: int, timeout: float, linger: float = 0.0) -> Batch | None:
        """The next messages, so many at most; None if none are due within `timeout` seconds.

        Fewer are due when the first of them has been here for `linger` seconds.
        """
        held = self._held
        with self._changed:
            if not held.count:
                self._changed.wait_for(lambda: held.count, timeout)
            left = self._first_came + linger - time.monotonic()
            if held.count and left > 0:
                # Not for longer than the worker may leave everything else alone.
                self._changed.wait_for(lambda: self._is_enough(most), min(left, timeout))
                if left > timeout and not self._is_enough(most):
                    return None
            if not held.count:
                return None
            was_full = held.size >= _MOST_BYTES
            batch = new_batch(self._live, *held.take(most, _MOST_BYTES))
            self._handed = batch.tag
            self._first_came = time.monotonic()
        if was_full:
            self._wake()
        return batch

    def _is_enough(self, most: int) -> bool:
        """Guarded: whether waiting would bring no more for a batch."""
        held = self._held
        return held.count >= most or held.size >= _MOST_BYTES or self._finishing

    def put_back(self, batch: Batch) -> None:
        """What could not be stored comes next again, unless the broker delivers it anew."""
        with self._changed:
            if self.is_live(batch):
                self._held.put_back(batch.deliveries, batch.received)
                # They have waited for others before.
                self._first_came = 0.0

    def ack(self, batch: Batch) -> None:
        """A batch is stored."""
        with self._changed:
            if self.is_live(batch):
                self._stored = batch.tag
        self._wake()

    def stop(self) -> None:
        """Acknowledge what is stored, say goodbye, and end."""
        self._stopping.set()
        self._wake()

    def join(self, timeout: float) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout)

    def _wake(self) -> None:
        with self._changed, suppress(BlockingIOError):
            if not self._ended:
                os.write(self._wake_write, b"\0")

    def _forget(self) -> None:
        """Guarded: there is no subscription any more."""
        self._wanted = None
        self._finishing = self._quiet = False
        self._asked = (0, 0, 0)
        self._last = 0
        self._live = self._handed = self._stored = self._acked = 0
        self._is_stream = None
        self._held.clear()
        self._changed.notify_all()

    # -- in the thread ---------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn()
            if self._channel is not None and self._live:
                with suppress(WireError):
                    self._acknowledge(self._channel)
            self._broker.close()
        except Exception as error:
            # A defect of ours: whoever looks finds that the thread is gone, and begins anew.
            self._log.exception("receiving failed", error=name_of(error))
        finally:
            self._broker.drop()
            with self._changed:
                self._forget()
                self._ended = True
                os.close(self._wake_read)
                os.close(self._wake_write)

    def _turn(self) -> None:
        """Receive what comes next, or do what else is to be done."""
        self._drain()
        wanted = self._wanted
        if self._channel is not None and (wanted is None or wanted.number != self._live):
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
            is_stream = self._consume(channel, wanted)
        except ChannelClosedError as error:
            self._backoff.failed(time.monotonic())
            if self._refusal != str(error):
                self._log.warning("could not consume", queue=wanted.queue, error=str(error))
            self._refusal = str(error)
            return
        self._channel = channel
        self._enough = channel.answers + _CERTAIN
        with self._changed:
            if self._wanted is wanted:
                self._live = wanted.number
                self._is_stream = is_stream
        self._backoff.succeeded()
        self._refusal = None
        self._log.info("consuming", queue=wanted.queue)

    def _consume(self, channel: ConsumingChannel, wanted: Subscription) -> bool:
        """Begin to consume; whether it is a stream.

        That is for RabbitMQ to say: a message's headers are its publisher's, and may come from a
        stream though the message does not.
        """
        start = {"x-stream-offset": wanted.start}
        try:
            channel.consume(wanted.queue, wanted.prefetch, start, time.monotonic() + _ANSWER)
        except ChannelClosedError as error:
            if _NO_STREAM not in str(error):
                raise
            channel.consume(wanted.queue, wanted.prefetch, {}, time.monotonic() + _ANSWER)
            return False
        return True

    def _go_on(self, channel: ConsumingChannel, wanted: Subscription) -> None:
        """Acknowledge what is stored, and receive more."""
        if self._finishing and not self._quiet and not channel.cancelled:
            self._end_consumer(channel, wanted)
        else:
            self._acknowledge(channel)
        if channel.cancelled:
            if not self._held.count and self._handed == self._acked:
                self._backoff.failed(time.monotonic())
                self._over("the broker has cancelled the consumer")
                return
        elif not self._finishing:
            self._count(channel, wanted)
        if self._held.size >= _MOST_BYTES:
            self._rest(_TICK)
            channel.connection.beat()
            return
        with suppress(StalledError):
            channel.wait(time.monotonic() + _TICK)
        channel.connection.receive()
        channel.connection.beat()
        self._keep(channel)

    def _end_consumer(self, channel: ConsumingChannel, wanted: Subscription) -> None:
        """Have nothing more sent, when nothing is on its way.

        What is, RabbitMQ drops when the consumer is cancelled, and delivers again later, and each
        return counts. So nothing is acknowledged that would set more on its way: then it ends when
        as much is held as the broker sends ahead. Where it sends less, it is asked until nothing
        more comes between answers.
        """
        asked, answers, seen = self._asked
        if asked and channel.answers == answers:
            return
        held = self._last - self._acked
        if held >= wanted.prefetch or (asked >= _QUIET and held == seen):
            channel.cancel(time.monotonic() + _ANSWER)
            self._keep(channel)
            self._quiet = True
            return
        channel.ask_count(wanted.queue, time.monotonic() + _ANSWER)
        asked = asked + 1 if held == seen else 1
        self._asked = asked, channel.answers, held

    def _keep(self, channel: ConsumingChannel) -> None:
        size = channel.pending_bytes
        deliveries = channel.take()
        if deliveries:
            with self._changed:
                # Unless it was given up meanwhile.
                if self._live:
                    if not self._last:
                        # On a channel that was opened again, tags go on.
                        self._acked = self._handed = self._stored = deliveries[0].tag - 1
                    self._last = deliveries[-1].tag
                    self.received += len(deliveries)
                    if not self._held.count:
                        self._first_came = time.monotonic()
                    self._held.add(deliveries, time.time(), size)
                    self._changed.notify_all()

    def _acknowledge(self, channel: ConsumingChannel) -> None:
        stored = self._stored
        if stored > self._acked:
            channel.ack(stored, time.monotonic() + _ANSWER)
            self._acked = stored

    def _count(self, channel: ConsumingChannel, wanted: Subscription) -> None:
        """Ask how many messages wait in the queue, if it is time to."""
        now = time.monotonic()
        if now >= self._next_count:
            self._next_count = now + _COUNT_INTERVAL
            channel.ask_count(wanted.queue, now + _ANSWER)

    def _over(self, reason: str | None) -> None:
        """The subscription is lost."""
        if reason is not None:
            self._log.warning("consuming has ended", error=reason)
        self._refusal = reason
        self._channel = None
        with self._changed:
            self._forget()

    def _rest(self, seconds: float) -> None:
        """Wait to be woken."""
        self._woken.poll(seconds * 1000)

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
