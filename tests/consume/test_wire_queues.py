"""The wire's consumer and the queues of a real broker."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.consume.channel import ConsumingChannel
from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.consume.headers import decode_headers
from pg_amqp_py.wire.consume.properties import Properties, split_properties
from pg_amqp_py.wire.errors import ChannelClosedError, StalledError
from servers.certificates import Certificates
from servers.management import Management
from servers.processes import wait_for
from servers.rabbitmq import RabbitMQ
from support.consuming import (
    CLASSIC,
    QUORUM,
    address_of,
    connect,
    consuming,
    declare_filled,
    fill,
    numbered,
    receive,
    receive_many,
    soon,
    wait_for_count,
)
from support.counting import count
from support.deliveries import random_properties, seeded
from support.fix_servers import VHost

BOTH = pytest.mark.parametrize("kind", [CLASSIC, QUORUM])


@pytest.fixture
def consumer(broker: VHost) -> Iterator[ConsumingChannel]:
    with consuming(address_of(broker)) as consumer:
        yield consumer


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


# -- messages ------------------------------------------------------------------------------------


@BOTH
def test_messages_arrive_in_order_as_they_were_published(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel, kind: str
) -> None:
    chance = seeded()
    declare_filled(channel, broker, kind, [])
    channel.exchange_declare("events", "topic")
    channel.queue_bind("q", "events", "#")
    sent = []
    for number in range(300):
        properties = random_properties(chance)
        # The broker looks at these itself.
        properties.user_id, properties.expiration = "guest", None
        properties.delivery_mode = chance.choice([None, 1, 2])
        # From 4.0 on, a quorum queue delivers those above 4 first.
        properties.priority = chance.choice([None, 0, 1, 4])
        if properties.headers:
            properties.headers = {key: value for key, value in properties.headers.items() if key}
        body = chance.randbytes(chance.choice([0, 1, 100, 5000]))
        channel.basic_publish("events", f"kéy.{number}", body, properties)
        sent.append((f"kéy.{number}".encode(), properties, body))
    consumer.consume("q", 1000, {}, soon())
    deliveries = receive_many(consumer, len(sent))
    assert [delivery.tag for delivery in deliveries] == [*range(1, len(sent) + 1)]
    for (routing_key, properties, body), delivery in zip(sent, deliveries, strict=True):
        assert (delivery.exchange, delivery.routing_key, delivery.body) == (
            b"events",
            routing_key,
            body,
        )
        assert not delivery.redelivered
        found = split_properties(delivery.properties)
        for name in Properties._fields:
            given = getattr(properties, name)
            if name == "headers":
                headers = decode_headers(found.headers) if found.headers else None
                headers and headers.pop("x-delivery-count", None)
                assert (headers or None) == (given or None)
            else:
                raw = given.encode() if isinstance(given, str) else given
                assert getattr(found, name) == raw, name


def test_headers_of_every_type_come_through_a_broker(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, CLASSIC, [])
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}
    channel.queue_declare("first", arguments={**dead, "x-message-ttl": 0})
    channel.basic_publish("", "first", b"dies", BasicProperties(headers={"n": 1}))
    consumer.consume("q", 10, {}, soon())
    (delivery,) = receive_many(consumer, 1)
    headers = decode_headers(split_properties(delivery.properties).headers or b"")
    # An array of a table with a timestamp in it.
    (death,) = headers["x-death"]
    assert (headers["n"], death["reason"], death["queue"], death["count"]) == (
        1,
        "expired",
        "first",
        1,
    )
    assert abs(death["time"].seconds - time.time()) < 3600


@pytest.mark.parametrize("size", [0, 131064, 131065, 20_000_000])
def test_a_body_of_any_size(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel, size: int
) -> None:
    body = random.Random(1).randbytes(size)
    declare_filled(channel, broker, CLASSIC, [body, b"next"])
    consumer.consume("q", 10, {}, soon())
    assert bodies(receive_many(consumer, 2)) == [body, b"next"]


def test_large_bodies_through_tls(
    channel: BlockingChannel, broker: VHost, certificates: Certificates
) -> None:
    messages = [random.Random(1).randbytes(300_000) for _ in range(10)]
    declare_filled(channel, broker, CLASSIC, messages)
    port = broker.rabbitmq.amqps_port
    assert port is not None
    address = Address(
        "127.0.0.1", port, broker.vhost, "guest", "guest", ssl=True, ssl_cacert=str(certificates.ca)
    )
    with consuming(address) as consumer:
        consumer.consume("q", 10, {}, soon())
        assert bodies(receive_many(consumer, 10)) == messages


# -- prefetch and acknowledgement ----------------------------------------------------------------


@BOTH
def test_no_more_comes_than_the_prefetch(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel, kind: str
) -> None:
    declare_filled(channel, broker, kind, numbered(100))
    consumer.consume("q", 10, {}, soon())
    assert bodies(receive_many(consumer, 10)) == numbered(10)
    assert count(consumer, "q") == 90
    # Of all up to the fourth.
    consumer.ack(4, soon())
    assert bodies(receive_many(consumer, 4)) == numbered(4, first=10)
    wait_for_count(consumer, 86)
    assert consumer.take() == []


@BOTH
def test_what_was_not_acknowledged_comes_again(
    channel: BlockingChannel, broker: VHost, kind: str
) -> None:
    declare_filled(channel, broker, kind, numbered(20))
    with consuming(address_of(broker)) as first:
        first.consume("q", 10, {}, soon())
        receive_many(first, 10)
        first.ack(7, soon())
        receive_many(first, 7)
    with consuming(address_of(broker)) as second:
        wait_for_count(second, 13)
        second.consume("q", 100, {}, soon())
        deliveries = receive_many(second, 13)
        assert bodies(deliveries) == numbered(13, first=7)
        assert [delivery.redelivered for delivery in deliveries] == [True] * 10 + [False] * 3
        second.ack(13, soon())
        second.cancel(soon())
        assert count(second, "q") == 0


def test_a_reader_that_stops_holds_no_more(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, CLASSIC, [bytes(1 << 20)] * 40)
    consumer.consume("q", 1000, {}, soon())
    while consumer.pending_bytes < 3 << 20:
        consumer.connection.wait(soon())
        consumer.connection.receive()
    # The broker has handed out everything, and it stays where it is.
    wait_for(lambda: channel.queue_declare("q", passive=True).method.message_count == 0, 60, "it")
    assert consumer.pending_bytes < 4 << 20
    assert len(receive_many(consumer, 30)) >= 30


# -- the end of a consumer -----------------------------------------------------------------------


@BOTH
def test_a_cancelled_consumer_leaves_the_rest(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel, kind: str
) -> None:
    declare_filled(channel, broker, kind, numbered(100))
    consumer.consume("q", 10, {}, soon())
    # Nothing was received so far: what comes before the answer is kept.
    consumer.cancel(soon())
    deliveries = consumer.take()
    assert bodies(deliveries) == numbered(len(deliveries))
    assert not consumer.consuming
    if deliveries:
        consumer.ack(deliveries[-1].tag, soon())
    wait_for_count(consumer, 100 - len(deliveries))
    consumer.consume("q", 1000, {}, soon())
    assert len(receive_many(consumer, 100 - len(deliveries))) == 100 - len(deliveries)


@BOTH
def test_a_deleted_queue_ends_the_consumer(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel, kind: str
) -> None:
    declare_filled(channel, broker, kind, numbered(3))
    consumer.consume("q", 10, {}, soon())
    assert bodies(receive_many(consumer, 3)) == numbered(3)
    channel.queue_delete("q")
    while not consumer.cancelled:
        receive(consumer)
    assert not consumer.consuming
    # The connection goes on, with the queue when it is there again.
    with pytest.raises(ChannelClosedError):
        consumer.consume("q", 10, {}, soon())
    declare_filled(channel, broker, kind, numbered(3))
    consumer.consume("q", 10, {}, soon())
    assert bodies(receive_many(consumer, 3)) == numbered(3)
    assert not consumer.cancelled


# -- refusals ------------------------------------------------------------------------------------


def assert_refused(consumer: ConsumingChannel, queue: str, code: int, text: str) -> None:
    """It may not consume, nor count, and can still do both with a queue that it may."""
    with pytest.raises(ChannelClosedError, match=text) as caught:
        consumer.consume(queue, 10, {}, soon())
    assert (caught.value.code, consumer.consuming) == (code, False)
    with pytest.raises(ChannelClosedError, match=text):
        count(consumer, queue)
    consumer.consume("q", 10, {}, soon())
    assert bodies(receive_many(consumer, 3)) == numbered(3)


def test_a_queue_that_there_is_not(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, CLASSIC, numbered(3))
    assert_refused(consumer, "nowhere", 404, "no queue 'nowhere'")


def test_a_queue_of_another_connection(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, CLASSIC, numbered(3))
    channel.queue_declare("mine", exclusive=True)
    assert_refused(consumer, "mine", 405, "cannot obtain exclusive access")


def test_a_queue_that_is_none_of_the_users(
    channel: BlockingChannel, broker: VHost, management: Management
) -> None:
    declare_filled(channel, broker, CLASSIC, numbered(3))
    channel.queue_declare("theirs")
    management.create_user("reader", "reader")
    management.grant(broker.vhost, "reader", configure="", write="", read="^q$")
    try:
        with consuming(address_of(broker, user="reader")) as consumer:
            with pytest.raises(ChannelClosedError, match="access to queue 'theirs'") as caught:
                consumer.consume("theirs", 10, {}, soon())
            assert caught.value.code == 403
            consumer.consume("q", 10, {}, soon())
            assert bodies(receive_many(consumer, 3)) == numbered(3)
    finally:
        management.delete_user("reader")


def test_a_queue_that_another_consumes_alone(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, CLASSIC, numbered(3))
    channel.queue_declare("alone")
    channel.basic_consume("alone", lambda *_: None, exclusive=True)
    with pytest.raises(ChannelClosedError, match="in exclusive use") as caught:
        consumer.consume("alone", 10, {}, soon())
    assert caught.value.code == 403


def test_a_refusal_ends_the_consumer_there_is(
    channel: BlockingChannel, broker: VHost, consumer: ConsumingChannel
) -> None:
    declare_filled(channel, broker, CLASSIC, numbered(3))
    consumer.consume("q", 10, {}, soon())
    receive_many(consumer, 3)
    with pytest.raises(ChannelClosedError):
        count(consumer, "nowhere")
    assert not consumer.consuming
    # Acknowledging them now would acknowledge what comes again.
    consumer.ack(3, soon())
    consumer.consume("q", 10, {}, soon())
    deliveries = receive_many(consumer, 3)
    assert bodies(deliveries) == numbered(3)
    assert [delivery.tag for delivery in deliveries] == [4, 5, 6]
    consumer.ack(6, soon())
    consumer.cancel(soon())
    assert count(consumer, "q") == 0


# -- time ----------------------------------------------------------------------------------------


@pytest.fixture
def impatient(rabbitmq: RabbitMQ) -> Iterator[None]:
    """A broker that waits a second for acknowledgements, on channels opened from now on."""
    set_times = (
        "application:set_env(rabbit, consumer_timeout, {}),"
        " application:set_env(rabbit, channel_tick_interval, {})."
    )
    rabbitmq.rabbitmqctl("eval", set_times.format(1000, 200))
    yield
    rabbitmq.rabbitmqctl("eval", set_times.format(1_800_000, 60_000))


@pytest.mark.slow
@BOTH
def test_a_delivery_that_is_not_acknowledged_in_time(
    channel: BlockingChannel, impatient: None, broker: VHost, kind: str
) -> None:
    declare_filled(channel, broker, kind, numbered(3))
    with consuming(address_of(broker)) as consumer:
        consumer.consume("q", 10, {}, soon())
        receive_many(consumer, 3)
        with pytest.raises(ChannelClosedError, match="acknowledgement on channel 1") as caught:
            receive(consumer)
        assert caught.value.code == 406
        assert not consumer.consuming
        consumer.ack(3, soon())
        consumer.reopen(soon())
        consumer.consume("q", 10, {}, soon())
        deliveries = receive_many(consumer, 3)
        assert bodies(deliveries) == numbered(3)
        assert all(delivery.redelivered for delivery in deliveries)


@pytest.mark.slow
def test_heartbeats_keep_an_idle_consumer(channel: BlockingChannel, broker: VHost) -> None:
    declare_filled(channel, broker, CLASSIC, [])
    consumer = connect(address_of(broker), heartbeat=1)
    assert consumer.connection.heartbeat == 1
    consumer.connection.while_waiting(consumer.connection.beat)
    consumer.consume("q", 10, {}, soon())
    # The broker gives up after two of these seconds, and so do we.
    end = time.monotonic() + 5
    while time.monotonic() < end:
        with suppress(StalledError):
            consumer.connection.wait(end)
        consumer.connection.receive()
    fill(broker, numbered(1))
    assert bodies(receive_many(consumer, 1)) == numbered(1)
    consumer.connection.close()
