"""A broker that lies: nothing that it says takes memory, and no confirm counts that is none."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from support.calls import Call
from support.handshake import OPENED, START, method
from support.patience import LIMIT
from support.peers import Peer, until_gone
from support.sessions import Session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()

LARGE = b"x" * 100_000
MEMORY = """
CREATE OR REPLACE FUNCTION resident() RETURNS bigint LANGUAGE plpython3u AS $$
import gc
gc.collect()
with open("/proc/self/status") as status:
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
$$
"""


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def basic(number: int, arguments: bytes, channel: int = 1) -> bytes:
    return frame(1, channel, struct.pack(">HH", 60, number) + arguments)


def ack(tag: int, multiple: bool = False, channel: int = 1) -> bytes:
    return basic(80, struct.pack(">QB", tag, multiple), channel)


RETURNED = (
    method(spec.Basic.Return(312, "NO_ROUTE", "e" * 255, "k" * 255), 1)
    + frame(2, 1, struct.pack(">HHQH", 60, 0, 10, 0))
    + frame(3, 1, b"0123456789")
)
WORDS = {
    "large frame": frame(1, 1, struct.pack(">HH", 90, 10) + b"x" * (1 << 24)),
    "a little too large": frame(8, 0, b"x" * (131072 - 8 + 1)),
    "unasked methods": frame(1, 1, struct.pack(">HH", 50, 11) + LARGE) * 20,
    "unasked of the connection": frame(1, 0, struct.pack(">HH", 10, 41) + LARGE) * 20,
    "returns": RETURNED * 200,
    "another channel": frame(1, 7, struct.pack(">HH", 20, 11) + b"\0\0\0\0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("words", WORDS)
def test_what_it_says_takes_no_memory(session: Session, words: str) -> None:
    session.run(MEMORY)
    session.set(confirm_timeout="2s", on_failure="warn")
    told = threading.Event()

    def behave(client: socket.socket) -> None:
        client.recv(8)
        client.sendall(OPENED)
        told.wait(LIMIT)
        listener = threading.Thread(target=_drain, args=[client], daemon=True)
        listener.start()
        for _ in range(4000):
            client.sendall(WORDS[words])

    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        session.publish(broker_id, "", [0])
        before = session.value("SELECT resident()")
        told.set()
        for _ in range(5):
            session.publish(broker_id, "", [1, 2, 3])
            session.run("SELECT amqp.disconnect(%s)", broker_id)
        assert session.value("SELECT resident()") - before < 20_000_000
    warnings = session.warnings()
    assert warnings
    assert session.run("SELECT 1") == [(1,)]


def _drain(client: socket.socket) -> None:
    try:
        until_gone(client)
    except OSError:
        pass


@pytest.mark.parametrize(
    "lie",
    [
        ack(1, channel=0),
        ack(1, channel=2),
        ack(4),
        ack(1 << 62),
        ack(4, multiple=True),
        ack((1 << 64) - 1, multiple=True),
        ack(0),
        basic(120, struct.pack(">QB", 0, 0)),
        basic(120, struct.pack(">QB", 9, 1)),
    ],
    ids=[
        "channel 0",
        "channel 2",
        "next",
        "far",
        "next multiple",
        "far multiple",
        "zero",
        "nack of zero",
        "nack of what was never used",
    ],
)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "behind a good one"])
def test_a_confirm_that_is_none(session: Session, lie: bytes, alone: bool) -> None:
    session.set(confirm_timeout="300ms")
    with Peer(_answering(lambda: lie if alone else ack(1) + lie)) as peer:
        broker_id = session.add_broker(peer.url)
        session.publish(broker_id, "", [1] if alone else [1, 2, 3])
        if alone:
            (warning,) = session.warnings()
            assert "not confirmed" in warning.message
            assert session.value("SELECT confirmed FROM amqp.status()") == 0
        # Each connection confirms one message, and lies.
        assert peer.connections >= 3


def _answering(words: Callable[[], bytes]) -> Callable[[socket.socket], None]:
    """What a peer does that answers the first thing that is published with these words."""

    def behave(client: socket.socket) -> None:
        client.recv(8)
        client.sendall(OPENED)
        heard = b""
        while b"\0\x3c\0\x28" not in heard:
            more = client.recv(1 << 16)
            if not more:
                return
            heard += more
        client.sendall(words())
        until_gone(client)

    return behave


def test_a_confirm_of_what_is_not_written_yet(session: Session) -> None:
    session.set(confirm_timeout="1s")

    def behave(client: socket.socket) -> None:
        client.recv(8)
        client.sendall(OPENED)
        client.recv(1 << 10)
        # The rest is still on its way: nobody reads.
        client.sendall(ack(400, multiple=True))
        threading.Event().wait(3)

    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        call = Call(
            lambda: session.run(
                "SELECT amqp.publish(%s, '', 'key', repeat('x', 100000))"
                " FROM generate_series(1, 400)",
                broker_id,
            )
        )
        call.result()
        assert "400 messages not confirmed" in session.warnings()[0].message


def test_frames_that_grow_before_they_are_agreed_upon(session: Session) -> None:
    with Peer(_saying(START + frame(1, 0, struct.pack(">HH", 10, 30) + LARGE * 2))) as peer:
        broker_id = session.add_broker(peer.url)
        error = session.error("SELECT amqp.ping(%s)", broker_id)
        assert error.sqlstate[:2] == "08"


def _saying(words: bytes) -> Callable[[socket.socket], None]:
    def behave(client: socket.socket) -> None:
        client.recv(8)
        client.sendall(words)
        until_gone(client)

    return behave


def test_messages_handed_back_without_end(session: Session, channel: BlockingChannel) -> None:
    session.set(confirm_timeout="1s")
    with Peer(_answering(lambda: RETURNED * 10)) as peer:
        broker_id = session.add_broker(peer.url)
        session.publish(broker_id, "", [1])
        assert session.value("SELECT returned FROM amqp.status()") <= peer.connections
