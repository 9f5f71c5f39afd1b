"""Durable queues, what is in them, and a fanout exchange in front."""

from __future__ import annotations

from pika.adapters.blocking_connection import BlockingChannel


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


def take(channel: BlockingChannel, queue: str) -> list[str]:
    """Take everything out of a queue, in order, as text."""
    found: list[str] = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append(body.decode())
