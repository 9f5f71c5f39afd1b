"""A broker that lies to who asks: an error, and nothing worse."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable

import pika.frame
import pytest
from pika import spec

from pg_amqp_py.wire.methods import BASIC_RETURN, frame
from servers.postgres import PostgreSQL
from support.calls import Call
from support.deliveries import Sent
from support.handshake import START, TUNE, method
from support.peers import Peer, until_gone
from support.sessions import Session

OPENED = b"".join(
    [
        START,
        TUNE,
        method(spec.Connection.OpenOk()),
        method(spec.Channel.OpenOk(), 1),
        method(spec.Basic.ConsumeOk("replies"), 1),
    ]
)
ASK = "SELECT amqp.request(%s, 'amq.topic', 'k', 'x', timeout => '500ms')"


def reply(correlation_id: str, body: bytes = b"x") -> list[bytes]:
    """Frames of what answers a request."""
    properties = spec.BasicProperties(correlation_id=correlation_id)
    return Sent(body, properties, exchange="").frames(1, frame_max=131072, consumer="replies")


def with_headers(correlation_id: str, table: bytes) -> bytes:
    """A reply whose headers are these bytes."""
    raw = b"\x24\x00" + table + b"\x20" + correlation_id.encode()
    payload = struct.pack(">HHQ", 60, 0, 0) + raw
    header = struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce"
    return reply(correlation_id)[0] + header


def declaring(correlation_id: str, size: int) -> bytes:
    """The beginning of a reply that says it has so many bytes."""
    deliver, header, body = reply(correlation_id)
    return deliver + header[:11] + size.to_bytes(8) + header[19:] + body


RETURN = method(spec.Basic.Return(312, "NO_ROUTE", "amq.topic", "k"), 1)
WORDS: dict[str, tuple[Callable[[str], bytes], set[str]]] = {
    "an answer": (lambda one: b"".join(reply(one)), {""}),
    "headers that are no table": (
        lambda one: with_headers(one, b"\0\0\0\4\1a?\0"),
        {"08P01"},
    ),
    "headers that are too long": (lambda one: with_headers(one, b"\xff\0\0\0"), {"MQ001"}),
    "a body without end": (lambda one: declaring(one, 1 << 62), {"08006"}),
    "a body that stops": (lambda one: declaring(one, 1 << 20), {"MQ001"}),
    "a body without a header": (
        lambda one: reply(one)[0] + reply(one)[2],
        {"08006"},
    ),
    "an answer that is counted in another way": (
        lambda one: b"".join(reply(one)).replace(b"\0" * 7 + b"\1\0", b"\0" * 7 + b"\7\0", 1),
        {""},
    ),
    "a delivery for somebody else": (
        lambda one: b"".join(reply(one)).replace(b"replies", b"another", 1),
        {"08006"},
    ),
    "a confirm": (lambda _: method(spec.Basic.Ack(1), 1), {"08006"}),
    "a method that nobody asked for": (lambda _: method(spec.Queue.PurgeOk(1), 1), {"08006"}),
    "a return": (
        lambda _: RETURN + pika.frame.Header(1, 0, spec.BasicProperties()).marshal(),
        {"MQ003"},
    ),
    "a return that is cut short": (lambda _: frame(1, BASIC_RETURN), {"08006"}),
    "a return among frames of a reply": (lambda one: reply(one)[0] + RETURN, {"08006"}),
    "garbage": (lambda _: bytes(range(256)), {"08006"}),
    "the end of the connection": (
        lambda _: method(spec.Connection.Close(541, "INTERNAL_ERROR", 0, 0)),
        {"08006"},
    ),
    "the end of the channel": (
        lambda _: method(spec.Channel.Close(406, "PRECONDITION_FAILED", 60, 40), 1),
        {"55000"},
    ),
    "silence": (lambda _: b"", {"MQ001"}),
}


@pytest.mark.parametrize("words", WORDS)
def test_what_a_broker_may_say(session: Session, postgres: PostgreSQL, words: str) -> None:
    say, sqlstates = WORDS[words]

    def behave(client: socket.socket) -> None:
        client.recv(8)
        client.sendall(OPENED)
        heard = b""
        while not (found := re.search(rb"[0-9a-f]{32}", heard)):
            data = client.recv(1 << 16)
            if not data:
                return
            heard += data
        client.sendall(say(found[0].decode()))
        until_gone(client)

    with Peer(behave) as peer:
        number = session.add_broker(peer.url)
        if sqlstates == {""}:
            session.run(ASK, number)
        else:
            error = Call(lambda: session.error(ASK, number)).result()
            assert error.sqlstate in sqlstates, error
            assert error.message.startswith("amqp: ")
    assert session.run("SELECT 1") == [(1,)]
    assert "PANIC" not in postgres.log_text()
