"""Deliveries as a broker sends them, in pika's encoding, and random ones."""

from __future__ import annotations

import os
import random
import string
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import pika.frame
from pika.spec import Basic, BasicProperties

from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.consume.reader import DeliveryReader
from pg_amqp_py.wire.frames import Frame

TAG = "pg-amqp-1"
"""The consumer's."""
FRAME_MAX = 4096


def seeded() -> random.Random:
    """What is random, by a seed that is printed, and is PG_AMQP_PY_SEED if that is set."""
    seed = os.environ.get("PG_AMQP_PY_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"PG_AMQP_PY_SEED={seed}")
    return random.Random(seed)


class Sent(NamedTuple):
    """A message that is to be delivered."""

    body: bytes = b"x"
    properties: BasicProperties | None = None
    exchange: str = "events"
    routing_key: str = "orders.placed"
    redelivered: bool = False

    @property
    def encoded(self) -> bytes:
        """Its properties, as pika writes them."""
        return b"".join((self.properties or BasicProperties()).encode())

    def delivery(self, tag: int) -> Delivery:
        """What a consumer shall make of it."""
        names = self.exchange.encode(), self.routing_key.encode()
        return Delivery(tag, self.redelivered, *names, self.encoded, self.body)

    def frames(self, tag: int, *, frame_max: int = FRAME_MAX, consumer: str = TAG) -> list[bytes]:
        """Its frames on the channel."""
        deliver = Basic.Deliver(consumer, tag, self.redelivered, self.exchange, self.routing_key)
        header = pika.frame.Header(1, len(self.body), self.properties or BasicProperties())
        size = frame_max - 8
        bodies = [
            pika.frame.Body(1, self.body[at : at + size]) for at in range(0, len(self.body), size)
        ]
        frames = [pika.frame.Method(1, deliver), header, *bodies]
        return [frame.marshal() for frame in frames]


def stream(messages: Iterable[Sent], *, first: int = 1, frame_max: int = FRAME_MAX) -> bytes:
    """What the broker sends to deliver these."""
    return b"".join(
        frame
        for tag, message in enumerate(messages, first)
        for frame in message.frames(tag, frame_max=frame_max)
    )


def reading(prefetch: int = 0, *, frame_max: int = FRAME_MAX) -> DeliveryReader:
    """A reader of what is delivered to the consumer."""
    reader = DeliveryReader()
    reader.limit(frame_max)
    reader.begin(TAG, prefetch)
    return reader


def feed(reader: DeliveryReader, data: bytes, size: int | None = None) -> list[tuple[int, Frame]]:
    """Have it read the data in pieces of so many bytes; what else than deliveries was in it."""
    size = size or len(data)
    return [
        frame for at in range(0, len(data), size) for frame in reader.feed(data[at : at + size])
    ]


def random_text(chance: random.Random, longest: int) -> str:
    """Letters of one byte and of several."""
    letters = string.printable + "äß€😀"
    text = "".join(chance.choices(letters, k=chance.randint(0, longest)))
    return text.encode()[:longest].decode(errors="ignore")


def random_properties(chance: random.Random) -> BasicProperties:
    """Any of the properties."""

    def text() -> str:
        return random_text(chance, 255)

    makers: dict[str, Any] = {
        "content_type": text,
        "content_encoding": text,
        "headers": lambda: {random_text(chance, 60): text() for _ in range(chance.randint(0, 9))},
        "delivery_mode": lambda: chance.randint(0, 255),
        "priority": lambda: chance.randint(0, 255),
        "correlation_id": text,
        "reply_to": text,
        "expiration": text,
        "message_id": text,
        "timestamp": lambda: chance.getrandbits(64),
        "type": text,
        "user_id": text,
        "app_id": text,
        "cluster_id": text,
    }
    given = chance.sample(sorted(makers), chance.randint(0, len(makers)))
    return BasicProperties(**{name: makers[name]() for name in given})


def random_message(chance: random.Random) -> Sent:
    """One with anything, of any size."""
    size = chance.choice([0, 1, 10, 100, 4087, 4088, 4089, 8176, 8177, 20_000])
    return Sent(
        chance.randbytes(size),
        random_properties(chance),
        random_text(chance, 255),
        random_text(chance, 255),
        chance.random() < 0.3,
    )


# -- tables, of which pika writes few types ------------------------------------------------------

_NUMBERS = {"b": ">b", "B": ">B", "s": ">h", "u": ">H", "I": ">i", "i": ">I", "l": ">q", "L": ">q"}


def field(kind: str, layout: str, *values: Any) -> bytes:
    """A value of a table, with its type."""
    return kind.encode() + struct.pack(layout, *values)


def sized(kind: str, data: bytes) -> bytes:
    """A value of a table that says how long it is."""
    return field(kind, ">I", len(data)) + data


def table(*entries: tuple[bytes, bytes]) -> bytes:
    """A table, its length included."""
    payload = b"".join(bytes([len(key)]) + key + value for key, value in entries)
    return struct.pack(">I", len(payload)) + payload


def number_of_any_type(kind: str, chance: random.Random) -> tuple[bytes, int]:
    """An integer, encoded and as it is."""
    layout = _NUMBERS[kind]
    raw = chance.randbytes(struct.calcsize(layout))
    return kind.encode() + raw, struct.unpack(layout, raw)[0]


INTEGERS = tuple(_NUMBERS)
