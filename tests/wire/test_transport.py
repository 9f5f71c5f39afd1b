"""The byte stream, over socket pairs and without a broker."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.errors import ConnectionLostError, StalledError, UnreachableError
from pg_amqp_py.wire.transport import Transport, open_transport


def nothing() -> None:
    """What a wait calls when nobody wants to interrupt it."""


@pytest.fixture
def plain() -> Iterator[tuple[Transport, socket.socket]]:
    """A transport and its peer."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    transport = Transport(ours, nothing)
    yield transport, peer
    transport.close()
    peer.close()


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Transport, ssl.SSLSocket]]:
    """The same over TLS."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    left, right = socket.socketpair()
    peers: list[ssl.SSLSocket] = []
    accept = threading.Thread(
        target=lambda: peers.append(server.wrap_socket(right, server_side=True))
    )
    accept.start()
    ours = client.wrap_socket(left, server_hostname="localhost")
    accept.join()
    ours.setblocking(False)
    transport = Transport(ours, nothing)
    yield transport, peers[0]
    transport.close()
    peers[0].close()


def receive(peer: socket.socket, size: int, into: bytearray) -> threading.Thread:
    """Read that many bytes in a thread."""

    def read() -> None:
        while len(into) < size:
            data = peer.recv(1 << 14)
            if not data:
                return
            into.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def send_all(transport: Transport, data: bytes) -> None:
    left = memoryview(data)
    while left:
        sent = transport.send_some(left)
        left = left[sent:]
        if not sent:
            transport.wait(time.monotonic() + 30, sending=True)


def wait_for_end(transport: Transport, reader: threading.Thread) -> None:
    """What TLS has taken and not sent yet goes out while waiting."""
    while reader.is_alive():
        with suppress(StalledError):
            transport.wait(time.monotonic() + 0.05)
            # TLS says something of its own now and then.
            assert transport.receive_some() == b""


@pytest.mark.parametrize("kind", ["plain", "secure"])
def test_a_stream_through_a_peer_that_reads_late(kind: str, request: pytest.FixtureRequest) -> None:
    transport, peer = request.getfixturevalue(kind)
    data = os.urandom(4 << 20)
    left = memoryview(data)
    # Until nothing fits any more.
    while sent := transport.send_some(left):
        left = left[sent:]
    received = bytearray()
    reader = receive(peer, len(data), received)
    send_all(transport, bytes(left))
    wait_for_end(transport, reader)
    assert received == data


@pytest.mark.parametrize("kind", ["plain", "secure"])
def test_something_else_after_nothing_fitted_any_more(
    kind: str, request: pytest.FixtureRequest
) -> None:
    # A refusal in the middle of a stream: the rest of it is dropped and a short answer follows.
    transport, peer = request.getfixturevalue(kind)
    data = os.urandom(8 << 20)
    taken = 0
    while sent := transport.send_some(memoryview(data)[taken:]):
        taken += sent
    received = bytearray()
    reader = receive(peer, taken + 6, received)
    send_all(transport, b"answer")
    wait_for_end(transport, reader)
    assert received == data[:taken] + b"answer"


def test_a_late_wait_is_forgiven_once(plain: tuple[Transport, socket.socket]) -> None:
    # A process that was stopped finds what it waited for; a peer that floods gains nothing.
    transport, peer = plain
    peer.send(b"x")
    past = time.monotonic() - 1
    transport.wait(past)
    with pytest.raises(StalledError):
        transport.wait(past)
    transport.wait(time.monotonic() + 30)
    transport.wait(past)


def test_nothing_to_read(plain: tuple[Transport, socket.socket]) -> None:
    transport, peer = plain
    assert transport.receive_some() == b""
    with pytest.raises(StalledError):
        transport.wait(time.monotonic() + 0.01)
    peer.close()
    transport.wait(time.monotonic() + 30)
    with pytest.raises(ConnectionLostError, match="closed by the peer"):
        transport.receive_some()


def test_waits_can_be_interrupted(plain: tuple[Transport, socket.socket]) -> None:
    transport, _ = plain

    def interrupt() -> None:
        raise KeyboardInterrupt

    transport.on_wait = interrupt
    with pytest.raises(KeyboardInterrupt):
        transport.wait(time.monotonic() + 30)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def full() -> Iterator[socket.socket]:
    """A listener that lets nobody in any more: it swallows packets."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener


def named(monkeypatch: pytest.MonkeyPatch, *listeners: socket.socket) -> Address:
    """An address whose name has several addresses."""
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", listener.getsockname())
        for listener in listeners
    ]
    monkeypatch.setattr("_socket.getaddrinfo", lambda *_, **__: found)
    return Address("several", 5672, "/", "u", "p")


def test_an_address_that_swallows_packets_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch, full: socket.socket, listener: socket.socket
) -> None:
    start = time.monotonic()
    transport = open_transport(named(monkeypatch, full, listener), 2, nothing)
    # Half of the time, and some for a busy machine.
    assert 0.5 < time.monotonic() - start < 1.8
    transport.close()


def test_the_last_address_has_all_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, full: socket.socket
) -> None:
    start = time.monotonic()
    with pytest.raises(UnreachableError, match="no answer in time"):
        open_transport(named(monkeypatch, full, full), 0.5, nothing)
    assert time.monotonic() - start >= 0.5


def test_a_peer_that_is_gone_is_noticed_without_heartbeats(listener: socket.socket) -> None:
    host, port = listener.getsockname()
    transport = open_transport(Address(host, port, "/", "u", "p"), 30, nothing)
    with socket.socket(fileno=transport.detach()) as stream:
        assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 10
        assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
        assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
