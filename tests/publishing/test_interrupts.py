"""No wait ignores PostgreSQL: timeouts, cancels, terminations; and how long a commit waits."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psycopg
import pytest
from pika import frame, spec
from pika.adapters.blocking_connection import BlockingChannel

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction, Welcome
from servers.rabbitmq import RabbitMQ
from support.calls import Call
from support.fix_servers import VHost
from support.patience import LIMIT
from support.peers import Peer, flooding, forwarding, saying
from support.queues import declare, numbers_in
from support.sessions import Report, Session, open_session
from support.shared import shared_fixtures

HEARTBEAT = bytes(frame.Heartbeat().marshal())
START = bytes(frame.Method(0, spec.Connection.Start(0, 9, {}, "PLAIN", "en_US")).marshal())

PUBLISH = "SELECT amqp.publish(%s, 'events', 'key', '1')"
PLACES = {
    "TCP connect": PUBLISH,
    "greeting": PUBLISH,
    "login": PUBLISH,
    "flood": PUBLISH,
    "flood after start": PUBLISH,
    "TLS handshake": PUBLISH,
    "exchange check": PUBLISH.replace("events", "amq.fanout"),
    "autonomous publish": PUBLISH.replace("publish", "autonomous_publish"),
    "ping": "SELECT amqp.ping(%s)",
    "topology": "SELECT amqp.queue_declare(%s, 'q')",
}
"""Where a call can hang, and a call that does."""


database, broker, shared_session = shared_fixtures()


@pytest.fixture
def session(shared_session: Session) -> Session:
    """A session that waits for a broker far longer than any test runs."""
    shared_session.set(connect_timeout="10min", confirm_timeout="10min")
    return shared_session


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    """What a test opens and this closes."""
    with ExitStack() as stack:
        yield stack


def hang_at(
    place: str, session: Session, broker: VHost, proxy: CuttingProxy, resources: ExitStack
) -> int:
    """Make the calls of PLACES hang there; return the broker to call them with."""
    if place == "TCP connect":
        # A listener whose backlog is full: the kernel drops what comes.
        full = resources.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = full.getsockname()
        for _ in range(2):
            filling = resources.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(address)
        return session.add_broker(f"amqp://127.0.0.1:{address[1]}")
    if place.startswith("flood"):
        peer = Peer(flooding(HEARTBEAT, START if "start" in place else b""))
        return session.add_broker(resources.enter_context(peer).url)
    if place == "login":
        return session.add_broker(resources.enter_context(Peer(saying(START, stay=True))).url)
    url = broker.url(port=proxy.port)
    if place == "TLS handshake":
        url = url.replace("amqp://", "amqps://")
    broker_id = session.add_broker(url)
    if place in ("greeting", "TLS handshake"):
        proxy.welcome(Welcome.STALL)
    else:
        session.publish(broker_id, "events", [1])
        proxy.stall(Direction.TO_CLIENT)
    return broker_id


def assert_usable(
    session: Session, broker: VHost, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    """Nothing is left of the interrupted call; the session goes on."""
    proxy.pass_all()
    assert session.run("SELECT 1") == [(1,)]
    session.warnings()
    broker_id = session.add_broker(broker.url(port=proxy.port))
    session.publish(broker_id, "events", [77])
    numbers: list[int] = []

    def arrived() -> bool:
        numbers.extend(numbers_in(channel, "events"))
        return 77 in numbers

    wait_for(arrived, LIMIT, "the message")
    assert numbers[-1] == 77
    assert session.warnings() == []


@pytest.mark.parametrize("place", PLACES)
def test_statement_timeout_ends_a_hanging_call(
    session: Session,
    broker: VHost,
    proxy: CuttingProxy,
    channel: BlockingChannel,
    resources: ExitStack,
    place: str,
) -> None:
    declare(channel)
    broker_id = hang_at(place, session, broker, proxy, resources)
    session.run("SET statement_timeout = '150ms'")
    error: Report = Call(lambda: session.error(PLACES[place], broker_id)).result()
    assert error.sqlstate == "57014"
    assert "statement timeout" in error.message
    session.run("RESET statement_timeout")
    if place in ("greeting", "exchange check", "ping", "topology"):
        # The same broker, once it speaks again: no backoff for what we gave up ourselves.
        proxy.pass_all()
        session.run("SELECT amqp.ping(%s)", broker_id)
    assert_usable(session, broker, proxy, channel)


@pytest.mark.parametrize("place", PLACES)
def test_cancel_ends_a_hanging_call(
    session: Session,
    database: str,
    broker: VHost,
    proxy: CuttingProxy,
    channel: BlockingChannel,
    resources: ExitStack,
    place: str,
) -> None:
    declare(channel)
    broker_id = hang_at(place, session, broker, proxy, resources)
    session.run("BEGIN")
    session.run("SAVEPOINT before")
    call = Call(lambda: session.error(PLACES[place], broker_id))
    with open_session(database) as other:

        def cancelled() -> bool:
            other.run("SELECT pg_cancel_backend(%s)", session.pid)
            return not call.running

        wait_for(cancelled, LIMIT, "the call to end", interval=0.1)
    error: Report = call.result()
    assert error.sqlstate == "57014"
    assert "user request" in error.message
    session.run("ROLLBACK TO before")
    session.run("COMMIT")
    assert_usable(session, broker, proxy, channel)


def test_cancelled_calls_leave_no_open_connection(
    session: Session, broker: VHost, proxy: CuttingProxy
) -> None:
    broker_id = session.add_broker(broker.url(port=proxy.port))
    session.run("SET statement_timeout = '30ms'")
    proxy.stall()
    for _ in range(5):
        assert session.error(PUBLISH, broker_id).sqlstate == "57014"
    assert proxy.connections == 5
    proxy.pass_all()
    wait_for(lambda: proxy.open_connections == 0, LIMIT, "the connections to close")


def test_cancelled_call_inside_an_exception_block(
    session: Session, broker: VHost, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    declare(channel)
    broker_id = session.add_broker(broker.url(port=proxy.port))
    with session.transaction():
        session.publish(broker_id, "events", [1])
        proxy.stall()
        session.run("SET LOCAL statement_timeout = '150ms'")
        session.run(
            f"""DO $$ BEGIN
                    PERFORM amqp.ping({broker_id});
                EXCEPTION WHEN query_canceled THEN
                    PERFORM 1;
                END $$"""
        )
        proxy.pass_all()
        session.run("SET LOCAL statement_timeout = 0")
        session.publish(broker_id, "events", [2])
    assert session.warnings() == []
    assert numbers_in(channel, "events", 2) == [1, 2]


def test_disconnect_from_a_silent_broker_ends(
    session: Session, broker: VHost, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    declare(channel)
    broker_id = session.add_broker(broker.url(port=proxy.port))
    session.publish(broker_id, "events", [1])
    proxy.stall()
    Call(lambda: session.run("SELECT amqp.disconnect(%s)", broker_id)).result()
    assert session.run("SELECT connected FROM amqp.status()") == [(False,)]
    proxy.pass_all()
    session.publish(broker_id, "events", [2])
    assert numbers_in(channel, "events", 2) == [1, 2]


# ---- Terminated ----


def terminate(database: str, pid: int) -> None:
    """Terminate a backend and return when it is gone."""
    with open_session(database) as other:
        other.run("SELECT pg_terminate_backend(%s)", pid)
        wait_for(
            lambda: other.run("SELECT FROM pg_stat_activity WHERE pid = %s", pid) == [],
            LIMIT,
            "the backend to end",
        )


@pytest.mark.parametrize("place", ["greeting", "exchange check", "flood"])
def test_terminated_in_a_hanging_call(
    postgres: PostgreSQL,
    database: str,
    session: Session,
    broker: VHost,
    proxy: CuttingProxy,
    channel: BlockingChannel,
    resources: ExitStack,
    place: str,
) -> None:
    declare(channel)
    pid = postgres.pid
    broker_id = hang_at(place, session, broker, proxy, resources)
    connections = proxy.connections
    call = Call(lambda: session.run(PLACES[place], broker_id))
    if place == "greeting":
        wait_for(lambda: proxy.connections > connections, LIMIT, "the call to hang")
    terminate(database, session.pid)
    with pytest.raises(psycopg.errors.AdminShutdown):
        call.result()
    if place == "exchange check":
        proxy.pass_all()
        wait_for(lambda: proxy.open_connections == 0, LIMIT, "the connection to close")
    assert postgres.pid == pid
    assert "PANIC" not in postgres.log_text()
    with open_session(database) as other:
        assert_usable(other, broker, proxy, channel)


def test_terminated_before_commit_publishes_nothing(
    database: str, session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    declare(channel)
    broker_id = session.add_broker(broker.url())
    session.run("BEGIN")
    session.publish(broker_id, "events", [1, 2, 3])
    terminate(database, session.pid)
    with open_session(database) as other:
        other.publish(broker_id, "events", [4])
    assert numbers_in(channel, "events", 1) == [4]


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_interrupt_after_the_commit_loses_no_message(
    database: str,
    session: Session,
    broker: VHost,
    proxy: CuttingProxy,
    channel: BlockingChannel,
    how: str,
) -> None:
    declare(channel)
    broker_id = session.add_broker(broker.url(port=proxy.port))
    session.run("DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT 0 AS n")
    session.run("BEGIN")
    session.run("UPDATE t SET n = 1")
    session.publish(broker_id, "events", [1, 2, 3])
    proxy.stall()
    call = Call(lambda: session.run("COMMIT"))
    with open_session(database) as other:
        wait_for(lambda: other.value("SELECT n FROM t") == 1, LIMIT, "the commit")
        other.run(f"SELECT {how}(%s)", session.pid)
    proxy.pass_all()
    if how == "pg_cancel_backend":
        call.result()
        assert session.warnings() == []
    else:
        # The client may hear of the commit or of the termination first.
        with suppress(psycopg.OperationalError):
            call.result()
        with pytest.raises(psycopg.OperationalError):
            session.run("SELECT 1")
    assert numbers_in(channel, "events", 3) == [1, 2, 3]


# ---- How long a commit waits ----


@pytest.mark.parametrize("direction", [Direction.TO_CLIENT, Direction.TO_SERVER, Direction.BOTH])
def test_commit_waits_for_confirm_timeout_at_most(
    session: Session,
    broker: VHost,
    proxy: CuttingProxy,
    channel: BlockingChannel,
    direction: Direction,
) -> None:
    declare(channel)
    broker_id = session.add_broker(broker.url(port=proxy.port))
    session.set(confirm_timeout="300ms")
    session.run("BEGIN")
    session.run(
        "SELECT amqp.publish(%s, 'events', 'key', repeat('x', 1000)) FROM generate_series(1, 9000)",
        broker_id,
    )
    proxy.stall(direction)
    call = Call(lambda: session.run("COMMIT"))
    call.result()
    # Not at once, either.
    assert call.seconds >= 0.25
    (found,) = session.warnings()
    assert found.sqlstate == "08006"
    assert "not confirmed" in found.message


def test_timeout_of_the_statement_is_none_of_the_commit(
    session: Session, broker: VHost, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    declare(channel)
    broker_id = session.add_broker(broker.url(port=proxy.port))
    session.set(confirm_timeout="600ms")
    session.run("BEGIN")
    session.publish(broker_id, "events", [1])
    session.run("SET LOCAL statement_timeout = '100ms'")
    proxy.stall()
    Call(lambda: session.run("COMMIT")).result()
    (found,) = session.warnings()
    assert found.message == f"amqp: 1 message not confirmed by broker {broker_id}"
    assert session.run("SELECT 1") == [(1,)]


def test_slow_but_moving_broker_is_not_given_up(
    session: Session, rabbitmq: RabbitMQ, broker: VHost, channel: BlockingChannel
) -> None:
    declare(channel)
    count, size, speed = 3000, 1000, 2_000_000
    with Peer(forwarding(rabbitmq.amqp_port, bytes_per_second=speed)) as slow:
        broker_id = session.add_broker(broker.url(port=slow.port))
        session.set(confirm_timeout="400ms")
        session.run("BEGIN")
        session.run(
            "SELECT amqp.publish(%s, 'events', 'key', lpad(n::text, %s, '0'))"
            " FROM generate_series(1, %s) AS n",
            broker_id,
            size,
            count,
        )
        started = time.monotonic()
        session.run("COMMIT")
        assert time.monotonic() - started > 0.8, "not slow enough to show anything"
        assert session.warnings() == []
        assert slow.connections == 1
    assert numbers_in(channel, "events", count) == list(range(1, count + 1))


def test_broker_that_trickles_nonsense_does_not_count_as_moving(session: Session) -> None:
    def trickle(client: Any) -> None:
        client.recv(8)
        while True:
            client.sendall(HEARTBEAT)
            time.sleep(0.01)

    with Peer(trickle) as peer:
        broker_id = session.add_broker(peer.url)
        session.set(connect_timeout="300ms")
        error: Report = Call(lambda: session.error(PUBLISH, broker_id)).result()
        assert error.sqlstate[:2] == "08"
        session.set(connect_timeout="10min")
        session.run("SET statement_timeout = '150ms'")
        error = Call(lambda: session.error("SELECT amqp.ping(%s)", broker_id)).result()
        assert error.sqlstate == "57014"
