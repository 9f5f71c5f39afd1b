"""Durable queues and what is in them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pika
from pika.adapters.blocking_connection import BlockingChannel

from support.patience import LIMIT


@contextmanager
def open_channel(url: str) -> Iterator[BlockingChannel]:
    """Open a channel of one's own."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def declare(
    channel: BlockingChannel, exchange: str = "events", queue: str | None = None
) -> tuple[str, str]:
    """Declare a durable topic exchange and a durable queue that gets everything from it."""
    queue = queue or exchange
    channel.exchange_declare(exchange, "topic", durable=True)
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, exchange, "#")
    return exchange, queue


def fanout(channel: BlockingChannel, exchange: str, *queues: str) -> None:
    """Declare a fanout exchange and durable queues that get all that is published to it."""
    channel.exchange_declare(exchange, "fanout", durable=True)
    for queue in queues:
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, exchange)


def count(channel: BlockingChannel, queue: str) -> int:
    """Return how many messages are in a queue."""
    number: int = channel.queue_declare(queue, passive=True).method.message_count
    return number


def take(channel: BlockingChannel, queue: str, expected: int = 0) -> list[str]:
    """Take everything out of a queue, as text, once it has held at least `expected` messages."""
    received: list[str] = []
    deadline = time.monotonic() + LIMIT
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is not None:
            received.append(body.decode())
        elif len(received) >= expected:
            return received
        else:
            message = f"only {len(received)} of {expected} messages arrived"
            assert time.monotonic() < deadline, message
            channel.connection.sleep(0.01)


def numbers_in(channel: BlockingChannel, queue: str, expected: int = 0) -> list[int]:
    """Take the numbers that `Session.publish` sent."""
    return [int(body) for body in take(channel, queue, expected)]
