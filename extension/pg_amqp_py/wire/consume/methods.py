"""The methods that a consumer says and hears, beside those that every role does, as bytes.

A test holds every byte against pika's.
"""

from __future__ import annotations

import struct

from pg_amqp_py.wire.errors import RangeError
from pg_amqp_py.wire.methods import CHANNEL, frame
from pg_amqp_py.wire.properties import DIRECT_REPLY_TO, short_string

QUEUE_DECLARE = 50 << 16 | 10
QUEUE_DECLARE_OK = 50 << 16 | 11
BASIC_QOS = 60 << 16 | 10
BASIC_QOS_OK = 60 << 16 | 11
BASIC_CONSUME = 60 << 16 | 20
BASIC_CONSUME_OK = 60 << 16 | 21
BASIC_CANCEL = 60 << 16 | 30
BASIC_CANCEL_OK = 60 << 16 | 31
BASIC_DELIVER = 60 << 16 | 60
BASIC_ACK = 60 << 16 | 80

_PASSIVE = b"\1"
_NO_ACK = b"\2"
_MULTIPLE = 1
_MOST = (1 << 16) - 1


def limit_unacknowledged(prefetch: int) -> bytes:
    """Basic.Qos: so many deliveries may be unacknowledged, of each consumer; 0 is any number."""
    if not 0 <= prefetch <= _MOST:
        raise RangeError("prefetch", str(prefetch))
    return frame(CHANNEL, BASIC_QOS, struct.pack(">IHB", 0, prefetch, 0))


def consume(queue: str, tag: str, arguments: bytes) -> bytes:
    """Basic.Consume, with acknowledgements; `arguments` are an encoded table."""
    names = short_string("queue", queue) + short_string("consumer_tag", tag)
    return frame(CHANNEL, BASIC_CONSUME, b"\0\0" + names + b"\0" + arguments)


def consume_replies(tag: str) -> bytes:
    """Basic.Consume of what is sent to the channel by Direct Reply-to: never acknowledged."""
    names = short_string("queue", DIRECT_REPLY_TO) + short_string("consumer_tag", tag)
    return frame(CHANNEL, BASIC_CONSUME, b"\0\0" + names + _NO_ACK + b"\0\0\0\0")


def cancel(tag: str) -> bytes:
    """Basic.Cancel."""
    return frame(CHANNEL, BASIC_CANCEL, short_string("consumer_tag", tag) + b"\0")


def acknowledge(tag: int) -> bytes:
    """Basic.Ack of all deliveries up to this one."""
    return frame(CHANNEL, BASIC_ACK, struct.pack(">QB", tag, _MULTIPLE))


def look_for_queue(queue: str) -> bytes:
    """Queue.Declare with `passive`: whether there is such a queue, and how much is in it."""
    name = short_string("queue", queue)
    return frame(CHANNEL, QUEUE_DECLARE, b"\0\0" + name + _PASSIVE + b"\0\0\0\0")
