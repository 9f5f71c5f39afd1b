"""Nobody waits without end for a commit that waits for a broker: who wants it to end, ends it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy
from support.calls import Call
from support.fix_servers import VHost
from support.handshake import OPENED, method
from support.patience import LIMIT
from support.peers import Peer, until_gone
from support.queues import numbers_in
from support.sessions import Session, open_session, session_fixture, wait_for_end

# A role that wants its commits to wait for weeks.
session = session_fixture(confirm_timeout="24d")


@pytest.fixture(params=["silent", "away"])
def waiting(
    request: pytest.FixtureRequest, session: Session, proxy: CuttingProxy, through: int
) -> Call:
    """A commit that waits for a broker that has gone in the meantime."""
    session.run("CREATE TABLE done (n int)")
    session.run("BEGIN; INSERT INTO done VALUES (1)")
    session.publish(through, "events", [1, 2])
    if request.param == "silent":
        proxy.stall()
    else:
        proxy.refuse()
    return Call(lambda: session.run("COMMIT"))


@pytest.fixture
def observer(
    postgres: PostgreSQL, database: str, session: Session, waiting: Call
) -> Iterator[Session]:
    """A superuser in another database, once what the commit has done is seen by everybody."""
    with open_session(database) as beside, open_session(postgres.dsn()) as observer:
        wait_for(lambda: beside.run("SELECT n FROM done"), LIMIT, "the commit")
        assert waiting.running
        yield observer


@pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
def test_it_ends_by(
    session: Session,
    observer: Session,
    proxy: CuttingProxy,
    waiting: Call,
    channel: BlockingChannel,
    function: str,
) -> None:
    observer.run(f"SELECT {function}(%s)", session.pid)
    if function == "pg_terminate_backend":
        wait_for_end(observer, session.pid)
        return
    waiting.result()
    (warning,) = session.warnings()
    assert warning.message.startswith("amqp: 2 messages not confirmed")
    assert session.value("SELECT unconfirmed FROM amqp.status()") == 2
    proxy.pass_all()
    session.run("SELECT amqp.ping(1)")
    wait_for(
        lambda: (
            session.run("SELECT 1") and not session.value("SELECT unconfirmed FROM amqp.status()")
        ),
        LIMIT,
        "the confirms",
    )
    assert set(numbers_in(channel, "events", 2)) == {1, 2}


@pytest.mark.slow
def test_dropping_another_database_goes_on(
    session: Session, observer: Session, waiting: Call, proxy: CuttingProxy
) -> None:
    observer.run("CREATE DATABASE dropped")
    drop = Call(lambda: observer.run("DROP DATABASE dropped"))
    drop.result(30)
    waiting.result()
    assert session.run("SELECT 1") == [(1,)]


def test_a_server_is_shut_down_fast(broker: VHost, proxy: CuttingProxy) -> None:
    with PostgreSQL() as server, open_session(server.dsn()) as session:
        session.run("CREATE EXTENSION pg_amqp_py CASCADE; CREATE TABLE done (n int)")
        session.set(confirm_timeout="24d")
        broker_id = session.add_broker(broker.url(port=proxy.port))
        session.run("BEGIN; INSERT INTO done VALUES (1)")
        session.publish(broker_id, "amq.topic", [1])
        proxy.stall()
        waiting = Call(lambda: session.pgconn.exec_(b"COMMIT"))
        with open_session(server.dsn()) as beside:
            wait_for(lambda: beside.run("SELECT n FROM done"), LIMIT, "the commit")
        server.stop("fast")
        waiting.result()


def test_the_longest_wait_is_bounded(session: Session) -> None:
    """What no request ends, ends by itself."""
    session.run("SELECT * FROM amqp.status()")
    session.run(
        """CREATE FUNCTION seconds() RETURNS float8 LANGUAGE plpython3u AS $$
           import sys
           return sys.modules["pg_amqp_py.backend.settings"].confirm_timeout.value()
           $$"""
    )
    assert session.value("SHOW amqp.confirm_timeout") == "24d"
    assert session.value("SELECT seconds()") == 60


def test_a_broker_that_drips_confirms(session: Session) -> None:
    """The short way of a small transaction is no way around it either."""
    stop = threading.Event()

    def behave(client: socket.socket) -> None:
        client.recv(8)
        client.sendall(OPENED)
        client.recv(1 << 16)
        for tag in range(1, 300):
            if stop.wait(0.05):
                break
            client.sendall(method(spec.Basic.Ack(tag, False), 1))
        until_gone(client)

    with Peer(behave) as peer, open_session(session.info.dsn) as observer:
        broker_id = session.add_broker(peer.url)
        session.run("CREATE TABLE done (n int)")
        session.run("BEGIN; INSERT INTO done VALUES (1)")
        session.publish(broker_id, "", range(300))
        waiting = Call(lambda: session.run("COMMIT"))
        wait_for(lambda: observer.run("SELECT n FROM done"), LIMIT, "the commit")
        observer.run("SELECT pg_cancel_backend(%s)", session.pid)
        waiting.result()
        assert peer.connections == 1
        assert 0 < session.value("SELECT unconfirmed FROM amqp.status()") < 300
        stop.set()
