"""Consumers of the wire's own, what they get, and queues with something in them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.channel import connect_publisher
from pg_amqp_py.wire.consume.channel import ConsumingChannel, connect_consumer
from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.pump import Patience, write
from servers.processes import wait_for
from support.counting import count
from support.fix_servers import VHost
from support.patience import LIMIT

CLASSIC, QUORUM, STREAM = KINDS = ("classic", "quorum", "stream")


def soon() -> float:
    """A deadline that nothing comes near."""
    return time.monotonic() + LIMIT


def address_of(broker: VHost, port: int | None = None, user: str = "guest") -> Address:
    """Where the broker is, or a proxy to it; the password is the user's name."""
    return Address("127.0.0.1", port or broker.rabbitmq.amqp_port, broker.vhost, user, user)


def connect(address: Address, *, heartbeat: int = 0) -> ConsumingChannel:
    """A channel to consume on."""
    client = {"product": "test"}
    return connect_consumer(address, {**client}, LIMIT, lambda: None, heartbeat=heartbeat)


@contextmanager
def consuming(address: Address) -> Iterator[ConsumingChannel]:
    """A channel to consume on, closed in the end."""
    channel = connect(address)
    try:
        yield channel
    finally:
        channel.connection.close()


def receive(channel: ConsumingChannel) -> list[Delivery]:
    """What comes next; perhaps nothing yet that is whole."""
    channel.wait(soon())
    channel.connection.receive()
    return channel.take()


def receive_many(channel: ConsumingChannel, count: int) -> list[Delivery]:
    """At least so many deliveries."""
    found: list[Delivery] = []
    while len(found) < count:
        found += receive(channel)
    return found


def declare_filled(
    channel: BlockingChannel,
    broker: VHost,
    kind: str,
    bodies: Sequence[bytes],
    queue: str = "q",
) -> None:
    """Declare a queue of this kind, and fill it."""
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})
    fill(broker, bodies, queue)


def fill(broker: VHost, bodies: Sequence[bytes], queue: str = "q") -> None:
    """Publish to a queue; all is there in the end."""
    publisher = connect_publisher(address_of(broker), {}, LIMIT, lambda: None)
    stream, starts = bytearray(), list[int]()
    for body in bodies:
        starts.append(len(stream))
        publisher.encoder.append(stream, tuple(Envelope("", queue)), body)
    batch = Batch(stream, starts, publisher.encoder.frame_max)
    write(batch, publisher, Patience(LIMIT))
    assert len(batch.delivered()) == len(bodies)
    publisher.connection.close()


def numbered(count: int, first: int = 0) -> list[bytes]:
    """Bodies that are told apart."""
    return [b"%d" % number for number in range(first, first + count)]


def wait_for_count(channel: ConsumingChannel, ready: int, queue: str = "q") -> None:
    """Wait until so many messages are ready to be delivered."""
    wait_for(lambda: count(channel, queue) == ready, LIMIT, f"{ready} ready messages")
