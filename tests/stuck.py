"""Queues that take messages and do not confirm them, while broker and network are fine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pika.adapters.blocking_connection import BlockingChannel

from fix_servers import Broker

_PROCESS = """
{{ok, Q}} = rabbit_amqqueue:lookup(
    rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)), sys:{action}(amqqueue:get_pid(Q)).
"""


@contextmanager
def stuck(broker: Broker, *queues: str) -> Iterator[None]:
    """Suspend the processes of classic queues; in the end they go on."""
    for queue in queues:
        suspend(broker, queue)
    try:
        yield
    finally:
        for queue in queues:
            resume(broker, queue)


def suspend(broker: Broker, queue: str) -> None:
    """Let a queue stand still."""
    _eval(broker, queue, "suspend")


def resume(broker: Broker, queue: str) -> None:
    """Let a queue go on."""
    _eval(broker, queue, "resume")


def _eval(broker: Broker, queue: str, action: str) -> None:
    broker.rabbitmq.rabbitmqctl(
        "eval", _PROCESS.format(vhost=broker.vhost, queue=queue, action=action)
    )


def fanout(channel: BlockingChannel, exchange: str, *queues: str) -> None:
    """Declare a fanout exchange and durable queues that get all that is published to it."""
    channel.exchange_declare(exchange, "fanout", durable=True)
    for queue in queues:
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, exchange)


def take(channel: BlockingChannel, queue: str) -> list[str]:
    """Take everything out of a queue, in order, as text."""
    found = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append(body.decode())
