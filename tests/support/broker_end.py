"""A publishing channel whose broker is the other end of a socket pair, and says what it is told."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pika.frame
import pika.spec
import pytest

from pg_amqp_py.wire import methods
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.channel import PublishingChannel
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.transport import Transport
from support.patience import LIMIT

spec = pika.spec
GONE = spec.Channel.Close(404, "NOT_FOUND - no exchange 'x' in vhost '/'", 60, 40)
OPENED = [spec.Channel.OpenOk(), spec.Confirm.SelectOk()]
REOPENING = methods.OPEN_CHANNEL + methods.SELECT_CONFIRMS


class FarEnd:
    """The broker's end: says what it is told to, and shows what it has heard."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self.answers: list[object] = []
        """What it says on the channel one by one, as it is waited for; a list is said at once."""

    def say(self, *said: object, number: int = 1) -> None:
        """Send methods on the channel, or on another one."""
        frames = [pika.frame.Method(number, method).marshal() for method in said]
        self._stream.sendall(b"".join(frames))

    def say_bytes(self, data: bytes) -> None:
        """Send anything else."""
        self._stream.sendall(data)

    def heard(self) -> bytes:
        """What has come since the last call."""
        try:
            return self._stream.recv(1 << 16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Be gone."""
        self._stream.close()


class AnsweredTransport(Transport):
    """A stream whose peer answers."""

    peer: FarEnd

    def wait(self, deadline: float, *, sending: bool = False) -> None:
        """Let the peer answer first."""
        if self.peer.answers:
            answer = self.peer.answers.pop(0)
            self.peer.say(*(answer if isinstance(answer, list) else [answer]))
        super().wait(deadline, sending=sending)


def channel_fixtures() -> tuple[Any, Any, Any]:
    """An open channel with its peer, and each of them: fixtures, to be named in the module."""

    @pytest.fixture
    def peer_and_channel() -> Iterator[tuple[FarEnd, PublishingChannel]]:
        """An open channel."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        peer = FarEnd(theirs)
        transport = AnsweredTransport(ours, lambda: None)
        transport.peer = peer
        connection = Connection(transport, Address("test", 1, "/", "u", "p"))
        channel = PublishingChannel(connection)
        connection.attach(channel)
        peer.answers += OPENED
        channel.open(time.monotonic() + LIMIT)
        connection.complete()
        assert peer.heard() == REOPENING
        yield peer, channel
        connection.abandon(ConnectionLostError("the test is over"))
        peer.close()

    @pytest.fixture
    def peer(peer_and_channel: tuple[FarEnd, PublishingChannel]) -> FarEnd:
        return peer_and_channel[0]

    @pytest.fixture
    def channel(peer_and_channel: tuple[FarEnd, PublishingChannel]) -> PublishingChannel:
        return peer_and_channel[1]

    return peer_and_channel, peer, channel
