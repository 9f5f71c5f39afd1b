"""Queues that record what is published."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

from support.sessions import Session


class Delivery(NamedTuple):
    """A message as a consumer gets it."""

    exchange: str
    routing_key: str
    properties: BasicProperties
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """What the body says in JSON."""
        return json.loads(self.body)


class Inbox:
    """A queue bound to an exchange, and what came into it."""

    def __init__(
        self, channel: BlockingChannel, exchange: str = "amq.topic", routing_key: str = "#"
    ) -> None:
        self._channel = channel
        self.queue: str = channel.queue_declare("", durable=True).method.queue
        if exchange:
            channel.queue_bind(self.queue, exchange, routing_key)

    def drain(self) -> list[Delivery]:
        """Take everything out, in order.

        What was confirmed before the call is in the queue: an empty answer is the end.
        """
        found: list[Delivery] = []
        while True:
            method, properties, body = self._channel.basic_get(self.queue, auto_ack=True)
            if method is None:
                return found
            found.append(Delivery(method.exchange, method.routing_key, properties, body))

    def texts(self) -> list[str]:
        """Take everything out, in order, as text."""
        return [delivery.text for delivery in self.drain()]


def publish(session: Session, *messages: object, broker: int = 1) -> None:
    """Call amqp.publish() for each message, to amq.topic."""
    for message in messages:
        session.execute("SELECT amqp.publish(%s, 'amq.topic', 'key', %s)", [broker, str(message)])
