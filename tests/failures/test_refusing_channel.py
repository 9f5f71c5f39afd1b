"""A channel on which RabbitMQ refuses messages (basic.nack) is opened anew before the next one.

RabbitMQ 3.10 goes on refusing for ever where a channel first met a quorum queue without a leader.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_py.wire import connection as wire
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.delivery import Batch, write_small
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.handshake import connect
from pg_amqp_py.wire.message import Envelope
from servers.processes import wait_for
from servers.rabbitmq import RabbitMQCluster
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.outbox import put, wait_until_empty
from support.patience import LIMIT
from support.sessions import open_session


def test_a_quorum_queue_that_had_no_leader_is_found_again(database: str) -> None:
    with RabbitMQCluster() as cluster, open_session(database) as session:
        leader, follower, ours = cluster.nodes
        declaring = pika.BlockingConnection(pika.URLParameters(leader.url()))
        declaring.channel().queue_declare(
            "safe", durable=True, arguments={"x-queue-type": "quorum"}
        )
        declaring.close()
        broker = session.add_broker(ours.url())
        session.set(confirm_timeout="2s")

        def publish() -> bool:
            """Publish in a transaction; whether the broker has taken it."""
            session.publish(broker, "", [1], "safe")
            return not session.warnings()

        with RelayProcess(database) as relay:
            relay.wait_for_event("connected to broker")
            for node in (leader, follower):
                node.kill()
            put(session, "outbox", exchange="", routing_key="safe")
            assert not publish()
            wait_for(
                lambda: session.value("SELECT last_error FROM amqp.outbox_status()"),
                LIMIT,
                "the outbox's message to be refused",
            )
            # The one that had the leader stays away.
            follower.start()
            wait_for(publish, LIMIT, "the session to publish again", interval=0.2)
            wait_until_empty(session)


@pytest.fixture
def connection(broker: VHost, channel: BlockingChannel) -> Iterator[Connection]:
    """A connection to a broker with a queue that holds one message and refuses others."""
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("full", arguments=arguments)
    address = Address("127.0.0.1", broker.rabbitmq.amqp_port, broker.vhost, "guest", "guest")
    connection = connect(address, "test", LIMIT, lambda: None)
    assert write(connection, 1) == [0]
    yield connection
    connection.close()


def write(connection: Connection, count: int, *, confirm: bool = True) -> list[int]:
    """Publish to the queue; the positions of what the broker has taken."""
    stream, starts = bytearray(), list[int]()
    for _ in range(count):
        starts.append(len(stream))
        Encoder().append(stream, tuple(Envelope(exchange="", routing_key="full")), b"body")
    batch = write_small(connection, stream, starts, confirm=confirm)
    if batch is None:
        return list(range(count))
    batch.write(connection, LIMIT, confirm=confirm)
    return batch.settled()


def grow_old(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the channel have been open for long."""
    monkeypatch.setattr(wire, "_RENEW", time.monotonic() - connection._opened_at)


def test_a_full_queue_costs_no_channel_for_each_message(
    connection: Connection, channel: BlockingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_RENEW", LIMIT)
    for _ in range(5):
        assert write(connection, 3) == []
    assert (connection.channels, connection.published) == (1, 16)
    grow_old(connection, monkeypatch)
    assert write(connection, 3) == []
    assert (connection.channels, connection.published) == (2, 3)
    monkeypatch.setattr(wire, "_RENEW", LIMIT)
    channel.queue_purge("full")
    assert write(connection, 1) == [0]
    assert (connection.channels, connection.published) == (2, 4)


def test_a_channel_that_refuses_nothing_stays(
    connection: Connection, channel: BlockingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.queue_purge("full")
    grow_old(connection, monkeypatch)
    assert write(connection, 1) == [0]
    assert connection.channels == 1


def test_refusals_that_nobody_awaits(
    connection: Connection, channel: BlockingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(connection, 3, confirm=False)
    wait_for(lambda: is_refusing(connection), LIMIT, "the refusals")
    grow_old(connection, monkeypatch)
    channel.queue_purge("full")
    write(connection, 1, confirm=False)
    assert connection.channels == 2
    assert write(connection, 1) == []


def is_refusing(connection: Connection) -> bool:
    """Take in what has arrived; whether a message was refused."""
    connection.receive()
    return connection.refusing


def test_a_broker_that_goes_while_the_channel_is_opened_anew(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert write(connection, 1) == []
    grow_old(connection, monkeypatch)
    connection._transport.close()
    stream = bytearray()
    Encoder().append(stream, tuple(Envelope(exchange="", routing_key="full")), b"body")
    batch = Batch(stream, [0], connection.encoder.frame_max)
    with pytest.raises(ConnectionLostError):
        batch.write(connection, LIMIT)
    assert batch.pending == 1
    assert not connection.usable
