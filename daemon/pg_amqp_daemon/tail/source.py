"""Where messages are looked at: an exchange, by a queue of our own, or a queue."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from pg_amqp_py.wire.consume.channel import ConsumingChannel
from pg_amqp_py.wire.consume.methods import QUEUE_DECLARE_OK
from pg_amqp_py.wire.errors import ChannelClosedError
from pg_amqp_py.wire.pika_methods import encode, spec

ANSWER = 10.0
"""Seconds for the answer to a question."""
_MOST = 10_000
"""Messages that wait for a terminal that is slow, or stopped; then the oldest go."""
_NO_STREAM = "invalid arg 'x-stream-offset'"
"""What RabbitMQ says if it is asked to begin anywhere in a queue."""


class TakenError(Exception):
    """What is shown would be taken from others, and nobody has agreed to that."""


class Source(Protocol):
    """What is looked at."""

    def begin(self, channel: ConsumingChannel, prefetch: int) -> None:
        """Have its messages delivered. Raises ChannelClosedError: the broker refuses."""


@dataclass(frozen=True)
class Exchange:
    """What is published to an exchange from now on, as a queue gets it that is ours alone."""

    exchange: str
    keys: tuple[str, ...]

    def begin(self, channel: ConsumingChannel, prefetch: int) -> None:
        """Bind a queue that goes with this connection, and consume it."""
        queue = f"pg-amqp.tail.{uuid4()}"
        connection, deadline = channel.connection, time.monotonic() + ANSWER
        declare = spec.Queue.Declare(
            queue=queue, exclusive=True, auto_delete=True, arguments={"x-max-length": _MOST}
        )
        connection.send(encode(declare), deadline)
        connection.expect(QUEUE_DECLARE_OK, deadline)
        for key in self.keys:
            bind = spec.Queue.Bind(queue=queue, exchange=self.exchange, routing_key=key)
            connection.send(encode(bind), deadline)
            connection.expect(spec.Queue.BindOk.INDEX, deadline)
        channel.consume(queue, prefetch, {}, deadline)


@dataclass(frozen=True)
class Queue:
    """A stream, which keeps what is read; with `take`, a queue of any type, which does not."""

    queue: str
    start: str | int
    """Where to begin in a stream."""
    take: bool

    def begin(self, channel: ConsumingChannel, prefetch: int) -> None:
        """Consume it. Raises TakenError, too."""
        deadline = time.monotonic() + ANSWER
        try:
            channel.consume(self.queue, prefetch, {"x-stream-offset": self.start}, deadline)
        except ChannelClosedError as error:
            if _NO_STREAM not in str(error):
                raise
            if not self.take:
                raise TakenError from None
            channel.consume(self.queue, prefetch, {}, deadline)
