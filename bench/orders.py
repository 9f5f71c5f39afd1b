"""The messages that are consumed: orders as JSON of about 100 bytes, each with an id of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from bench.limit import Stream, encoded
from pg_amqp_py.wire.message import Envelope

COLUMNS = {"id": "body.id", "amount": "body.amount", "customer": "body.customer"}
"""Of bench.orders_in, and where amqp.consumer finds them."""
BATCH = 1000
"""Messages in a transaction, and lines in a request."""
_PERSISTENT = 2
MOMENT = 1_764_000_000
"""When all orders were sent, for who stores that."""


class Order(NamedTuple):
    """What is in a message."""

    id: str
    amount: float
    customer: str

    @property
    def body(self) -> bytes:
        """As JSON."""
        return json.dumps(self._asdict()).encode()


def make(count: int, *, seed: int = 1, padding: str = "") -> Iterator[Order]:
    """Orders with ids in no order, as they come from many who make them up."""
    chance = random.Random(seed)
    for number in range(count):
        key = str(UUID(int=chance.getrandbits(128), version=4))
        yield Order(key, number % 9973 / 4, f"customer number {number % 100:04}{padding}")


def stream_of(queue: str, those: Iterable[Order]) -> Stream:
    """The bytes that put them into a queue, by the default exchange."""
    return encoded(
        (
            Envelope(
                "",
                queue,
                delivery_mode=_PERSISTENT,
                content_type="application/json",
                message_id=order.id,
                timestamp=MOMENT,
            ),
            order.body,
        )
        for order in those
    )


def in_batches(those: Sequence[Order]) -> Iterator[list[Order]]:
    """The same, so many at a time as are stored together."""
    rest = iter(those)
    while batch := [*islice(rest, BATCH)]:
        yield batch
