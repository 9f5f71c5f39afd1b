"""How many messages of a queue are ready, as a consumer asks for it."""

from __future__ import annotations

import time

from pg_amqp_py.wire.consume.channel import ConsumingChannel
from pg_amqp_py.wire.errors import ChannelClosedError
from support.patience import LIMIT


def count(channel: ConsumingChannel, queue: str = "q") -> int:
    """Ask, and wait for the answer; a channel that is closed for it is opened again."""
    deadline = time.monotonic() + LIMIT
    answers = channel.answers
    channel.ask_count(queue, deadline)
    try:
        while channel.answers == answers:
            channel.connection.wait(deadline)
            channel.connection.receive()
    except ChannelClosedError:
        channel.reopen(deadline)
        raise
    assert channel.ready is not None
    return channel.ready
