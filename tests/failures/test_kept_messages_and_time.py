"""How long a transaction waits for what earlier ones have left, and how often it is tried."""

from __future__ import annotations

import re
import socket
import time
from itertools import count

from pika import spec

from support.handshake import OPENED, method
from support.peers import Peer
from support.sessions import Session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()

PUBLISH, FLOW = b"\x00\x3c\x00\x28", b"\x00\x14\x00\x14"


def until_published(client: socket.socket) -> None:
    """Accept a connection, and hang up when a message comes."""
    client.sendall(OPENED)
    while PUBLISH not in client.recv(1 << 16):
        pass


def keep_one(session: Session, broker_id: int) -> None:
    session.set(confirm_timeout="300ms")
    session.publish(broker_id, "", [1])
    (warning,) = session.warnings()
    assert "they are kept" in warning.hint


def seconds_to_next_attempt(session: Session, broker_id: int) -> float:
    hint = session.error("SELECT amqp.publish(%s, '', 'key', 'x')", broker_id).hint
    found = re.search(r"No attempt was made now; the next one is in ([0-9.]+) s", hint)
    assert found, hint
    return float(found[1])


def test_a_host_that_accepts_and_never_confirms_is_tried_more_and_more_rarely(
    session: Session,
) -> None:
    with Peer(until_published) as peer:
        broker_id = session.add_broker(peer.url)
        keep_one(session, broker_id)
        for _ in range(2):
            session.run("SELECT 1")
            time.sleep(seconds_to_next_attempt(session, broker_id) + 0.1)
        session.run("SELECT 1")
        # Of four.
        assert seconds_to_next_attempt(session, broker_id) > 1.0


def test_a_confirm_is_not_waited_for_as_long_as_one_of_its_own(session: Session) -> None:
    ends: list[bool] = []
    connections = count()

    def behave(client: socket.socket) -> None:
        if not ends:
            until_published(client)
            return
        next(connections)
        client.sendall(OPENED)
        while data := client.recv(1 << 16):
            if FLOW in data:
                client.sendall(method(spec.Channel.FlowOk(True), 1))

    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        keep_one(session, broker_id)
        ends.append(True)
        started = time.monotonic()
        session.set(confirm_timeout="12s")
        # A second, at the end of this very transaction.
        assert time.monotonic() - started < 8
        assert next(connections) == 1
        assert session.value("SELECT unconfirmed FROM amqp.status()") == 1
