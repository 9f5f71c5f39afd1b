"""A connection on which nothing is answered any more is given time, and not for ever."""

from __future__ import annotations

import socket
from itertools import count

from pika import spec

from servers.processes import wait_for
from support.handshake import OPENED, method
from support.patience import LIMIT
from support.peers import Peer, until_gone
from support.sessions import Session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()

PUBLISH = b"\x00\x3c\x00\x28"
MANY = 300
"""More than RabbitMQ leaves unread without having stopped to read."""


def test_what_it_does_not_confirm_in_its_time_is_written_again(session: Session) -> None:
    connections = count()

    def behave(client: socket.socket) -> None:
        first = next(connections) == 0
        client.sendall(OPENED)
        if first:
            until_gone(client)
            return
        received = b""
        while data := client.recv(1 << 16):
            received += data
            if received.count(PUBLISH) == MANY:
                client.sendall(method(spec.Basic.Ack(MANY, True), 1))

    session.set(confirm_timeout="300ms")
    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        session.run("SELECT amqp.pending()")
        # Its minute is over as soon as it begins.
        session.run(
            "DO LANGUAGE plpython3u 'from pg_amqp_py.backend import broker; broker._SILENCE = 0.0'"
        )
        session.publish(broker_id, "", range(MANY))
        (warning,) = session.warnings()
        assert "awaited" in warning.hint
        session.run("SELECT 1")
        assert peer.connections == 2

        def confirmed() -> bool:
            session.run("SELECT 1")
            return bool(session.value("SELECT confirmed FROM amqp.status()") == MANY)

        wait_for(confirmed, LIMIT, "the confirms")
