"""Reads what is due in one broker's outbox, and hands it over to the publisher in runs."""

from __future__ import annotations

import time
from itertools import chain

import psycopg

from pg_amqp_daemon.relay.ledger import Ledger
from pg_amqp_daemon.relay.outbox import Outbox
from pg_amqp_daemon.relay.publisher import Publisher
from pg_amqp_daemon.relay.reading import Plan, Reading, size_of
from pg_amqp_daemon.runtime.database import Database, first_line
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.waves import Entry, Run

_WAKING = 1.0
"""Seconds that a sweep spends at most on making ready what waited."""


class Reader:
    """Reads when there is room for another run. Raises psycopg.Error."""

    def __init__(
        self, database: Database, outbox: Outbox, ledger: Ledger, publisher: Publisher
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._ledger = ledger
        self._publisher = publisher
        self._plan = Plan()
        self._under_way: list[list[int]] = []
        """Ids of the runs that the publisher has, in order."""

    @property
    def read_up_to(self) -> int | None:
        """The id behind which it reads on, if it has found nothing; None while there may be more.

        What appears up to there is found as what appears behind it, but perhaps later.
        """
        if not self._plan.quiet or self._under_way:
            return None
        return self._plan.position

    def begin(self) -> None:
        """Begin at the beginning: others may have worked the outbox meanwhile."""
        self._plan.begin()

    def run_is_done(self) -> None:
        """The publisher is done with the first of its runs."""
        self._under_way.pop(0)

    def read(self) -> bool:
        """Read what comes next and hand it over; whether there was any."""
        self._look()
        started = time.monotonic()
        reading = self._plan.next(started, self._under_way)
        if reading is None:
            return False
        entries = self._due(reading)
        if not self._database.lease.valid:
            # The answer took long, and may do so each time.
            self._database.prove()
        self._plan.read(reading, entries)
        found = self._hand_over(reading, entries)
        if reading.sweep:
            if any(entry.ordering_key is not None for entry in entries):
                self._wake()
            self._plan.swept(started, time.monotonic())
        return found

    def _look(self) -> None:
        """See, if it is time to, whether anything has appeared in front of what is under way."""
        started, position = time.monotonic(), self._plan.position
        reading = self._plan.look(started, self._under_way)
        if reading is None or position is None:
            return
        under_way = set(chain.from_iterable(self._under_way))
        found, _ = self._ledger.visible(self._due(reading))
        has_seen = any(entry.id <= position and entry.id not in under_way for entry in found)
        self._plan.looked(started, time.monotonic(), has_seen=has_seen)

    def _due(self, reading: Reading) -> list[Entry]:
        """Read; a message that PostgreSQL itself cannot hand over is set aside."""
        while True:
            try:
                return self._outbox.due(
                    reading.after, reading.settled_id, reading.rows, reading.size
                )
            except psycopg.errors.QueryCanceled:
                if not self._plan.too_slow(reading):
                    raise
            except (
                psycopg.DataError,
                psycopg.errors.ProgramLimitExceeded,
                psycopg.errors.OutOfMemory,
            ) as error:
                # Too large, or not to be had in UTF-8.
                if not reading.shrink():
                    self._set_aside(reading, first_line(error))

    def _set_aside(self, reading: Reading, text: str) -> None:
        first = self._outbox.first_due(reading.after, reading.settled_id)
        if first is not None:
            self._ledger.set_aside(*first, text)

    def _hand_over(self, reading: Reading, found: list[Entry]) -> bool:
        """Have the publisher deliver what may be delivered now; whether there is any."""
        if not found:
            return False
        entries, hidden = self._ledger.visible(found)
        if reading.after is None:
            self._plan.hide(hidden, size_of(found) - size_of(entries) if hidden else 0)
        else:
            entries = self._without_late_keys(entries, reading.after)
        if not entries:
            return False
        self._under_way.append([entry.id for entry in entries])
        self._publisher.put(Run(entries, Encoder(self._publisher.frame_max)))
        return True

    def _without_late_keys(self, entries: list[Entry], after: int) -> list[Entry]:
        """Leave to a sweep what must not overtake messages that were committed only now.

        These have ids among those under way, where reading goes forward no more.
        """
        under_way = sorted(chain.from_iterable(self._under_way))
        if not under_way or all(entry.ordering_key is None for entry in entries):
            return entries
        late = self._outbox.late_keys(under_way, after)
        return [entry for entry in entries if entry.ordering_key not in late]

    def _wake(self) -> None:
        """Make ready what waited: of those with the same key, a sweep finds one."""
        deadline = time.monotonic() + _WAKING
        while self._outbox.wake() and time.monotonic() < deadline:
            pass
