"""Messages for consumers, good ones and poison of every kind, published byte by byte.

pika refuses to send what a stranger may send, so frames are made here.
"""

from __future__ import annotations

import json
import random
import struct
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pika

from pg_amqp_py.wire import methods
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.channel import PublishingChannel, connect_publisher
from pg_amqp_py.wire.methods import BASIC_CLASS, BODY_FRAME, CHANNEL, FRAME_END, HEADER_FRAME
from pg_amqp_py.wire.properties import short_string
from pg_amqp_py.wire.pump import Patience, write

_MARK = "BYTES"
NO_UTF8 = b"\xff\xfe\x00\xfe\xff"
"""What takes the place of a mark: no text in any encoding of a database."""
_STEP = 1000


class Arrival(NamedTuple):
    """A message as it is published, by its number."""

    number: int
    body: bytes
    properties: bytes
    """Flags and list."""


def properties(**given: Any) -> bytes:
    """The property flags and list of pika's BasicProperties; persistent unless given."""
    given.setdefault("delivery_mode", 2)
    return b"".join(pika.BasicProperties(**given).encode())


def spoiled(raw: bytes) -> bytes:
    """The same, with bytes that are no text where `MARK` was."""
    return raw.replace(_MARK.encode(), NO_UTF8)


MARK = _MARK


@contextmanager
def producer(url: str) -> Iterator[PublishingChannel]:
    """A channel to publish on."""
    parameters = pika.URLParameters(url)
    credentials = parameters.credentials
    address = Address(
        parameters.host,
        parameters.port,
        parameters.virtual_host,
        credentials.username,
        credentials.password,
        False,
        None,
        None,
        None,
        True,
        True,
    )
    channel = connect_publisher(address, {"product": "test"}, 30.0, lambda: None)
    try:
        yield channel
    finally:
        channel.connection.close()


def publish(
    channel: PublishingChannel, exchange: str, key: str, arrivals: Iterable[Arrival]
) -> None:
    """Publish messages in order, and wait until the broker has confirmed them."""
    waiting = list(arrivals)
    for begin in range(0, len(waiting), _STEP):
        stream, starts = bytearray(), array("Q")
        for arrival in waiting[begin : begin + _STEP]:
            starts.append(len(stream))
            _append(stream, exchange, key, arrival, channel.encoder.frame_max)
        channel.prepare(time.monotonic() + 30, wait=True)
        write(Batch(stream, starts, channel.encoder.frame_max), channel, Patience(60.0))


def _append(stream: bytearray, exchange: str, key: str, arrival: Arrival, frame_max: int) -> None:
    place = short_string("exchange", exchange) + short_string("routing_key", key)
    stream += methods.frame(CHANNEL, methods.BASIC_PUBLISH, b"\0\0" + place + b"\0")
    body, listed = arrival.body, arrival.properties
    stream += struct.pack(">BHI", HEADER_FRAME, CHANNEL, 12 + len(listed))
    stream += struct.pack(">HHQ", BASIC_CLASS, 0, len(body)) + listed + FRAME_END
    for at in range(0, len(body), frame_max - 8):
        part = body[at : at + frame_max - 8]
        stream += struct.pack(">BHI", BODY_FRAME, CHANNEL, len(part)) + part + FRAME_END


# -- a random lot ---------------------------------------------------------------------------

HEADERS: tuple[Any, ...] = (
    True,
    -1,
    1 << 40,
    "text with \u00fc and \U0001f407",
    None,
)
# RabbitMQ's streams keep these as something else, or not at all.
NOT_IN_STREAMS: tuple[Any, ...] = (b"\0\xff", {"a": {"b": [1, "x", None]}}, [1, [2, {"c": False}]])


def _json(number: int, **more: object) -> bytes:
    return json.dumps({"id": number, "note": f"note {number}", **more}).encode()


POISON: dict[str, Callable[[int], bytes]] = {
    "no JSON": lambda number: b'{"id": %d' % number,
    "another type": lambda number: _json(number, id=f"x{number}"),
    "NUL": lambda number: b'{"id": %d, "note": "\0"}' % number,
    "no UTF-8": lambda number: b'{"id": %d, "note": "\xff"}' % number,
    "escaped NUL": lambda number: b'{"id": %d, "note": "\\u0000"}' % number,
    "constraint": lambda number: _json(number, note="forbidden"),
    "too long for an index": lambda number: _json(
        number, note=random.Random(number).randbytes(9000).hex()
    ),
    "header": _json,
    "raise": lambda number: _json(number, raises=True),
    "nothing": lambda _number: b"",
}
"""Bodies that cannot be stored, by what is wrong with them; of one, it is a header."""


class Lot:
    """`count` messages with copies among them; `poison` says which cannot be stored."""

    def __init__(
        self, seed: str, count: int, *, large: int = 0, of_stream: bool = False, **given: Any
    ) -> None:
        self.poison: set[int] = set()
        self.good: set[int] = set()
        self.arrivals: list[Arrival] = []
        self._random = rng = random.Random(seed)
        self._given = given
        self._headers = HEADERS + (() if of_stream else NOT_IN_STREAMS)
        for number in range(count):
            if rng.random() < 0.01:
                self.poison.add(number)
                self._add(number, rng.choice(list(POISON)))
            else:
                self.good.add(number)
                self._add(number, None)
            if rng.random() < 0.05:
                # A copy: right behind, or far apart.
                self._copy(self.arrivals[-1] if rng.random() < 0.5 else rng.choice(self.arrivals))
        for number in range(count, count + large):
            self.good.add(number)
            size = 20_000_000 >> (number - count)
            self.arrivals.append(
                Arrival(number, _json(number, pad="x" * size), self._properties(number))
            )

    def _add(self, number: int, what: str | None) -> None:
        size = self._random.choice([0, 0, 0, 10, 300, 5000])
        body = _json(number, pad="x" * size) if what is None else POISON[what](number)
        tenant = MARK if what == "header" else f"t{number % 7}"
        listed = self._properties(number, tenant=tenant, x=self._random.choice(self._headers))
        self.arrivals.append(Arrival(number, body, spoiled(listed) if what == "header" else listed))

    def _properties(self, number: int, **headers: object) -> bytes:
        return properties(
            message_id=f"m{number}", correlation_id=f"c{number}", headers=headers, **self._given
        )

    def _copy(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
