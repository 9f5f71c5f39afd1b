"""Brokers as this session knows them: a connection to one of their hosts, and what it counted.

Goals: a changed row counts from the next transaction; a dead host costs one attempt per backoff
period, not one per call; what does not answer is left alone as long as its answers may still come.
"""

from __future__ import annotations

import math
import os
import time

from pg_amqp_py.backend.buffer import Destination
from pg_amqp_py.backend.errors import (
    INSUFFICIENT_RESOURCES,
    WRONG_STATE,
    AMQPError,
    broker_says,
    connect_hint,
    connect_sqlstate,
    showable,
)
from pg_amqp_py.wire.backoff import Backoff
from pg_amqp_py.wire.channel import connect_publisher
from pg_amqp_py.wire.errors import (
    ChannelClosedError,
    ConnectError,
    ConnectionLostError,
    StalledError,
    UnreachableError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    from pg_amqp_py.backend.errors import Stage
    from pg_amqp_py.wire.address import Address
    from pg_amqp_py.wire.batch import Batch
    from pg_amqp_py.wire.channel import PublishingChannel
    from pg_amqp_py.wire.connection import Connection
    from pg_amqp_py.wire.errors import WireError
    from pg_amqp_py.wire.table import JSON

    Role = TypeVar("Role")

    class _Requester(Protocol):
        """A wire.request.RequestingChannel, which most sessions never load."""

        connection: Connection


_CLIENT: dict[str, JSON] = {"product": "pg_amqp_py", "platform": "PostgreSQL"}
"""What RabbitMQ shows of a backend, beside the name of its connection."""
_MOST_UNCONFIRMED = 200
"""RabbitMQ's flow control stops a channel at 400 messages that a queue has not taken."""
_MOST_SILENT = 4
_SILENCE = 60.0
"""Seconds after which a connection on which nothing is answered counts as broken."""
_FIRST_BACKOFF = 1.0
_LONGEST_BACKOFF = 30.0


class Counters:
    """What amqp.status() says of the messages to one broker."""

    __slots__ = ("confirmed", "failed", "published", "returned")

    def __init__(self) -> None:
        self.published = 0
        self.confirmed = 0
        self.returned = 0
        self.failed = 0


class KeptBatch:
    """Messages of one committed transaction that could not be settled yet."""

    __slots__ = ("batch", "confirm")

    def __init__(self, batch: Batch, *, confirm: bool) -> None:
        self.batch = batch
        self.confirm = confirm
        """Whether their confirms are awaited: amqp.publisher_confirms at their commit."""


class Kept:
    """The kept messages of one broker: what goes out before anything newer."""

    __slots__ = ("_stuck", "batches")

    def __init__(self) -> None:
        self.batches: list[KeptBatch] = []
        """In the order of the commits."""
        self._stuck: tuple[int, set[tuple[str, str]]] | None = None
        """What stuck_places() has found when so many messages were kept."""

    def add(self, batch: Batch, *, confirm: bool) -> None:
        """Keep what a commit could not settle."""
        self.batches.append(KeptBatch(batch, confirm=confirm))

    @property
    def messages(self) -> int:
        """How many messages are kept."""
        return sum(kept.batch.pending for kept in self.batches)

    @property
    def awaited(self) -> bool:
        """Whether all of them are written whole, and may still be confirmed."""
        return all(kept.batch.awaited for kept in self.batches)

    def to_be_written(self) -> KeptBatch | None:
        """The first batch that is not, if any is."""
        return next((kept for kept in self.batches if not kept.batch.awaited), None)

    def places(self) -> list[tuple[str, str]]:
        """Exchange and routing key of each message."""
        return [place for kept in self.batches for place in kept.batch.pending_places()]

    def stuck_places(self) -> set[tuple[str, str]]:
        """Exchange and routing key of messages that a queue has not confirmed in time."""
        messages = self.messages
        if self._stuck is None or self._stuck[0] != messages:
            self._stuck = messages, set(self.places())
        return self._stuck[1]

    def is_stuck(self, exchange: str, routing_key: str) -> bool:
        """Whether so many messages to there wait for a confirm already that no more may be sent.

        They take memory here, and RabbitMQ would soon stop reading the whole connection.
        """
        enough = self.messages >= _MOST_UNCONFIRMED
        return enough and (exchange, routing_key) in self.stuck_places()

    def forget_settled(self) -> bool:
        """Keep nothing of which all is settled; whether that leaves nothing."""
        self.batches[:] = [kept for kept in self.batches if kept.batch.pending]
        return not self.batches


class Broker:
    """One broker_id in this session."""

    requester: _Requester | None = None
    """The channel of its other connection, if this session has sent requests: see requesting."""

    def __init__(self, broker_id: int) -> None:
        self.broker_id = broker_id
        self.destination = Destination(broker_id, captured=False)
        self.addresses: list[Address] = []
        self.read_at: int | None = None
        """server.catalog_version() when the addresses were read; None to read them again."""
        self.channel: PublishingChannel | None = None
        """The one of its connection."""
        self.counters = Counters()
        self.kept = Kept()
        self.last_error: str | None = None
        self.last_error_at: float | None = None
        """When that was, in seconds since 1970."""
        self._silent: list[tuple[float, PublishingChannel]] = []
        """Connections that do not answer, with messages whose confirms may still come, and until
        when (time.monotonic()) they have time for it."""
        self._failures: dict[Address, tuple[Backoff, ConnectError]] = {}
        """Hosts that could not be connected to, or took kept messages and did not confirm them."""

    # -- its row -----------------------------------------------------------------------

    def configure(self, addresses: list[Address], read_at: int | None, stage: Stage) -> None:
        """Take the rows of amqp.broker; a connection to what they no longer name is closed."""
        if addresses != self.addresses:
            self.addresses = addresses
            self._failures.clear()
            if self.channel is not None and self.channel.connection.address not in addresses:
                self.close(stage)
            if self.requester is not None and self.requester.connection.address not in addresses:
                self._close_requester(stage)
        self.read_at = read_at

    def forget_row(self) -> None:
        """Have the row read again before it is next used."""
        self.read_at = None

    # -- its connection ----------------------------------------------------------------

    def look_after(self, timeout: float, stage: Stage) -> PublishingChannel:
        """A connection that is alive as far as one can see without asking the broker.

        Each host has `timeout` seconds. Raises AMQPError if there is no connection to be had, or if
        the broker takes no messages now.
        """
        channel = self.channel
        if channel is None or not self._look(channel, timeout, stage):
            self.channel = None
            channel = self.reach(lambda address: self.connect(address, timeout, stage))
        self.refuse_if_blocked(channel.connection)
        return channel

    def listen(self, stage: Stage) -> None:
        """Take in what the broker has said on the connections that there are, without waiting."""
        if self.channel is not None and not self._look(self.channel, _SILENCE, stage):
            self.channel = None
        for silent in self._silent[:]:
            until, channel = silent
            lives = self._look(channel, _SILENCE, stage) and channel.late
            if not lives or (channel.owes_answer and time.monotonic() >= until):
                channel.connection.leave()
                self._silent.remove(silent)

    def _look(self, channel: PublishingChannel, timeout: float, stage: Stage) -> bool:
        """Take in what an idle connection received; whether it is still of use."""
        channel.connection.while_waiting(stage.on_wait)
        try:
            if self.kept.batches and channel.late:
                # Their batch, which waits for answers, knows what to do about a refusal.
                channel.look(time.monotonic() + timeout)
            else:
                channel.receive()
        except (ConnectionLostError, StalledError):
            return False
        except ChannelClosedError as refusal:
            if channel is self.channel:
                self._warn_of_late(refusal, stage)
            channel.abandon(ConnectionLostError(str(refusal)))
            return False
        return True

    def reach(self, connect: Callable[[Address], Role]) -> Role:
        """Connect to the first host that answers; hosts that just failed are left alone.

        `connect` raises ConnectError, as attempt() does. Raises AMQPError.
        """
        failures: list[tuple[Address, ConnectError]] = []
        waits = []
        now = time.monotonic()
        for address in self.addresses:
            known = self._failures.get(address)
            if known is not None:
                backoff, error = known
                wait = backoff.wait(now)
                if wait:
                    waits.append(wait)
                    failures.append((address, error))
                    continue
            try:
                return connect(address)
            except ConnectError as error:
                failures.append((address, error))
        raise self.note(self._unreachable(failures, waits))

    def connect(self, address: Address, timeout: float, stage: Stage) -> PublishingChannel:
        """Open the connection to one host, in at most `timeout` seconds.

        Raises ConnectError, having noted when the host is to be tried again.
        """
        name = f"PostgreSQL backend {os.getpid()}"
        self.channel = self.attempt(connect_publisher, address, name, timeout, stage)
        return self.channel

    def attempt(
        self,
        connect: Callable[[Address, dict[str, JSON], float, Callable[[], None]], Role],
        address: Address,
        name: str,
        timeout: float,
        stage: Stage,
    ) -> Role:
        """The channel of a new connection, which RabbitMQ shows by this name; see connect()."""
        try:
            channel = connect(address, {**_CLIENT, "connection_name": name}, timeout, stage.on_wait)
        except ConnectError as error:
            # Without its traceback, whose frames hold the password.
            failure = error.with_traceback(None)
            self._back_off(address, failure)
            raise failure from None
        if not self.kept.batches:
            self._failures.pop(address, None)
        return channel

    def drop_connection(self) -> None:
        """Use another connection from here on: this one is of no use any more."""
        self.channel = None

    def give_up(self, channel: PublishingChannel, error: WireError) -> None:
        """Leave alone for a while a host that took kept messages and did not confirm them."""
        if not channel.usable:
            self.channel = None
            self._back_off(channel.connection.address, UnreachableError(f"no confirms: {error}"))

    def set_aside(self) -> None:
        """Use another connection from here on, if confirms are awaited on this one.

        What is asked of a queue that stands still is not answered either, and takes the connection
        with it.
        """
        channel = self.channel
        if channel is not None and channel.late and len(self._silent) < _MOST_SILENT:
            self.channel = None
            self._silent.append((math.inf, channel))

    def park(self, channel: PublishingChannel) -> None:
        """Use another connection from here on: this one does not answer.

        With many messages on it that a queue has not taken, RabbitMQ may have stopped reading from
        it, and may go on. With fewer, or if not even its machine answers, the peer is gone.
        """
        self.channel = None
        unconfirmed = channel.late.outstanding
        throttled = unconfirmed >= _MOST_UNCONFIRMED and channel.connection.acknowledged
        if throttled and len(self._silent) < _MOST_SILENT:
            self._silent.append((time.monotonic() + _SILENCE, channel))
        else:
            channel.abandon(ConnectionLostError("no answer in time"))

    def close(self, stage: Stage) -> None:
        """Close the connections that there are, and forget past failures to connect."""
        self._failures.clear()
        for _, silent in self._silent:
            silent.connection.leave()
        self._silent.clear()
        if self.channel is not None:
            channel, self.channel = self.channel, None
            channel.connection.while_waiting(stage.on_wait)
            channel.connection.close()
        self._close_requester(stage)

    def _close_requester(self, stage: Stage) -> None:
        if self.requester is not None:
            connection, self.requester = self.requester.connection, None
            connection.while_waiting(stage.on_wait)
            connection.close()

    # -- what has failed ---------------------------------------------------------------

    def forget_failures(self) -> None:
        """Try every host again at the next occasion."""
        self._failures.clear()

    def _back_off(self, address: Address, error: ConnectError) -> None:
        known = self._failures.get(address)
        backoff = known[0] if known else Backoff(_FIRST_BACKOFF, _LONGEST_BACKOFF)
        # A commit tries again and again, whatever was noted here: its attempts count as one.
        backoff.failed(time.monotonic())
        self._failures[address] = backoff, error

    def note(self, error: AMQPError) -> AMQPError:
        """Remember an error for amqp.status()."""
        self._note(error.in_one_line())
        return error

    def note_text(self, text: str) -> None:
        """Remember what went wrong where no error can be raised: at commit."""
        self._note(showable(text))

    def _note(self, text: str) -> None:
        self.last_error, self.last_error_at = text, time.time()

    def refuse_if_blocked(self, connection: Connection) -> None:
        """Raise AMQPError if the broker has said that it takes no messages now."""
        if connection.blocked is not None:
            raise self.note(
                AMQPError(
                    f"broker {self.broker_id} is not accepting messages",
                    sqlstate=INSUFFICIENT_RESOURCES,
                    detail=f"The broker blocks publishers: {connection.blocked}",
                    hint="The broker is short of memory or disk space: see rabbitmqctl status.",
                )
            )

    def refuse_if_stuck(self, exchange: str, routing_key: str) -> None:
        """Raise AMQPError for one message more to where too many wait for a confirm already."""
        if self.kept.is_stuck(exchange, routing_key):
            raise self.note(
                AMQPError(
                    f"broker {self.broker_id} does not confirm messages to exchange"
                    f' "{exchange}" with routing key "{routing_key}"',
                    sqlstate=INSUFFICIENT_RESOURCES,
                    detail=f"Number of messages of this session that are not confirmed:"
                    f" {self.kept.messages}.",
                    hint="A queue that they are routed to is stuck: see rabbitmqctl list_queues.",
                )
            )

    def report_late_refusal(self, stage: Stage) -> None:
        """Warn if the broker refused messages whose confirms nobody awaited."""
        if self.channel is not None:
            refusal = self.channel.take_late_refusal()
            if refusal is not None:
                self._warn_of_late(refusal, stage)

    def _warn_of_late(self, refusal: ChannelClosedError, stage: Stage) -> None:
        stage.warn(
            f"broker {self.broker_id} refused messages of an earlier transaction",
            sqlstate=WRONG_STATE,
            detail=broker_says(refusal),
        )

    def _unreachable(
        self, failures: list[tuple[Address, ConnectError]], waits: list[float]
    ) -> AMQPError:
        address, error = failures[-1]
        hint = connect_hint(error)
        if len(waits) == len(failures):
            hint += (
                f" No attempt was made now; the next one is in {min(waits):.1f} s,"
                f" or at once with SELECT amqp.ping({self.broker_id})."
            )
        if len(failures) == 1:
            message = f'could not connect to broker {self.broker_id} at "{address}": {error}'
            detail = None
        else:
            message = f"could not connect to any host of broker {self.broker_id}"
            detail = "; ".join(f'"{address}": {failure}' for address, failure in failures)
        return AMQPError(message, sqlstate=connect_sqlstate(error), detail=detail, hint=hint)
