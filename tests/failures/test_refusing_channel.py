"""A channel on which RabbitMQ refuses messages (basic.nack) is opened anew before the next one.

RabbitMQ 3.10 goes on refusing for ever where a channel first met a quorum queue without a leader.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_py.wire import channel as wire
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.channel import PublishingChannel, State, connect_publisher
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.pump import Patience
from pg_amqp_py.wire.pump import write as write_batch
from pg_amqp_py.wire.small import write_small
from servers.processes import wait_for
from servers.rabbitmq import RabbitMQCluster
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.outbox import put, wait_until_empty
from support.patience import LIMIT
from support.sessions import open_session


@pytest.mark.slow
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
def publisher(broker: VHost, channel: BlockingChannel) -> Iterator[PublishingChannel]:
    """A connection to a broker with a queue that holds one message and refuses others."""
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("full", arguments=arguments)
    address = Address("127.0.0.1", broker.rabbitmq.amqp_port, broker.vhost, "guest", "guest")
    publisher = connect_publisher(address, {"connection_name": "test"}, LIMIT, lambda: None)
    assert write(publisher, 1) == [0]
    yield publisher
    publisher.connection.close()


def write(publisher: PublishingChannel, count: int, *, confirm: bool = True) -> list[int]:
    """Publish to the queue; the positions of what the broker has taken."""
    stream, starts = bytearray(), list[int]()
    for _ in range(count):
        starts.append(len(stream))
        Encoder().append(stream, tuple(Envelope(exchange="", routing_key="full")), b"body")
    batch = write_small(publisher, stream, starts, confirm=confirm)
    if batch is None:
        return list(range(count))
    write_batch(batch, publisher, Patience(LIMIT), confirm=confirm)
    return batch.delivered()


def grow_old(publisher: PublishingChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the channel have been open for long."""
    monkeypatch.setattr(wire, "_RENEW", time.monotonic() - publisher._opened_at)


def test_a_full_queue_costs_no_channel_for_each_message(
    publisher: PublishingChannel, channel: BlockingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_RENEW", LIMIT)
    for _ in range(5):
        assert write(publisher, 3) == []
    assert (publisher.openings, publisher.published) == (1, 16)
    grow_old(publisher, monkeypatch)
    assert write(publisher, 3) == []
    assert (publisher.openings, publisher.published) == (2, 3)
    monkeypatch.setattr(wire, "_RENEW", LIMIT)
    channel.queue_purge("full")
    assert write(publisher, 1) == [0]
    assert (publisher.openings, publisher.published) == (2, 4)


def test_a_channel_that_refuses_nothing_stays(
    publisher: PublishingChannel, channel: BlockingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.queue_purge("full")
    grow_old(publisher, monkeypatch)
    assert write(publisher, 1) == [0]
    assert publisher.openings == 1


def test_refusals_that_nobody_awaits(
    publisher: PublishingChannel, channel: BlockingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(publisher, 3, confirm=False)
    wait_for(lambda: is_refusing(publisher), LIMIT, "the refusals")
    grow_old(publisher, monkeypatch)
    channel.queue_purge("full")
    write(publisher, 1, confirm=False)
    assert publisher.openings == 2
    assert write(publisher, 1) == []


def is_refusing(publisher: PublishingChannel) -> bool:
    """Take in what has arrived; whether a message was refused."""
    publisher.receive()
    return publisher.state is State.REFUSING


def test_a_broker_that_goes_while_the_channel_is_opened_anew(
    publisher: PublishingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert write(publisher, 1) == []
    grow_old(publisher, monkeypatch)
    publisher.connection._transport.close()
    stream = bytearray()
    Encoder().append(stream, tuple(Envelope(exchange="", routing_key="full")), b"body")
    batch = Batch(stream, [0], publisher.encoder.frame_max)
    with pytest.raises(ConnectionLostError):
        write_batch(batch, publisher, Patience(LIMIT))
    assert batch.pending == 1
    assert not publisher.usable
