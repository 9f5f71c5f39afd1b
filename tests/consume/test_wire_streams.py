"""The wire's consumer and a stream: where it begins, and where each message is."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_py.wire.consume.arguments import Timestamp
from pg_amqp_py.wire.consume.channel import ConsumingChannel
from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.consume.headers import decode_headers, stream_offset
from pg_amqp_py.wire.consume.properties import split_properties
from pg_amqp_py.wire.errors import ChannelClosedError
from servers.processes import wait_for
from support.consuming import (
    STREAM,
    address_of,
    consuming,
    declare_filled,
    fill,
    numbered,
    receive,
    receive_many,
    soon,
)
from support.fix_servers import VHost
from support.patience import LIMIT


@pytest.fixture
def consumer(broker: VHost) -> Iterator[ConsumingChannel]:
    with consuming(address_of(broker)) as consumer:
        yield consumer


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def offset(delivery: Delivery) -> int | None:
    return stream_offset(split_properties(delivery.properties).headers)


@pytest.mark.parametrize(("begin", "first"), [("first", 0), (0, 0), (170, 170), (299, 299)])
def test_all_messages_from_somewhere_on(
    channel: BlockingChannel,
    broker: VHost,
    consumer: ConsumingChannel,
    begin: str | int,
    first: int,
) -> None:
    declare_filled(channel, broker, STREAM, numbered(300))
    consumer.consume("q", 1000, {"x-stream-offset": begin}, soon())
    deliveries = receive_many(consumer, 300 - first)
    assert bodies(deliveries) == numbered(300 - first, first=first)
    assert [offset(delivery) for delivery in deliveries] == [*range(first, 300)]


def test_going_on_behind_the_last(channel: BlockingChannel, broker: VHost) -> None:
    declare_filled(channel, broker, STREAM, numbered(500))
    seen: list[bytes] = []
    begin: str | int = "first"
    while len(seen) < 500:
        with consuming(address_of(broker)) as consumer:
            consumer.consume("q", 50, {"x-stream-offset": begin}, soon())
            deliveries = receive_many(consumer, min(50, 500 - len(seen)))
        seen += bodies(deliveries)
        begin = (offset(deliveries[-1]) or 0) + 1
    assert seen == numbered(500)


def test_what_is_published_next(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, STREAM, numbered(10))
    consumer.consume("q", 100, {"x-stream-offset": "next"}, soon())
    fill(broker, [b"new"])
    (delivery,) = receive_many(consumer, 1)
    assert (delivery.body, offset(delivery)) == (b"new", 10)


def test_from_the_last_on(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, STREAM, numbered(10))
    consumer.consume("q", 100, {"x-stream-offset": "last"}, soon())
    # Of what the broker has stored together.
    last = receive(consumer)
    while not last or last[-1].body != b"9":
        last += receive(consumer)
    assert bodies(last) == numbered(10)[-len(last) :]


def test_from_a_time_on(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, STREAM, numbered(10))
    published = int(time.time())
    # The broker counts whole seconds here.
    wait_for(lambda: time.time() > published + 2, LIMIT, "a later second")
    fill(broker, numbered(10, first=10))
    consumer.consume("q", 100, {"x-stream-offset": Timestamp(published + 2)}, soon())
    assert bodies(receive_many(consumer, 10)) == numbered(10, first=10)


def test_the_brokers_offset_counts_whatever_a_publisher_has_called_so(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, STREAM, numbered(3))
    headers = {"x-stream-offset": 77, "a": 1, "z": "x"}
    channel.confirm_delivery()
    channel.basic_publish("", "q", b"liar", BasicProperties(headers=headers))
    consumer.consume("q", 100, {"x-stream-offset": "first"}, soon())
    liar = receive_many(consumer, 4)[3]
    assert offset(liar) == 3
    found = decode_headers(split_properties(liar.properties).headers or b"")
    assert (found["a"], found["z"]) == (1, "x")


def test_a_stream_is_read_again(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, STREAM, numbered(10))
    for _ in range(3):
        consumer.consume("q", 100, {"x-stream-offset": "first"}, soon())
        deliveries = receive_many(consumer, 10)
        assert bodies(deliveries) == numbered(10)
        consumer.ack(deliveries[-1].tag, soon())
        consumer.cancel(soon())
        assert consumer.take() == []


def test_acknowledgements_let_a_stream_go_on(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, STREAM, numbered(5000))
    consumer.consume("q", 10, {"x-stream-offset": "first"}, soon())
    seen: list[bytes] = []
    while len(seen) < 5000:
        # The broker sends more than the prefetch where it has stored more together.
        deliveries = receive(consumer)
        if deliveries:
            seen += bodies(deliveries)
            consumer.ack(deliveries[-1].tag, soon())
    assert seen == numbered(5000)


def test_a_stream_without_prefetch_is_refused(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, STREAM, numbered(1))
    with pytest.raises(ChannelClosedError, match="prefetch count is not set"):
        consumer.consume("q", 0, {"x-stream-offset": "first"}, soon())
