"""Connections that break at any byte: nothing is lost, and nothing is made up."""

from __future__ import annotations

import random

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_py.wire.consume.headers import stream_offset
from pg_amqp_py.wire.consume.properties import split_properties
from pg_amqp_py.wire.errors import ConnectError, ConnectionLostError
from servers.proxy import CuttingProxy, Direction
from support.consuming import (
    CLASSIC,
    QUORUM,
    STREAM,
    address_of,
    consuming,
    declare_filled,
    receive,
    soon,
)
from support.counting import count
from support.deliveries import seeded
from support.fix_servers import VHost


def bodies(count: int, chance: random.Random) -> list[bytes]:
    """All different, and of all sizes."""
    sizes = [0, 10, 100, 5000, 200_000]
    return [b"%d " % number + chance.randbytes(chance.choice(sizes)) for number in range(count)]


@pytest.mark.parametrize("kind", [CLASSIC, QUORUM])
@pytest.mark.parametrize("direction", [Direction.TO_CLIENT, Direction.TO_SERVER])
def test_a_connection_cut_at_random_loses_nothing(
    broker: VHost,
    proxy: CuttingProxy,
    channel: BlockingChannel,
    kind: str,
    direction: Direction,
) -> None:
    chance = seeded()
    sent = bodies(200, chance)
    declare_filled(channel, broker, kind, sent)
    address = address_of(broker, proxy.port)
    received: set[bytes] = set()
    again = cuts = 0
    while len(received) < len(sent):
        # Of what goes to the broker there is little: the handshake, and acknowledgements.
        most = 3_000_000 if direction is Direction.TO_CLIENT else 1000
        proxy.cut_after(chance.randrange(most), direction)
        try:
            with consuming(address) as consumer:
                consumer.consume("q", 20, {}, soon())
                while len(received) < len(sent):
                    deliveries = receive(consumer)
                    received.update(delivery.body for delivery in deliveries)
                    again += sum(delivery.redelivered for delivery in deliveries)
                    if deliveries:
                        consumer.ack(deliveries[-1].tag, soon())
        except (ConnectError, ConnectionLostError):
            cuts += 1
    assert received == set(sent)
    assert min(cuts, again) > 0
    # What was acknowledged last may come once more, and nothing else is left.
    proxy.pass_all()
    with consuming(address_of(broker)) as consumer:
        consumer.consume("q", 1000, {}, soon())
        while count(consumer, "q"):
            received.update(delivery.body for delivery in receive(consumer))
        received.update(delivery.body for delivery in consumer.take())
    assert received == set(sent)


def test_a_stream_goes_on_where_it_was_cut(
    broker: VHost, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    chance = seeded()
    sent = bodies(300, chance)
    declare_filled(channel, broker, STREAM, sent)
    received: list[bytes] = []
    cuts = 0
    while len(received) < len(sent):
        proxy.cut_after(chance.randrange(3_000_000), Direction.TO_CLIENT)
        try:
            with consuming(address_of(broker, proxy.port)) as consumer:
                consumer.consume("q", 20, {"x-stream-offset": len(received)}, soon())
                while len(received) < len(sent):
                    for delivery in receive(consumer):
                        headers = split_properties(delivery.properties).headers
                        assert stream_offset(headers) == len(received)
                        received.append(delivery.body)
                        consumer.ack(delivery.tag, soon())
        except (ConnectError, ConnectionLostError):
            cuts += 1
    assert received == sent
    assert cuts
