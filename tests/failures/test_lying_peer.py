"""Peers that are no broker, or that begin like one and then lie: an error, and nothing worse."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from servers.postgres import PostgreSQL
from support.calls import Call
from support.fix_servers import VHost
from support.handshake import HEARTBEAT, OPENED, START, TUNE, method
from support.patience import LIMIT
from support.peers import Peer, flooding, saying
from support.queues import declare
from support.sessions import Session, open_session
from support.shared import assert_works, shared_fixtures

database, broker, session = shared_fixtures()


@pytest.fixture
def direct(session: Session, broker: VHost) -> int:
    """A broker that does not lie."""
    return session.add_broker(broker.url())


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"\0" * 100,
        bytes(range(256)) * 4,
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"220 mail.test ESMTP\r\n",
        b"AMQP\x00\x01\x00\x00",
        START[:20],
        b"\x01\x00\x00\xff\xff\xff\xff",
        b"\x01\x00\x00\x7f\xff\xff\xff" + b"x" * 1000,
        b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0a\x00",
        b"\x01\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff\xce",
        b"\x01\x00\x00\x00\x00\x00\x00\xce",
        START[:-30] + b"\xff" * 29 + b"\xce",
    ],
    ids=[
        "closes at once",
        "zeros",
        "garbage",
        "http",
        "ssh",
        "smtp",
        "other version",
        "truncated frame",
        "absurd frame length",
        "large frame length",
        "wrong frame end",
        "unknown method",
        "empty method",
        "broken table",
    ],
)
def test_peer_that_is_no_broker(
    session: Session, direct: int, channel: BlockingChannel, words: bytes
) -> None:
    declare(channel)
    session.set(connect_timeout="200ms")
    for stay in (False, True):
        with Peer(saying(words, stay=stay)) as peer:
            broker_id = session.add_broker(peer.url)
            error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
            assert error.sqlstate == ("08P01" if words or not stay else "08001")
            assert f"127.0.0.1:{peer.port}" in error.message
    session.set(connect_timeout="10s")
    assert_works(session, direct, channel, "events")


def test_peer_that_names_itself_is_quoted(session: Session) -> None:
    with Peer(saying(b"SSH-2.0-OpenSSH_9.2p1\r\n")) as peer:
        broker_id = session.add_broker(peer.url)
        error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
        assert "SSH-2.0" in error.message
        assert "5672" in error.hint


@pytest.mark.parametrize(
    "words",
    [
        START,
        START + b"nonsense nonsense nonsense",
        START + HEARTBEAT * 50,
        START + method(spec.Connection.Tune(0, 1, 0)),
        START + TUNE,
        START + TUNE + method(spec.Connection.Close(530, "go away", 10, 40)),
        START + TUNE + method(spec.Channel.Close(404, "what?", 20, 10), 1),
        method(spec.Connection.Start(0, 9, {}, "EXTERNAL", "en_US")),
        OPENED + b"\0" * 64,
        OPENED + method(spec.Channel.Close(406, "no", 40, 10), 1),
        OPENED + method(spec.Connection.Close(541, "INTERNAL_ERROR", 0, 0)),
        OPENED + method(spec.Basic.Ack(1 << 62, True), 1),
    ],
    ids=[
        "start",
        "garbage after start",
        "heartbeats",
        "tiny frames",
        "tune",
        "close",
        "channel close",
        "other mechanism",
        "garbage when open",
        "channel close when open",
        "close when open",
        "ack when open",
    ],
)
def test_peer_that_speaks_some_amqp(
    session: Session, direct: int, channel: BlockingChannel, words: bytes
) -> None:
    declare(channel)
    session.set(connect_timeout="200ms", confirm_timeout="200ms")
    for stay in (False, True):
        with Peer(saying(words, stay=stay)) as peer:
            broker_id = session.add_broker(peer.url)
            error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
            assert error.sqlstate[:2] in ("08", "28", "55", "54")
            assert error.message.startswith("amqp: ")
    session.set(connect_timeout="10s", confirm_timeout="10s")
    assert_works(session, direct, channel, "events")


def test_peer_that_confirms_nothing_is_not_waited_for_at_every_commit(session: Session) -> None:
    session.set(confirm_timeout="200ms")
    with Peer(saying(OPENED, stay=True)) as peer:
        broker_id = session.add_broker(peer.url)
        session.publish(broker_id, "", [1, 2])
        for _ in range(50):
            session.run("SELECT 1")
        # Once more, which costs the wait for the confirms, and then not for a while.
        assert peer.connections == 2
        error = session.error("SELECT amqp.publish(%s, '', 'key', 'x')", broker_id)
        assert "no confirms" in error.message
        assert peer.connections == 2


@pytest.mark.parametrize("known", [b"", START, OPENED], ids=["at first", "after start", "open"])
def test_peer_that_floods(session: Session, known: bytes) -> None:
    session.set(connect_timeout="500ms")
    with Peer(flooding(HEARTBEAT, known)) as peer:
        broker_id = session.add_broker(peer.url)
        call = Call(
            lambda: session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
        )
        assert call.result().sqlstate[:2] == "08"
    assert session.run("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    "words",
    [
        b"\0" * 64,
        method(spec.Basic.Ack(0, False), 1)[:-1] + b"\0",
        method(spec.Connection.Close(541, "INTERNAL_ERROR", 0, 0)),
        method(spec.Basic.Nack(1, False), 1)[:9],
        b"",
    ],
    ids=["garbage", "wrong frame end", "close", "truncated", "silence"],
)
def test_peer_that_lies_at_commit(
    session: Session, direct: int, channel: BlockingChannel, words: bytes
) -> None:
    declare(channel)
    session.set(connect_timeout="2s", confirm_timeout="200ms")
    lying = threading.Event()

    def behave(client: Any) -> None:
        client.recv(8)
        client.sendall(OPENED)
        lying.wait(LIMIT)
        client.sendall(words)
        while client.recv(1 << 16):
            pass

    with Peer(behave) as peer:
        broker_id = session.add_broker(peer.url)
        with session.transaction():
            # The default exchange needs no question.
            session.publish(broker_id, "", [1, 2])
            lying.set()
        # A broker that closes the connection because of a message says that it refuses it.
        texts = [
            re.fullmatch(
                "amqp: ([12]) messages? (?:not confirmed|to the default exchange refused)"
                f" by broker {broker_id}",
                warning.message,
            )
            for warning in session.warnings()
        ]
        assert sum(int(text[1]) for text in texts if text) == 2
        assert all(texts)
    session.set(confirm_timeout="10s")
    assert_works(session, direct, channel, "events")


@pytest.mark.parametrize(
    "words",
    [
        method(spec.Connection.Close(541, "нет", 0, 0)),
        method(spec.Channel.Close(403, "exchange 'amq.default' in vhost '/': нет", 60, 40), 1),
        method(spec.Connection.Blocked("нет памяти")),
    ],
    ids=["connection", "channel", "blocked"],
)
def test_words_that_the_encoding_of_the_database_lacks(
    postgres: PostgreSQL, session: Session, words: bytes
) -> None:
    # PL/Python would raise an ERROR in converting them, which at commit is a PANIC of the server.
    session.run("CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    said = threading.Event()

    def behave(client: Any) -> None:
        client.recv(8)
        client.sendall(OPENED)
        said.wait(LIMIT)
        client.sendall(words)
        while client.recv(1 << 16):
            pass

    try:
        with Peer(behave) as peer, open_session(postgres.dsn("narrow")) as narrow:
            narrow.run("CREATE EXTENSION pg_amqp_py CASCADE")
            narrow.set(confirm_timeout="2s", on_failure="warn")
            broker_id = narrow.add_broker(peer.url)
            with narrow.transaction():
                narrow.publish(broker_id, "", [1])
                said.set()
            (found, *_) = narrow.warnings()
            assert "\\u043d\\u0435\\u0442" in found.detail
            assert narrow.value("SELECT count(*) FROM amqp.status()") == 1
            narrow.publish(broker_id, "", [2])
            assert narrow.value("SELECT 1") == 1
    finally:
        session.run("DROP DATABASE narrow WITH (FORCE)")
    # The server went on all the time.
    assert session.value("SELECT 1") == 1
