"""No frame may be larger than was agreed upon."""

from __future__ import annotations

import socket

import pika.frame
import pytest

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.channel import PublishingChannel
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.transport import Transport


def test_a_larger_one_ends_the_connection() -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        connection = Connection(Transport(ours, lambda: None), Address("t", 1, "/", "u", "p"))
        connection.attach(PublishingChannel(connection))
        connection.complete()
        connection.tune(16384, 0)
        peer.sendall(pika.frame.Body(1, b"x" * (16384 - 8)).marshal())
        connection.receive()
        peer.sendall(pika.frame.Body(1, b"x" * (16384 - 7)).marshal())
        with pytest.raises(ConnectionLostError, match="received a frame of 16377 bytes"):
            connection.receive()
        assert not connection.usable
