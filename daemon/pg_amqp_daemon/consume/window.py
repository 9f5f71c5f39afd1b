"""The window of a subscription: what has come, and how much of it is stored and acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pg_amqp_daemon.consume.batch import Batch, new_batch
from pg_amqp_daemon.consume.held import Held
from pg_amqp_py.wire.consume.delivery import Delivery

_MOST_BYTES = 16 << 20
"""Bytes of messages held at which nothing more is received, and of a batch of more than one."""
_MANY = 100
"""Messages of a batch behind which more are waited for: they come in a flow."""
_BREATH = 0.01
"""Seconds to wait for them. A transaction for each handful would keep both servers from more."""


class Window:
    """One thread fills it, another takes batches out of it; `changed` guards it for both.

    `on_room` is called when it was full, and more may come.
    """

    def __init__(self, on_room: Callable[[], None]) -> None:
        self.changed = threading.Condition()
        """Told when whoever takes may find something new."""
        self.number = 0
        """Of the subscription; 0 if there is none."""
        self.last = 0
        """The last delivery tag that has come."""
        self.stored = self.acked = 0
        """The last delivery tags that are stored, and that were acknowledged."""
        self.ending = False
        """Whether no more messages are wanted: a batch need not become full."""
        self._on_room = on_room
        self._handed = 0
        """The last delivery tag that was taken."""
        self._held = Held()
        self._first_came = 0.0
        """When the first of these did, or the last batch was taken (time.monotonic())."""
        self._awaited = 1
        """How many must be held for whoever waits to be told."""
        self._in_flow = False
        """Whether the last batch was a large one."""

    @property
    def held(self) -> int:
        """How many messages wait to be taken."""
        return self._held.count

    @property
    def oldest(self) -> float | None:
        """When the first of these arrived."""
        with self.changed:
            return self._held.oldest

    @property
    def is_full(self) -> bool:
        """Whether so much is held that nothing more should come."""
        return self._held.size >= _MOST_BYTES

    @property
    def is_settled(self) -> bool:
        """Whether all that has come was taken, stored and acknowledged."""
        return not self._held.count and self._handed == self.acked

    def begin(self, number: int) -> None:
        """Guarded: from now on it is that of this subscription."""
        self.number = number

    def close(self) -> None:
        """Guarded: there is no subscription, and nothing that it has brought."""
        self.number = self.last = self.stored = self.acked = self._handed = 0
        self.ending = False
        self._held.clear()
        self.changed.notify_all()

    # -- what comes in ---------------------------------------------------------------------

    def add(self, deliveries: list[Delivery], size: int) -> None:
        """Guarded: more has come, of so many bytes."""
        if not self.last:
            # On a channel that was opened again, tags go on.
            self.acked = self._handed = self.stored = deliveries[0].tag - 1
        self.last = deliveries[-1].tag
        if not self._held.count:
            self._first_came = time.monotonic()
        self._held.add(deliveries, time.time(), size)
        if self._is_enough(self._awaited):
            self.changed.notify_all()

    # -- what is taken out -----------------------------------------------------------------

    def take(self, most: int, timeout: float, linger: float) -> Batch | None:
        """The next messages, so many at most; None if none are due within `timeout` seconds.

        Fewer are due when the first of them has been here for `linger` seconds.
        """
        held = self._held
        with self.changed:
            if not held.count:
                self._awaited = 1
                self.changed.wait_for(lambda: held.count, timeout)
            left = self._first_came + linger - time.monotonic()
            if held.count and left > 0:
                # Not for longer than the worker may leave everything else alone.
                self._awaited = most
                self.changed.wait_for(lambda: self._is_enough(most), min(left, timeout))
                if left > timeout and not self._is_enough(most):
                    return None
            elif held.count and self._in_flow:
                self._awaited = most
                self.changed.wait_for(lambda: self._is_enough(most), _BREATH)
            if not held.count:
                self._in_flow = False
                return None
            was_full = self.is_full
            batch = new_batch(self.number, *held.take(most, _MOST_BYTES))
            self._handed = batch.tag
            self._in_flow = len(batch.deliveries) >= _MANY
            self._first_came = time.monotonic()
        if was_full:
            self._on_room()
        return batch

    def upcoming(self, most: int, most_bytes: int) -> Batch | None:
        """What take() would give next, which stays here; None if there is nothing."""
        with self.changed:
            deliveries, received = self._held.begin(most, most_bytes)
            return new_batch(self.number, deliveries, received) if deliveries else None

    def put_back(self, batch: Batch) -> None:
        """What could not be stored comes next again, unless the broker delivers it anew."""
        with self.changed:
            if self._is_live(batch):
                self._held.put_back(batch.deliveries, batch.received)
                # They have waited for others before.
                self._first_came = 0.0

    def note_stored(self, batch: Batch) -> None:
        """A batch may be acknowledged."""
        with self.changed:
            if self._is_live(batch):
                self.stored = batch.tag

    def _is_enough(self, most: int) -> bool:
        """Guarded: whether waiting would bring no more for a batch."""
        return self._held.count >= most or self.is_full or self.ending

    def _is_live(self, batch: Batch) -> bool:
        """Whether the broker waits for the acknowledgement of a batch."""
        return batch.subscription == self.number
