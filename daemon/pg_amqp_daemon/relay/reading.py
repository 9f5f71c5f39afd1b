"""Where the outbox is read next, and how much at most: pure, it knows neither database nor clock.

Reading goes forward by id, behind what was read last; what appears further back (a transaction that
committed late, a dead letter that was put back, a message whose time has come) is found by sweeps
from the beginning. These come as often as they cost less than a twentieth of the time: at each look
when there is little to read over, more rarely when there is much that vacuum may not remove yet.
A sweep would find what is under way, too: it has to wait until nothing is, and meanwhile the broker
has nothing to do. So a look at the first few rows says whether there is anything to find.
"""

from __future__ import annotations

from collections.abc import Sequence

from pg_amqp_py.wire.fields import HEADERS
from pg_amqp_py.wire.waves import LARGEST_HEADERS, Entry

MOST_ROWS = 10_000
MOST_BYTES = 8 << 20
_MOST_HIDDEN_ROWS = 100_000
_MOST_HIDDEN_BYTES = 256 << 20
"""What is read beyond these limits because it was delivered and is locked, at most."""
_SWEEP_SHARE = 20
_LOOK_INTERVAL = 1.0
_LOOK_ROWS, _LOOK_BYTES = 500, 1 << 20
_LONGEST_WITHOUT_SWEEP = 10.0
"""Seconds, whatever the looks say: they do not see what is between messages that are under way."""
_MOST_UNDER_WAY = 2
"""Runs; while one is delivered, the next is read."""


def size_of(entries: Sequence[Entry]) -> int:
    """Bytes of messages, at least as many as amqp_inner.outbox_due() counts."""
    return sum(
        len(entry.body) + (LARGEST_HEADERS if entry.fields[HEADERS] is not None else 0)
        for entry in entries
    )


class Reading:
    """One reading: messages behind the id `after`, so many rows and bytes at most.

    Without `after` it is a sweep. `settled_id` is the id up to which nothing is pending any more.
    """

    def __init__(self, after: int | None, settled_id: int, rows: int, size: int) -> None:
        self.after = after
        self.settled_id = settled_id
        self.rows = rows
        self.size = size
        self._whole = rows

    @property
    def sweep(self) -> bool:
        """Whether it begins at the beginning."""
        return self.after is None

    def shrink(self) -> bool:
        """Read less, to find the one message that cannot be read.

        False if there was one left: that is it, and the rest can be read as before.
        """
        if self.rows > 1:
            self.rows = max(self.rows // 10, 1)
            return True
        self.rows = self._whole
        return False

    def begin_with(self, rows: int) -> None:
        """Read so many rows at most."""
        self.rows = self._whole = rows


class Plan:
    """What was read of one broker's outbox, and what is to be read next."""

    def __init__(self) -> None:
        self.position: int | None = None
        """Id up to which everything visible was read."""
        self._rows = MOST_ROWS
        """How many are read at once, less than these where reading takes long."""
        self._hidden = (0, 0)
        """Messages, and bytes, that the last sweep has found and that are delivered, but locked."""
        self._next_sweep = 0.0
        self._latest_sweep = 0.0
        self._next_look = 0.0
        self._has_seen = False
        """Whether the latest look has seen something for a sweep."""
        self.quiet = False
        """Whether the last sweep has found nothing, nor has any reading since."""

    def begin(self) -> None:
        """Begin at the beginning: others may have worked the outbox meanwhile."""
        self.position = None
        self.quiet = False
        self._next_sweep = 0.0

    def next(self, now: float, under_way: Sequence[Sequence[int]]) -> Reading | None:
        """What to read now; None if nothing. `under_way` has the ids of runs, in order."""
        if len(under_way) >= _MOST_UNDER_WAY:
            return None
        idle = not under_way
        due = now >= self._next_sweep
        overdue = self._has_seen or now - self._latest_sweep > _LONGEST_WITHOUT_SWEEP
        if due and not idle and overdue:
            # A sweep would find what is under way.
            return None
        if self.position is None or (idle and due):
            return self._sweep(self._rows, MOST_BYTES)
        settled_id = self.position if idle else min(ids[0] for ids in under_way) - 1
        return Reading(self.position, settled_id, self._rows, MOST_BYTES)

    def look(self, now: float, under_way: Sequence[Sequence[int]]) -> Reading | None:
        """What to read to see whether a sweep would find anything; None if it is not time to."""
        if not under_way or now < max(self._next_look, self._next_sweep):
            return None
        return self._sweep(min(self._rows, _LOOK_ROWS), _LOOK_BYTES)

    def looked(self, started: float, now: float, *, has_seen: bool) -> None:
        """A look took from `started` until now, and has seen something for a sweep, or not."""
        self._has_seen = has_seen
        self._next_look = now + max(_LOOK_INTERVAL, _SWEEP_SHARE * (now - started))

    def _sweep(self, rows: int, size: int) -> Reading:
        more_rows, more_bytes = self._hidden
        return Reading(None, -1, rows + more_rows, size + more_bytes)

    def too_slow(self, reading: Reading) -> bool:
        """It took too long, and may do so the next time: read less. False if that cannot be."""
        if reading.rows == 1:
            return False
        self._rows = max(reading.rows // 10, 1)
        reading.begin_with(self._rows)
        return True

    def read(self, reading: Reading, entries: Sequence[Entry]) -> None:
        """This was found."""
        self._rows = min(self._rows * 2, MOST_ROWS)
        last = entries[-1].id if entries else None
        self.quiet = not entries and (reading.sweep or self.quiet)
        if not reading.sweep:
            self.position = self.position if last is None else last
        elif len(entries) >= reading.rows or size_of(entries) >= reading.size:
            # There may be more: what is behind comes next.
            self.position = last
        else:
            self.position = max(last or 0, self.position or 0)

    def hide(self, rows: int, size: int) -> None:
        """So much of a sweep is settled as soon as nobody has it locked any more.

        Read again at every sweep, it must not keep this one from finding others.
        """
        self._hidden = min(rows, _MOST_HIDDEN_ROWS), min(size, _MOST_HIDDEN_BYTES)

    def swept(self, started: float, now: float) -> None:
        """A sweep took from `started` until now."""
        self._latest_sweep = now
        self._has_seen = False
        self._next_look = now + _LOOK_INTERVAL
        self._next_sweep = now + _SWEEP_SHARE * (now - started)
