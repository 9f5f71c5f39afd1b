"""How long a host that fails is left alone, and how the time of a commit is shared out."""

from __future__ import annotations

import re
import socket
import time
from contextlib import ExitStack

from pika import spec

from support.handshake import OPENED, method
from support.peers import Peer, until_gone
from support.sessions import Session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()

PUBLISH = b"\x00\x3c\x00\x28"
ACK = method(spec.Basic.Ack(1, False), 1)


class Host:
    """What a peer does that confirms while it is `well`; else it hangs up when it hears a message.

    Then nobody gets a greeting.
    """

    def __init__(self) -> None:
        self.well = True

    def __call__(self, client: socket.socket) -> None:
        if not self.well:
            return
        client.sendall(OPENED)
        while data := client.recv(1 << 16):
            if PUBLISH in data:
                if not self.well:
                    return
                client.sendall(ACK)


def seconds_to_next_attempt(session: Session, broker_id: int) -> float:
    hint = session.error("SELECT amqp.publish(%s, '', 'key', 'x')", broker_id).hint
    found = re.search(r"No attempt was made now; the next one is in ([0-9.]+) s", hint)
    assert found, hint
    return float(found[1])


def fail_at_commit(session: Session, broker_id: int, host: Host) -> None:
    """Publish to a host that takes no message any more; the message is kept."""
    session.run("BEGIN")
    session.publish(broker_id, "", [1])
    host.well = False
    session.run("COMMIT")
    (warning,) = session.warnings()
    assert "not confirmed" in warning.message


def test_all_attempts_of_one_commit_count_as_one(session: Session) -> None:
    host = Host()
    session.set(confirm_timeout="2s")
    with Peer(host) as peer:
        broker_id = session.add_broker(peer.url)
        fail_at_commit(session, broker_id, host)
        assert peer.connections > 5
        assert seconds_to_next_attempt(session, broker_id) <= 1.0


def test_a_host_that_has_confirmed_what_was_kept_is_trusted_again(session: Session) -> None:
    host = Host()
    session.set(confirm_timeout="300ms")
    with Peer(host) as peer:
        broker_id = session.add_broker(peer.url)
        fail_at_commit(session, broker_id, host)
        host.well = True
        time.sleep(seconds_to_next_attempt(session, broker_id) + 0.1)
        session.run("SELECT 1")
        assert session.value("SELECT unconfirmed FROM amqp.status()") == 0
        fail_at_commit(session, broker_id, host)
        assert seconds_to_next_attempt(session, broker_id) <= 1.0


def test_silent_hosts_share_the_time_that_a_commit_has_for_what_is_kept(session: Session) -> None:
    opened = False

    def behave(client: socket.socket) -> None:
        nonlocal opened
        if not opened:
            opened = True
            client.sendall(OPENED)
            while PUBLISH not in client.recv(1 << 16):
                pass
        else:
            until_gone(client)

    session.set(confirm_timeout="300ms")
    with ExitStack() as peers:
        ports = [peers.enter_context(Peer(behave)).port for _ in range(4)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        broker_id = session.add_broker(f"amqp://guest:guest@{hosts}/")
        session.publish(broker_id, "", [1])
        assert session.value("SELECT unconfirmed FROM amqp.status()") == 1
        time.sleep(1.1)
        started = time.monotonic()
        session.run("SELECT 1")
        # A second for all of them, not for each.
        assert 0.5 < time.monotonic() - started < 2.5


def test_a_connection_that_is_lost_late_leaves_the_next_one_its_time(session: Session) -> None:
    connections = 0

    def behave(client: socket.socket) -> None:
        nonlocal connections
        connections += 1
        first = connections == 1
        if not first:
            time.sleep(0.5)
        client.sendall(OPENED)
        while data := client.recv(1 << 16):
            if PUBLISH in data:
                if first:
                    time.sleep(0.8)
                    return
                client.sendall(ACK)

    session.set(confirm_timeout="1s")
    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        session.publish(broker_id, "", [1])
        assert session.warnings() == []
        assert session.value("SELECT confirmed FROM amqp.status()") == 1
        assert connections == 2


def test_silent_hosts_leave_the_last_one_its_share_of_the_time(session: Session) -> None:
    ports: list[int] = []
    opened = False

    def behave(client: socket.socket) -> None:
        nonlocal opened
        first, opened = not opened, True
        if not first and client.getsockname()[1] != max(ports):
            until_gone(client)
            return
        client.sendall(OPENED)
        while data := client.recv(1 << 16):
            if PUBLISH in data:
                if first:
                    return
                client.sendall(ACK)

    session.set(confirm_timeout="2s")
    with ExitStack() as peers:
        ports += [peers.enter_context(Peer(behave)).port for _ in range(3)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        broker_id = session.add_broker(f"amqp://guest:guest@{hosts}/")
        session.publish(broker_id, "", [1])
        assert session.warnings() == []
        assert session.run("SELECT port, confirmed FROM amqp.status()") == [(max(ports), 1)]
