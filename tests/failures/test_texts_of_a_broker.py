"""What a broker says is shown, whatever it holds."""

from __future__ import annotations

import socket

from pika import spec

from support.handshake import START, method
from support.peers import Peer, until_gone
from support.sessions import Session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()


def test_a_nul_ends_no_text(session: Session) -> None:
    def behave(client: socket.socket) -> None:
        client.recv(1 << 16)
        client.sendall(START)
        client.recv(1 << 16)
        client.sendall(method(spec.Connection.Close(403, "no entry\0 for you", 0, 0)))
        until_gone(client)

    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        report = session.error("SELECT amqp.publish(%s, '', 'key', 'x')", broker_id)
    assert report.sqlstate == "28P01"
    assert "no entry for you" in report.message
    assert session.value("SELECT last_error FROM amqp.status()") == report.message.removeprefix(
        "amqp: "
    )
