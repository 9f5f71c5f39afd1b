"""What a broker may answer to the few messages of a small transaction, and in which pieces.

Such a transaction is written by a shorter way than a large one, which it leaves for the other at
the first answer that is out of the ordinary.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
from pika import frame, spec
from pika.adapters.blocking_connection import BlockingChannel

from support.fix_servers import VHost
from support.peers import Peer
from support.queues import declare, numbers_in
from support.sessions import Session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()


def method(method: Any, channel: int = 1) -> bytes:
    encoded: bytes = frame.Method(channel, method).marshal()
    return encoded


OPENED = b"".join(
    [
        method(spec.Connection.Start(0, 9, {"product": "Peer"}, "PLAIN", "en_US"), 0),
        method(spec.Connection.Tune(2047, 131072, 0), 0),
        method(spec.Connection.OpenOk(), 0),
        method(spec.Channel.OpenOk()),
        method(spec.Confirm.SelectOk()),
    ]
)


def ack(tag: int, *, multiple: bool = False) -> bytes:
    return method(spec.Basic.Ack(tag, multiple))


def nack(tag: int, *, multiple: bool = False) -> bytes:
    return method(spec.Basic.Nack(tag, multiple))


RETURNED = (
    method(spec.Basic.Return(312, "NO_ROUTE", "", "key"))
    + frame.Header(1, 1, spec.BasicProperties()).marshal()
    + frame.Body(1, b"2").marshal()
)
BLOCKED = method(spec.Connection.Blocked("memory"), 0)
UNBLOCKED = method(spec.Connection.Unblocked(), 0)

ANSWERS = {
    "one by one": (ack(1) + ack(2) + ack(3), 3, 0),
    "all at once": (ack(3, multiple=True), 3, 0),
    "two, then one": (ack(2, multiple=True) + ack(3), 3, 0),
    "all in one way or the other": (ack(0, multiple=True), 3, 0),
    "out of order": (ack(2) + ack(1) + ack(3), 3, 0),
    "the last first": (ack(3) + ack(2, multiple=True), 3, 0),
    "one twice": (ack(1) + ack(1) + ack(3, multiple=True), 3, 0),
    "one refused": (ack(1) + nack(2) + ack(3), 2, 1),
    "the first refused": (nack(1) + ack(3, multiple=True), 2, 1),
    "all refused": (nack(3, multiple=True), 0, 3),
    "one returned": (ack(1) + RETURNED + ack(3, multiple=True), 3, 0),
    "a heartbeat between": (ack(1) + frame.Heartbeat().marshal() + ack(3, multiple=True), 3, 0),
    "blocked for a moment": (ack(1) + BLOCKED + UNBLOCKED + ack(3, multiple=True), 3, 0),
}


PUBLISH = b"\x00\x3c\x00\x28"
"""Class and method of Basic.Publish."""


def until_published(client: socket.socket, count: int, received: bytes = b"") -> bytes:
    """Read until so many messages have come; what was received, with what had been before.

    They may come together with what the handshake says: nothing that is read may be thrown away.
    """
    while received.count(PUBLISH) < count:
        received += client.recv(1 << 16)
    return received


def answering(words: bytes, size: int) -> Any:
    """Behave like a broker that answers three messages with these words, in pieces of a size."""

    def behave(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(OPENED)
        received = until_published(client, 3)
        for at in range(0, len(words), size):
            client.sendall(words[at : at + size])
        until_published(client, 4, received)
        client.sendall(ack(4))
        while client.recv(1 << 16):
            pass

    return behave


@pytest.mark.parametrize("size", [1, 21, 25, 1000])
@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_is_understood(session: Session, name: str, size: int) -> None:
    words, confirmed, failed = ANSWERS[name]
    session.set(confirm_timeout="10s")
    with Peer(answering(words, size)) as peer:
        broker_id = session.add_broker(peer.url)
        session.publish(broker_id, "", [1, 2, 3])
        counts = "SELECT published, confirmed, failed, unconfirmed FROM amqp.status()"
        counts += f" WHERE broker_id = {broker_id}"
        assert session.run(counts) == [(3, confirmed, failed, 0)]
        warnings = [warning.message for warning in session.warnings()]
        assert len(warnings) == (name in ("one returned",) or failed > 0)
        # Nothing is left over that the next transaction would take for an answer to itself.
        session.publish(broker_id, "", [4])
        assert session.run(counts) == [(4, confirmed + 1, failed, 0)]
        assert session.warnings() == []
        assert peer.connections == 1


@pytest.mark.parametrize(
    ("words", "again"),
    [
        (b"", b"123"),
        (ack(1), b"23"),
        (ack(2, multiple=True), b"3"),
        (ack(3), b"12"),
        (ack(1) + ack(3), b"2"),
        (ack(3)[:-1], b"123"),
    ],
)
def test_what_is_not_confirmed_when_the_connection_breaks_is_written_again(
    session: Session, words: bytes, again: bytes
) -> None:
    written: list[bytes] = []

    def behave(client: socket.socket) -> None:
        client.sendall(OPENED)
        received = b""
        expected = len(again) if written else 3
        while received.count(b"\x00\x3c\x00\x28") < expected:
            received += client.recv(1 << 16)
        written.append(received)
        if len(written) == 1:
            client.sendall(words)
            return
        client.sendall(ack(expected, multiple=True))
        while client.recv(1 << 16):
            pass

    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        session.publish(broker_id, "", [1, 2, 3])
        assert session.warnings() == []
        bodies = [number for number in b"123" if b"\x01" + bytes([number]) + b"\xce" in written[1]]
        assert bytes(bodies) == again
        assert peer.connections == 2


def test_a_frame_that_ends_in_the_next_transaction(session: Session) -> None:
    # The body of a message that comes back: whoever wrote it may have made it look like a confirm.
    body = ack(2)
    returned = (
        method(spec.Basic.Return(312, "NO_ROUTE", "", "key"))
        + frame.Header(1, len(body), spec.BasicProperties()).marshal()
        + frame.Body(1, body).marshal()
    )
    at = returned.index(body)

    def behave(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(OPENED)
        received = b""
        for words in ([ack(1) + returned[:at]], [body, returned[at + len(body) :] + nack(2)]):
            received = until_published(client, received.count(PUBLISH) + 1, received)
            for part in words:
                client.sendall(part)
        while client.recv(1 << 16):
            pass

    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        for number in (1, 2):
            session.publish(broker_id, "", [number])
        counts = "SELECT published, confirmed, failed, unconfirmed FROM amqp.status()"
        assert session.run(counts) == [(2, 1, 1, 0)]
        assert peer.connections == 1


def test_with_and_without_confirms_in_turn(
    session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    declare(channel)
    number = session.add_broker(broker.url())
    for at, confirms in enumerate(["off", "on", "off", "off", "on", "on", "off"]):
        session.set(publisher_confirms=confirms)
        session.publish(number, "events", [at])
    assert numbers_in(channel, "events", 7) == list(range(7))
    counts = "SELECT published, confirmed, unconfirmed FROM amqp.status()"
    assert session.run(counts) == [(7, 3, 0)]
    assert session.warnings() == []


def test_what_cannot_be_reported_is_kept_all_the_same(session: Session) -> None:
    def behave(client: socket.socket) -> None:
        client.sendall(OPENED)
        while data := client.recv(1 << 16):
            if b"\x00\x3c\x00\x28" in data:
                if not healthy:
                    return
                client.sendall(ack(1))
            if method(spec.Channel.Flow(True)) in data:
                client.sendall(method(spec.Channel.FlowOk(True)))

    healthy = False
    session.set(confirm_timeout="200ms")
    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        session.run("SELECT * FROM amqp.status()")
        session.run("""DO LANGUAGE plpython3u $$
            from pg_amqp_py.backend import commit
            def fail(*arguments):
                raise ImportError("no such module")
            commit._report_pending = fail
        $$""")
        session.publish(broker_id, "", [1])
        (warning,) = session.warnings()
        assert warning.sqlstate == "XX000"
        unconfirmed = "SELECT unconfirmed FROM amqp.status()"
        assert session.value(unconfirmed) == 1
        healthy = True
        session.run("SELECT amqp.ping(%s)", broker_id)
        session.run("SELECT 1")
        assert session.value(unconfirmed) == 0


def test_a_connection_with_smaller_frames_takes_over_within_the_transaction(
    session: Session,
) -> None:
    received: list[bytes] = []
    large = method(spec.Connection.Tune(2047, 131072, 0), 0)
    small = method(spec.Connection.Tune(2047, 4096, 0), 0)

    def behave(client: socket.socket) -> None:
        received.append(b"")
        client.sendall(OPENED if len(received) == 1 else OPENED.replace(large, small))
        asked = confirmed = False
        while data := client.recv(1 << 16):
            received[-1] += data
            if not asked and method(spec.Channel.Flow(True)) in received[-1]:
                asked = True
                client.sendall(method(spec.Channel.FlowOk(True)))
            if not confirmed and received[-1].count(b"y") >= 20_000:
                confirmed = True
                client.sendall(ack(1))

    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        with session.transaction():
            session.run("SELECT amqp.publish(%s, '', 'key', repeat('y', 20000))", broker_id)
            session.run("SELECT amqp.disconnect(%s)", broker_id)
            session.run("SELECT amqp.ping(%s)", broker_id)
        assert session.warnings() == []
        assert peer.connections == 2
    stream = received[1][received[1].index(b"\x00\x3c\x00\x28") - 7 :]
    sizes = []
    while stream:
        sizes.append(int.from_bytes(stream[3:7], "big") + 8)
        stream = stream[sizes[-1] :]
    assert max(sizes) == 4096
