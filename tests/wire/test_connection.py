"""The connection beneath the roles: its stream, heartbeats and end, over a socket pair."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pika.frame
import pika.spec
import pytest

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError
from pg_amqp_py.wire.frames import Frame
from pg_amqp_py.wire.methods import Method
from pg_amqp_py.wire.transport import Transport

spec = pika.spec


class Role:
    """Whoever has the channel: a role that is none of the wire's own."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.taken: list[bytes] = []
        self.taking = False
        self.blocked = 0
        self.lost = 0

    capabilities = ()

    def open(self, deadline: float) -> None: ...

    def takes(self, data: bytes) -> bool:
        if self.taking:
            self.taken.append(data)
        return self.taking

    def on_frame(self, frame: Frame) -> ChannelClosedError | None:
        self.frames.append(frame)
        if isinstance(frame, Method) and frame.index == spec.Channel.Close.INDEX:
            return ChannelClosedError(*frame.reply())
        return None

    def on_blocked(self) -> None:
        self.blocked += 1

    def on_lost(self) -> None:
        self.lost += 1


@pytest.fixture
def streams() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    yield ours, peer
    ours.close()
    peer.close()


@pytest.fixture
def peer(streams: tuple[socket.socket, socket.socket]) -> socket.socket:
    return streams[1]


@pytest.fixture
def connection(streams: tuple[socket.socket, socket.socket]) -> Connection:
    connection = Connection(Transport(streams[0], lambda: None), Address("t", 1, "/", "u", "p"))
    connection.complete()
    return connection


@pytest.fixture
def role(connection: Connection) -> Role:
    role = Role()
    connection.attach(role)
    return role


def method(value: object, number: int = 1) -> bytes:
    marshalled: bytes = pika.frame.Method(number, value).marshal()
    return marshalled


def at_once() -> float:
    return time.monotonic() + 0.01


def fill(connection: Connection) -> None:
    """Write until the peer takes no more."""
    while connection.send_some(b"x" * (1 << 16)):
        pass


def test_what_belongs_to_the_channel_goes_to_whoever_has_it(
    connection: Connection, role: Role, peer: socket.socket
) -> None:
    header = pika.frame.Header(1, 3, spec.BasicProperties(message_id="m")).marshal()
    body = pika.frame.Body(1, b"abc").marshal()
    peer.sendall(method(spec.Basic.Deliver("c", 1, False, "e", "k")) + header + body)
    connection.receive()
    assert len(role.frames) == 3
    assert isinstance(role.frames[0], Method)
    peer.sendall(method(spec.Connection.Blocked("memory"), 0))
    connection.receive()
    assert (len(role.frames), role.blocked, connection.blocked) == (3, 1, "memory")


def test_a_role_may_take_bytes_as_they_come(
    connection: Connection, role: Role, peer: socket.socket
) -> None:
    role.taking = True
    peer.sendall(b"anything")
    connection.receive()
    assert role.taken == [b"anything"]


def test_a_role_takes_no_rest_of_a_frame(
    connection: Connection, role: Role, peer: socket.socket
) -> None:
    flow = method(spec.Channel.Flow(True))
    peer.sendall(flow[:9])
    connection.receive()
    role.taking = True
    peer.sendall(flow[9:])
    connection.receive()
    assert role.taken == []
    assert len(role.frames) == 1


def test_the_channel_is_closed_when_all_that_came_with_it_is_taken_in(
    connection: Connection, role: Role, peer: socket.socket
) -> None:
    peer.sendall(method(spec.Channel.Close(404, "gone", 0, 0)) + method(spec.Channel.Flow(True)))
    with pytest.raises(ChannelClosedError, match="gone"):
        connection.receive()
    assert len(role.frames) == 2


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (method(spec.Basic.Ack(1), 0), "a confirm of what was never published"),
        (method(spec.Basic.Ack(1), 2), "a confirm of what was never published"),
        (method(spec.Channel.Flow(True), 2), "on a channel that is not open"),
        (pika.frame.Header(2, 0, spec.BasicProperties()).marshal(), "content that was not asked"),
        (method(spec.Connection.OpenOk(), 0), "that nobody asked for"),
    ],
)
def test_what_belongs_to_nobody(
    connection: Connection, role: Role, peer: socket.socket, data: bytes, text: str
) -> None:
    peer.sendall(data)
    with pytest.raises(ConnectionLostError, match=text):
        connection.receive()
    assert (role.lost, connection.usable) == (1, False)


def test_giving_up_half_a_frame_ends_the_connection(connection: Connection, role: Role) -> None:
    # A large commit that stalls at a blocked broker: whatever came next would be part of its frame.
    fill(connection)
    with pytest.raises(StalledError):
        connection.wait(at_once(), sending=True)
    assert not connection.usable
    assert role.lost == 1


def test_with_heartbeats_half_a_frame_may_be_gone_on_with(
    connection: Connection, role: Role
) -> None:
    connection.tune(4096, 60)
    fill(connection)
    with pytest.raises(StalledError):
        connection.wait(at_once(), sending=True)
    assert connection.usable


def test_giving_up_answers_leaves_the_connection(connection: Connection, role: Role) -> None:
    with pytest.raises(StalledError):
        connection.wait(at_once())
    assert connection.usable


def test_whatever_else_ends_a_wait_ends_the_connection(connection: Connection, role: Role) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    connection.while_waiting(interrupt)
    with pytest.raises(KeyboardInterrupt):
        connection.wait(time.monotonic() + 5)
    assert not connection.usable


def test_a_disconnect_while_a_half_sent_frame_waits(
    connection: Connection, role: Role, peer: socket.socket
) -> None:
    fill(connection)
    with pytest.raises(StalledError):
        connection.wait(at_once(), sending=True)
    connection.close()
    peer.setblocking(False)
    received = bytearray()
    while data := peer.recv(1 << 16):
        received += data
    # No goodbye in the middle of a frame.
    assert received.strip(b"x") == b""


def test_what_is_put_back_is_received(
    connection: Connection, role: Role, peer: socket.socket
) -> None:
    peer.sendall(method(spec.Channel.Flow(True)))
    data = connection.read(1)
    connection.put_back(data)
    # It is there without anything to be waited for.
    connection.wait(0)
    assert connection.read(0) == data
    assert connection.read(0) == b""
    connection.put_back(data)
    connection.receive()
    assert len(role.frames) == 1


def test_a_reason_is_kept(connection: Connection, role: Role) -> None:
    connection.abandon(ConnectionLostError("first"))
    connection.abandon(ConnectionLostError("second"))
    with pytest.raises(ConnectionLostError, match="first"):
        connection.receive()
    assert role.lost == 1


def test_giving_the_socket_away(connection: Connection, role: Role, peer: socket.socket) -> None:
    with socket.socket(fileno=connection.detach()) as ours:
        assert not connection.usable
        connection.close()
        ours.sendall(b"still open")
        assert peer.recv(100) == b"still open"
