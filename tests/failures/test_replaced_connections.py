"""A connection that another one has replaced within the transaction is not used any more."""

from __future__ import annotations

import socket

from pika import spec

from support.handshake import OPENED, TUNE, method
from support.peers import Peer, until_gone
from support.sessions import Session, open_session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()

PUBLISH = b"\x00\x3c\x00\x28"
DECLARE = b"\x00\x28\x00\x0a"
FLOW = method(spec.Channel.Flow(True), 1)
SMALL = 4096


def frame_sizes(stream: bytes) -> list[int]:
    """How large the frames are from the first message on."""
    stream = stream[stream.index(PUBLISH) - 7 :]
    sizes = []
    while stream:
        sizes.append(int.from_bytes(stream[3:7], "big") + 8)
        stream = stream[sizes[-1] :]
    return sizes


def test_publishing_goes_on_after_one_with_smaller_frames_took_over(session: Session) -> None:
    received: list[bytes] = []
    small = OPENED.replace(TUNE, method(spec.Connection.Tune(2047, SMALL, 0)))

    def behave(client: socket.socket) -> None:
        received.append(b"")
        client.sendall(OPENED if len(received) == 1 else small)
        asked = confirmed = False
        while data := client.recv(1 << 16):
            received[-1] += data
            if not asked and FLOW in received[-1]:
                asked = True
                client.sendall(method(spec.Channel.FlowOk(True), 1))
            if not confirmed and b"z" in received[-1]:
                confirmed = True
                client.sendall(method(spec.Basic.Ack(2, True), 1))

    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        with session.transaction():
            session.run("SELECT amqp.publish(%s, '', 'key', repeat('y', 20000))", broker_id)
            session.run("SELECT amqp.disconnect(%s)", broker_id)
            session.run("SELECT amqp.ping(%s)", broker_id)
            # What is encoded from here on fits; what was encoded before does not.
            session.run("SELECT amqp.publish(%s, '', 'key', 'z')", broker_id)
        assert session.warnings() == []
        assert peer.connections == 2
    assert max(frame_sizes(received[1])) == SMALL


def test_nothing_is_published_on_one_that_has_stalled(session: Session) -> None:
    def behave(client: socket.socket) -> None:
        client.sendall(OPENED)
        until_gone(client)

    session.set(on_failure="warn", confirm_timeout="200ms")
    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        session.run("BEGIN")
        now = session.value("SELECT amqp.autonomous_publish(%s, '', 'key', 'x')", broker_id)
        assert now is False
    (warning,) = session.warnings()
    assert "was not confirmed" in warning.message
    assert session.value("SELECT amqp.publish(%s, '', 'key', 'x')", broker_id) is False
    (warning,) = session.warnings()
    assert "could not connect" in warning.message
    session.run("ROLLBACK")


def test_the_outbox_does_not_ask_on_one_that_the_broker_has_closed(
    session: Session, database: str
) -> None:
    put = "SELECT amqp.publish_outbox(%s, %s, 'key', 'x')"
    connections = 0
    asked: list[int] = []

    def behave(client: socket.socket) -> None:
        nonlocal connections
        connections += 1
        first = connections == 1
        published = 0
        client.sendall(OPENED)
        while data := client.recv(1 << 16):
            if DECLARE in data:
                asked.append(connections)
                client.sendall(method(spec.Exchange.DeclareOk(), 1))
            if PUBLISH not in data:
                continue
            if first:
                client.sendall(method(spec.Connection.Close(541, "INTERNAL_ERROR", 0, 0)))
                continue
            if not published:
                # For the second reading of the same call, which has to ask for its exchange.
                other.run(put, broker_id, "two")
            published += 1
            client.sendall(method(spec.Basic.Ack(published, False), 1))

    with open_session(database) as other, Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        session.run(put, broker_id, "one")
        assert session.value("SELECT amqp.publish_outbox_batch(%s)", broker_id) == 2
    assert session.warnings() == []
    assert connections == 2
    # On each connection for its exchange, before a message to it is written.
    assert asked == [1, 2]
    assert session.run("SELECT last_error FROM amqp.outbox") == []
    assert session.run("SELECT last_error FROM amqp.outbox_dead") == []
