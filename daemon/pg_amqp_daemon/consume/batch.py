"""Messages that are stored together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID, uuid4

from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.consume.headers import stream_offset
from pg_amqp_py.wire.consume.properties import split_properties
from pg_amqp_py.wire.errors import MalformedError


class Batch(NamedTuple):
    """Deliveries in the order of the queue."""

    id: UUID
    subscription: int
    """The number of the subscription that they came by."""
    deliveries: list[Delivery]
    received: list[float]
    """When each arrived (time.time())."""
    dead: list[int] | None = None
    """Where they come from amqp.inbox_dead: its ids."""

    @property
    def tag(self) -> int:
        """The last one's."""
        return self.deliveries[-1].tag

    @property
    def next_offset(self) -> int | None:
        """Of a stream, where the next message is; None if these come from none."""
        for behind, delivery in enumerate(reversed(self.deliveries), 1):
            try:
                offset = _read_offset(delivery)
            except MalformedError:
                # Its offset is at least that of the one before.
                continue
            return None if offset is None else offset + behind
        return None

    @property
    def offset(self) -> int | None:
        """Of a stream, where the first one is."""
        return offset_of(self.deliveries[0])

    def halves(self) -> tuple[Batch, Batch]:
        """The first and the second half, batches of their own."""
        middle = len(self.deliveries) // 2
        return self._part(slice(0, middle)), self._part(slice(middle, None))

    def only(self, places: Sequence[int]) -> Batch:
        """Those in these places; under the same id."""
        dead = None if self.dead is None else [self.dead[at] for at in places]
        deliveries, received = self.deliveries, self.received
        return self._replace(
            deliveries=[deliveries[at] for at in places],
            received=[received[at] for at in places],
            dead=dead,
        )

    def _part(self, part: slice) -> Batch:
        dead = None if self.dead is None else self.dead[part]
        return Batch(uuid4(), self.subscription, self.deliveries[part], self.received[part], dead)


def new_batch(
    subscription: int,
    deliveries: list[Delivery],
    received: list[float],
    dead: list[int] | None = None,
) -> Batch:
    """A batch with an id of its own."""
    return Batch(uuid4(), subscription, deliveries, received, dead)


def offset_of(delivery: Delivery) -> int | None:
    """Where in its stream a message is; None if it is in none, or cannot be read."""
    try:
        return _read_offset(delivery)
    except MalformedError:
        return None


def _read_offset(delivery: Delivery) -> int | None:
    return stream_offset(split_properties(delivery.properties).headers)
