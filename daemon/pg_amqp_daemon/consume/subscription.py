"""A subscription: what is to be consumed, and how RabbitMQ is asked to begin and to end."""

from __future__ import annotations

import time
from typing import NamedTuple

from pg_amqp_py.wire.consume.arguments import Timestamp
from pg_amqp_py.wire.consume.channel import ConsumingChannel
from pg_amqp_py.wire.errors import ChannelClosedError

ANSWER = 10.0
"""Seconds for the answer to a question."""
_QUIET = 5
"""Answers between which nothing has come, before it is believed that nothing will."""
_SLOW = 2.0
"""Seconds in which a queue sends what is ready, if it will: it may be another consumer's."""
_NO_STREAM = "invalid arg 'x-stream-offset'"
"""What RabbitMQ says if it is asked to begin anywhere in a queue."""


class Subscription(NamedTuple):
    """What is to be consumed."""

    number: int
    """A new one for every change, so that nobody takes the messages of another."""
    queue: str
    prefetch: int
    start: str | int | Timestamp
    """Where to begin in a stream."""
    due: int | None = None
    """The offset of what comes next in a stream that was read before: one message earlier."""

    def begin(self, channel: ConsumingChannel) -> bool:
        """Begin to consume; whether it is a stream. Raises ChannelClosedError: not allowed.

        That is for RabbitMQ to say: a message's headers are its publisher's, and may come from a
        stream though the message does not.
        """
        start = {"x-stream-offset": self.start}
        try:
            channel.consume(self.queue, self.prefetch, start, time.monotonic() + ANSWER)
        except ChannelClosedError as error:
            if _NO_STREAM not in str(error):
                raise
            channel.consume(self.queue, self.prefetch, {}, time.monotonic() + ANSWER)
            return False
        return True


class Ending:
    """Has nothing more sent of a subscription, when nothing is on its way.

    What is, RabbitMQ drops when the consumer is cancelled, and delivers again later, and each
    return counts. So nothing is acknowledged that would set more on its way: then it ends when
    as much is held as the broker sends ahead. Where it sends less, it is asked until nothing
    more comes between answers. A quorum queue answers before it has written what was
    acknowledged last, and sends more when it has: so it is given time where any is ready.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._asked = self._answers = self._seen = 0
        """How often it was asked since anything came, the answers and what was unacknowledged
        then."""
        self._given_up = time.monotonic() + _SLOW
        """When no more is waited for, though some is ready."""

    def go_on(self, channel: ConsumingChannel, unacked: int) -> bool:
        """Cancel the consumer, if it is time to; whether it is cancelled."""
        if self._asked and channel.answers == self._answers:
            return False
        wanted, now = self._subscription, time.monotonic()
        still = unacked == self._seen
        quiet = self._asked >= _QUIET and still
        if unacked >= wanted.prefetch or (quiet and (not channel.ready or now >= self._given_up)):
            channel.cancel(now + ANSWER)
            return True
        if quiet:
            return False
        channel.ask_count(wanted.queue, now + ANSWER)
        self._asked = self._asked + 1 if still else 1
        self._answers, self._seen = channel.answers, unacked
        return False
