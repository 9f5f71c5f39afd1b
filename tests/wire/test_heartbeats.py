"""Heartbeats: what is agreed upon, and when a broker that sends none is given up."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from pika import spec

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.channel import connect_publisher
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.transport import Transport
from support.handshake import HEARTBEAT, START, method

ADDRESS = Address("test", 1, "/", "u", "p")


def nothing() -> None: ...


@pytest.fixture
def streams() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    yield ours, peer
    ours.close()
    peer.close()


@pytest.mark.parametrize(
    ("wanted", "offered", "agreed"),
    # Whoever wants none cannot send any, whatever the broker offers.
    [(0, 60, 0), (0, 0, 0), (10, 60, 10), (10, 5, 5), (10, 0, 10)],
)
def test_the_shorter_time_counts(
    monkeypatch: pytest.MonkeyPatch,
    streams: tuple[socket.socket, socket.socket],
    wanted: int,
    offered: int,
    agreed: int,
) -> None:
    ours, peer = streams
    transport = Transport(ours, nothing)
    monkeypatch.setattr("pg_amqp_py.wire.handshake.open_transport", lambda *_: transport)
    peer.sendall(
        START
        + method(spec.Connection.Tune(2047, 131072, offered))
        + method(spec.Connection.OpenOk())
        + method(spec.Channel.OpenOk(), 1)
        + method(spec.Confirm.SelectOk(), 1)
    )
    channel = connect_publisher(ADDRESS, {}, 5, nothing, heartbeat=wanted)
    assert channel.connection.heartbeat == agreed
    assert method(spec.Connection.TuneOk(2047, 131072, agreed)) in peer.recv(1 << 16)


@pytest.fixture
def silent(streams: tuple[socket.socket, socket.socket]) -> Connection:
    """A connection on which nothing has been taken in for long."""
    connection = Connection(Transport(streams[0], nothing), ADDRESS)
    connection.complete()
    connection.tune(4096, 1)
    connection.received_at = time.monotonic() - 60
    return connection


def test_a_broker_that_sends_none_is_given_up(silent: Connection) -> None:
    with pytest.raises(ConnectionLostError, match="no heartbeat within 2 seconds"):
        silent.beat()
    assert not silent.usable


def test_whoever_stood_still_itself_looks_at_what_has_arrived_first(
    silent: Connection, streams: tuple[socket.socket, socket.socket]
) -> None:
    streams[1].sendall(HEARTBEAT)
    silent.beat()
    silent.receive()
    silent.beat()
    assert silent.usable
