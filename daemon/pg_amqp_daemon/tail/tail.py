"""Messages, shown as they come, until somebody has seen enough."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

import psycopg

from pg_amqp_daemon.runtime.brokers import addresses_of_brokers
from pg_amqp_daemon.runtime.database import Database, first_line
from pg_amqp_daemon.tail.show import Show
from pg_amqp_daemon.tail.source import ANSWER, Queue, Source, TakenError
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.consume.channel import ConsumingChannel, connect_consumer
from pg_amqp_py.wire.errors import (
    ChannelClosedError,
    ConnectError,
    ConnectionLostError,
    MessageError,
    StalledError,
)
from pg_amqp_py.wire.uri import InvalidURIError, parse_uri

_CONNECT_TIMEOUT = 5.0
_HEARTBEAT = 10
_PREFETCH = 100
_LOOK = 1.0
"""Seconds between looks at whether anybody still reads."""


class TailError(Exception):
    """There is nothing to show."""


class _StoppedError(Exception):
    """A signal came before there was a connection."""


def addresses_of(uris: Iterable[str]) -> list[Address]:
    """The hosts of these URIs. Raises TailError."""
    try:
        hosts = [host for uri in uris for host in parse_uri(uri)]
    except InvalidURIError as error:
        raise TailError(f"--broker: {error}") from None
    return [
        Address(
            host.host,
            host.port,
            host.vhost or "/",
            host.username or "guest",
            "guest" if host.password is None else host.password,
            host.ssl,
        )
        for host in hosts
    ]


def addresses_in(dsn: str, broker_id: int) -> list[Address]:
    """The hosts of a broker in a database. Raises TailError."""
    database = Database(dsn, "tail")
    try:
        with database.connected():
            found = addresses_of_brokers(database)
    except psycopg.Error as error:
        raise TailError(f"database: {first_line(error)}") from None
    if broker_id not in found:
        raise TailError(f"broker {broker_id} has no row in amqp.broker")
    return found[broker_id]


class Tail:
    """Shows the messages of one source on standard output; at most `count`, if that is not 0."""

    def __init__(self, source: Source, show: Show, count: int) -> None:
        self._source = source
        self._show = show
        self._count = count
        self._shown = 0
        self._stopped = False
        self._prefetch = min(count or _PREFETCH, _PREFETCH)

    def run(self, addresses: list[Address]) -> None:
        """Until `count`, SIGINT or SIGTERM. Raises TailError, and BrokenPipeError."""
        with self._signals() as wakeup:
            try:
                channel = self._connect(addresses)
            except _StoppedError:
                return
            channel.connection.while_waiting(lambda: None)
            channel.connection.heed(wakeup)
            try:
                self._begin(channel)
                if sys.stderr.isatty():
                    print("What comes from now on is shown. Ctrl-C ends.", file=sys.stderr)
                self._follow(channel)
            except ChannelClosedError as error:
                raise TailError(error.reply) from None
            except (ConnectionLostError, StalledError) as error:
                raise TailError(f"the connection was lost: {error}") from None
            except MessageError as error:
                raise TailError(str(error)) from None
            finally:
                channel.connection.close()

    def _begin(self, channel: ConsumingChannel) -> None:
        try:
            self._source.begin(channel, self._prefetch)
        except TakenError:
            assert isinstance(self._source, Queue)
            raise TailError(
                f'queue "{self._source.queue}" is not a stream: what is shown of it is taken from'
                " its consumers. Say --take if you mean that, or look at the exchange that it is"
                " bound to: --exchange, with --key"
            ) from None

    def _follow(self, channel: ConsumingChannel) -> None:
        last = 0
        try:
            while True:
                for delivery in channel.take():
                    print(self._show(delivery), flush=True)
                    last = delivery.tag
                    self._shown += 1
                    if self._stopped or self._shown == self._count:
                        return
                if self._stopped:
                    return
                # Never so that the broker sends more than is to be shown.
                if not self._count:
                    self._acknowledge(channel, last)
                else:
                    self._acknowledge(channel, min(last, self._count - self._prefetch))
                self._wait(channel)
        finally:
            # What was shown counts as taken; what was sent ahead goes back when this ends.
            if channel.connection.usable:
                if channel.consuming:
                    channel.cancel(time.monotonic() + ANSWER)
                self._acknowledge(channel, last)

    @staticmethod
    def _acknowledge(channel: ConsumingChannel, tag: int) -> None:
        if tag > 0:
            channel.ack(tag, time.monotonic() + ANSWER)

    def _wait(self, channel: ConsumingChannel) -> None:
        try:
            channel.wait(time.monotonic() + _LOOK)
            channel.connection.receive()
        except StalledError:
            # Nothing has come: does anybody still read?
            reader = select.poll()
            reader.register(sys.stdout, select.POLLERR)
            if reader.poll(0):
                raise BrokenPipeError(errno.EPIPE, "nobody reads") from None
        channel.connection.beat()
        if channel.cancelled:
            raise TailError("the queue is gone: RabbitMQ has ended the consumer")

    def _connect(self, addresses: list[Address]) -> ConsumingChannel:
        failures = []
        for address in addresses:
            try:
                return connect_consumer(
                    address,
                    {
                        "product": "pg-amqp",
                        "platform": "Python",
                        "connection_name": f"pg-amqp tail {os.getpid()}",
                    },
                    _CONNECT_TIMEOUT,
                    self._on_wait,
                    heartbeat=_HEARTBEAT,
                )
            except ConnectError as error:
                failures.append(f"could not connect to {address}: {error}")
        raise TailError("; ".join(failures))

    def _on_wait(self) -> None:
        if self._stopped:
            raise _StoppedError

    @contextmanager
    def _signals(self) -> Iterator[int]:
        """Have SIGINT and SIGTERM say stop; yields what can be read from then."""
        wakeup, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(told)
        before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield wakeup
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wakeup)
            os.close(told)

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        self._stopped = True
