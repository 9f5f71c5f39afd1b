"""Opening a connection in a role: what is agreed upon, and what is said to the broker."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pika.spec
import pytest

from pg_amqp_py.wire import handshake
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.channel import State, connect_publisher
from pg_amqp_py.wire.errors import (
    ConnectionLostError,
    NotAMQPError,
    RejectedError,
    UnreachableError,
)
from pg_amqp_py.wire.transport import Transport
from support.broker_end import OPENED
from support.handshake import START, method
from support.patience import LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pg_amqp_py.wire.table import JSON

spec = pika.spec
ADDRESS = Address("test", 5672, "/", "me", "secret")
CLIENT: dict[str, JSON] = {"product": "a test", "connection_name": "mine"}


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The broker's end of what is connected to."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    monkeypatch.setattr(
        handshake, "open_transport", lambda _address, _timeout, on_wait: Transport(ours, on_wait)
    )
    yield peer
    ours.close()
    peer.close()


def tune(frame_max: int, heartbeat: int) -> bytes:
    return method(spec.Connection.Tune(2047, frame_max, heartbeat))


OPEN = method(spec.Connection.OpenOk()) + b"".join(method(said, 1) for said in OPENED)


def test_a_connection_with_its_channel(connected: socket.socket) -> None:
    connected.sendall(START + tune(131072, 60) + OPEN)
    channel = connect_publisher(ADDRESS, CLIENT, 5, lambda: None)
    assert channel.state == State.READY
    assert channel.connection.server_product == "Liar"
    assert channel.connection.connected_at
    assert channel.connection.address is ADDRESS
    # Without being asked for, there are no heartbeats.
    assert channel.connection.heartbeat == 0
    said = connected.recv(1 << 16)
    assert b"a test" in said
    assert b"mine" in said
    assert b"publisher_confirms" in said


def test_the_broker_s_largest_frame_is_kept_to(connected: socket.socket) -> None:
    connected.sendall(START + tune(4096, 0) + OPEN)
    channel = connect_publisher(ADDRESS, CLIENT, 5, lambda: None)
    assert channel.encoder.frame_max == channel.connection.frame_max == 4096


@pytest.mark.parametrize(("frame_max", "agreed"), [(0, 131072), (1 << 20, 131072)])
def test_no_frame_is_larger_than_ours(
    frame_max: int, agreed: int, connected: socket.socket
) -> None:
    connected.sendall(START + tune(frame_max, 0) + OPEN)
    channel = connect_publisher(ADDRESS, CLIENT, 5, lambda: None)
    assert channel.encoder.frame_max == agreed


@pytest.mark.parametrize(("offered", "agreed"), [(60, 10), (4, 4), (0, 10)])
def test_heartbeats_are_the_shorter_ones(
    offered: int, agreed: int, connected: socket.socket
) -> None:
    connected.sendall(START + tune(131072, offered) + OPEN)
    channel = connect_publisher(ADDRESS, CLIENT, 5, lambda: None, heartbeat=10)
    assert channel.connection.heartbeat == agreed
    assert method(spec.Connection.TuneOk(2047, 131072, agreed)) in connected.recv(1 << 16)


def test_after_the_handshake_nothing_comes_unasked(connected: socket.socket) -> None:
    connected.sendall(START + tune(131072, 0) + OPEN)
    channel = connect_publisher(ADDRESS, CLIENT, 5, lambda: None)
    connected.sendall(method(spec.Connection.OpenOk()))
    with pytest.raises(ConnectionLostError, match="nobody asked for"):
        channel.receive()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"SSH-2.0\r\n", NotAMQPError),
        (b"AMQP\0\1\0\0", NotAMQPError),
        (START + tune(131072, 0), UnreachableError),
        (method(spec.Connection.Start(0, 9, {}, "EXTERNAL", "en_US")), RejectedError),
    ],
    ids=["other protocol", "other version", "silence", "other mechanism"],
)
def test_what_goes_wrong(connected: socket.socket, said: bytes, error: type[Exception]) -> None:
    connected.sendall(said)
    with pytest.raises(error):
        connect_publisher(ADDRESS, CLIENT, 0.2, lambda: None)


def close(code: int) -> bytes:
    return method(spec.Connection.Close(code, "so it is", 0, 0))


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([START, close(403)], RejectedError),
        ([START, tune(131072, 0), close(530)], RejectedError),
        ([START, tune(131072, 0), method(spec.Connection.OpenOk()), close(530)], RejectedError),
        # A node that shuts down says so to whoever is just coming.
        ([START, close(320)], UnreachableError),
        ([START, tune(131072, 0), close(320)], UnreachableError),
        ([START, tune(131072, 0), method(spec.Connection.OpenOk()), close(320)], UnreachableError),
    ],
    ids=["login", "vhost", "channel", "login, shutdown", "vhost, shutdown", "channel, shutdown"],
)
def test_what_is_refused(
    connected: socket.socket, answers: list[bytes], error: type[Exception]
) -> None:
    def answer() -> None:
        for words in answers:
            connected.recv(1 << 16)
            connected.sendall(words)

    answering = threading.Thread(target=answer)
    answering.start()
    with pytest.raises(error, match="so it is"):
        connect_publisher(ADDRESS, CLIENT, LIMIT, lambda: None)
    answering.join()
