"""One connection of a login, in an event loop: what is put there is written in order."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pg_amqp_daemon.gateway.channel import ConfirmingChannel
from pg_amqp_daemon.gateway.posted import Posted, uncertain, unpublished
from pg_amqp_daemon.gateway.problem import Problem
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.errors import (
    ConnectError,
    ConnectionLostError,
    RejectedError,
    UnreachableError,
)
from pg_amqp_py.wire.handshake import connect

_CONNECT_TIMEOUT = 5.0
_HEARTBEAT = 10
_AHEAD = 1 << 18
"""Bytes that are encoded for TCP before it takes them: what waits behind can still be had back."""
_STALLED = 10.0
"""Seconds after which a connection that takes no byte is given up."""
_LOGIN_LASTS = 300.0
"""Seconds after which a login is looked at again: RabbitMQ does not end the connections of one
whose password was changed."""
_BUSY_LOGIN_LASTS = 330.0
_BLOCKED = 5.0
"""Seconds after which it is worth trying again."""
_UNANSWERED = "RabbitMQ did not confirm it in time"
_UNWRITTEN = "RabbitMQ did not take it in time"


class Opener:
    """Opens connections in threads of its own, because that waits: for names, TCP and TLS."""

    def __init__(self, name: str) -> None:
        self._name = name
        """What the broker shows of each connection."""
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="open")
        self._ended = False

    async def open(self, addresses: list[Address]) -> ConfirmingChannel:
        """A connection to any of these hosts. Raises ConnectError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._open, addresses)

    def end(self) -> None:
        """Let nobody wait for any more."""
        self._ended = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _open(self, addresses: list[Address]) -> ConfirmingChannel:
        failure: ConnectError = UnreachableError("no broker is known")
        client: dict[str, Any] = {
            "product": "pg-amqp",
            "platform": "Python",
            "connection_name": self._name,
        }
        for address in random.sample(addresses, len(addresses)):
            try:
                return connect(
                    ConfirmingChannel,
                    address,
                    client,
                    _CONNECT_TIMEOUT,
                    self._on_wait,
                    heartbeat=_HEARTBEAT,
                )
            except RejectedError:
                raise
            except ConnectError as error:
                failure = UnreachableError(f"could not connect to {address}: {error}")
        raise failure

    def _on_wait(self) -> None:
        if self._ended:
            raise UnreachableError("the gateway ends")


class Alarm:
    """Whether a broker blocks publishers, as far as any connection to it has been told.

    RabbitMQ tells a connection when it publishes, which is too late for that message.
    """

    def __init__(self) -> None:
        self._reasons: dict[Lane, str] = {}

    @property
    def reason(self) -> str | None:
        """The broker's words; None if nobody was told."""
        return next(iter(self._reasons.values()), None)

    def note(self, lane: Lane, reason: str | None) -> None:
        """What this one was told last."""
        if reason is not None:
            self._reasons[lane] = reason
        elif self._reasons:
            self._reasons.pop(lane, None)


class Listener(NamedTuple):
    """Who is told of a lane."""

    opened: Callable[[], object]
    failed: Callable[[ConnectError], object]
    """No connection could be opened."""
    lost: Callable[[ConnectionLostError], object]
    confirmed: Callable[[Posted], object]


class Lane:
    """At most one connection at a time, opened when there is something to write."""

    def __init__(
        self,
        opener: Opener,
        addresses: Callable[[], list[Address]],
        alarm: Alarm,
        to: Listener,
    ) -> None:
        self._alarm = alarm
        self.queue: deque[Posted] = deque()
        """What is not written yet."""
        self._opener = opener
        self._addresses = addresses
        self._to = to
        self._loop = asyncio.get_running_loop()
        self._channel: ConfirmingChannel | None = None
        self._opening: asyncio.Task[None] | None = None
        self._opened_at = 0.0
        self._descriptor = -1
        """A copy, so that what watches it ends before anybody else gets the number."""
        self._due = False
        self._watching = False
        """Whether it waits for room."""
        self._full_since: float | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._channel is not None

    @property
    def under_way(self) -> int:
        """How many messages are queued, or written and not answered."""
        return len(self.queue) + (0 if self._channel is None else len(self._channel.flight))

    @property
    def waits(self) -> bool:
        """Whether somebody waits for any of them."""
        return bool(self.queue) or (self._channel is not None and self._channel.waits)

    def put(self, posted: Posted) -> None:
        """Write it behind all others."""
        self.queue.append(posted)
        self._schedule()

    def refuse(self, problem: Problem) -> None:
        """Settle all that is not written."""
        queue, self.queue = self.queue, deque()
        for posted in queue:
            posted.settle(problem)

    def tick(self, now: float) -> None:
        """Give up what is waited for too long. To be called a few times a second."""
        for posted in [posted for posted in self.queue if posted.deadline <= now]:
            self.queue.remove(posted)
            posted.settle(unpublished(_UNWRITTEN))
        channel = self._channel
        if channel is None:
            return
        for posted in list(channel.flight.values()):
            if posted.deadline <= now:
                posted.settle(uncertain(_UNANSWERED))
        stalled = self._full_since is not None and now - self._full_since > _STALLED
        connection = channel.connection
        silent = connection.heartbeat and now - connection.received_at > 2 * connection.heartbeat
        try:
            if channel.pending:
                # No heartbeat may come between the halves of a message.
                if stalled or silent:
                    raise ConnectionLostError("RabbitMQ takes no more")
            else:
                connection.beat()
        except ConnectionLostError as error:
            self._lose(error)
            return
        age = now - self._opened_at
        if age > _LOGIN_LASTS and not channel.flight and not self.queue:
            self.close()
        self._schedule()

    def close(self) -> None:
        """Say goodbye, without waiting; what is written and not answered is uncertain."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        channel = self._detach()
        if channel is not None:
            channel.connection.leave()
            self.queue.extendleft(reversed(channel.lost()))

    # -- in the loop -------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Write at the end of this turn of the loop, together with what is put until then."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._due = False
        channel = self._channel
        if channel is None:
            if self.queue and self._opening is None:
                self._opening = self._loop.create_task(self._open())
            return
        if (reason := self._alarm.reason) is not None:
            self.refuse(blocked(reason))
        try:
            self._write(channel)
        except ConnectionLostError as error:
            self._lose(error)

    def _write(self, channel: ConfirmingChannel) -> None:
        may_begin = channel.ready and not self._old(channel)
        while True:
            while may_begin and self.queue and channel.pending < _AHEAD:
                channel.write(self.queue.popleft())
            if not channel.pending:
                self._watch_room(False)
                self._full_since = None
                return
            if not channel.send():
                self._watch_room(True)
                self._full_since = self._full_since or time.monotonic()
                return
            self._full_since = None

    def _old(self, channel: ConfirmingChannel) -> bool:
        """Whether the login must be looked at again, and so no more be written here."""
        if time.monotonic() - self._opened_at < _BUSY_LOGIN_LASTS:
            return False
        if not channel.waits:
            self._loop.call_soon(self.close)
            self._loop.call_soon(self._schedule)
        return True

    def _watch_room(self, watch: bool) -> None:
        if watch == self._watching:
            return
        self._watching = watch
        if watch:
            self._loop.add_writer(self._descriptor, self._work)
        else:
            self._loop.remove_writer(self._descriptor)

    def _read(self) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            again = channel.receive()
        except ConnectionLostError as error:
            self._lose(error)
            return
        self._alarm.note(self, channel.connection.blocked)
        self.queue.extendleft(reversed([posted for posted in again if not posted.settled]))
        if self.queue or channel.pending:
            self._schedule()

    async def _open(self) -> None:
        try:
            channel = await self._opener.open(self._addresses())
            self._descriptor = _copy_of(channel)
        except ConnectError as error:
            self._opening = None
            self._to.failed(error)
            return
        self._opening = None
        self._channel = channel
        self._opened_at = time.monotonic()
        channel.on_confirm = self._to.confirmed
        self._loop.add_reader(self._descriptor, self._read)
        self._to.opened()
        self._schedule()

    def _detach(self) -> ConfirmingChannel | None:
        """Watch the connection no more."""
        channel, self._channel = self._channel, None
        if channel is not None:
            self._alarm.note(self, None)
            self._loop.remove_reader(self._descriptor)
            self._watch_room(False)
            os.close(self._descriptor)
            self._full_since = None
        return channel

    def _lose(self, error: ConnectionLostError) -> None:
        channel = self._detach()
        if channel is None:
            return
        again = [posted for posted in channel.lost() if not posted.settled]
        self.queue.extendleft(reversed(again))
        self._to.lost(error)
        self._schedule()


def _copy_of(channel: ConfirmingChannel) -> int:
    """Another descriptor of its socket. Raises UnreachableError."""
    try:
        return os.dup(channel.connection.fileno())
    except OSError as error:
        # Clients have all that there are: who cannot be listened to must not be written to.
        channel.connection.leave()
        raise UnreachableError(f"no connection can be watched: {error.strerror}") from None


def blocked(reason: str) -> Problem:
    """The broker takes no messages now."""
    return unpublished(f"RabbitMQ blocks publishers: {reason}", _BLOCKED)
