"""One broker's outbox: take its lock, read what is due, have it delivered, report the outcome.

While the publisher's thread delivers one run, the next is read and encoded. Reading goes forward by
id, behind what was read last; what appears further back (a transaction that committed late, a dead
letter that was put back, a message whose time has come) is found by sweeps from the beginning.
These come as often as they cost less than a twentieth of the time: at each look when there is
little to read over, more rarely when there is much that vacuum may not remove yet.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from itertools import chain

import psycopg
import structlog

from pg_amqp_daemon.relay.ledger import Ledger
from pg_amqp_daemon.relay.outbox import Outbox, relay_database
from pg_amqp_daemon.relay.publisher import Publisher
from pg_amqp_daemon.runtime.brokers import addresses_of_brokers
from pg_amqp_daemon.runtime.database import first_line
from pg_amqp_daemon.runtime.logs import name_of
from pg_amqp_daemon.runtime.metrics import Metrics
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.ordered import LARGEST_HEADERS, Entry, Run

_POLL = 0.01
"""Seconds between looks at an empty outbox: half of it, on average, is a message's latency."""
_LOCK_POLL = 0.5
_HEARTBEAT = 0.5
_MOST_ROWS = 10_000
_MOST_BYTES = 8 << 20
_MOST_HIDDEN_ROWS = 100_000
_MOST_HIDDEN_BYTES = 256 << 20
"""What is read beyond these limits because it was delivered and is locked, at most."""
_HEADERS = Envelope._fields.index("headers")
_WAKING = 1.0
"""Seconds that a sweep spends at most on making ready what waited."""
_SWEEP_SHARE = 20
_LONGEST_WITHOUT_SWEEP = 1.0
_COMPACT_INTERVAL = 5.0
_COMPACT_REFUSED_INTERVAL = 300.0
_ADDRESS_INTERVAL = 1.0
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 2.0


class Worker:
    """A broker's outbox, worked for ever, or, if `once`, until nothing in it is due."""

    def __init__(self, dsn: str, broker_id: int, metrics: Metrics, *, once: bool = False) -> None:
        self.broker_id = broker_id
        self.leading = False
        self.failure: str | None = None
        """Why `once` was given up."""
        self._database = relay_database(dsn)
        self._outbox = Outbox(self._database, broker_id)
        self._publisher = Publisher(broker_id, self._database.lease)
        self._metrics = metrics
        self._once = once
        self._stopping = threading.Event()
        self._ledger = Ledger(broker_id, self._outbox, metrics)
        self.session_trouble: str | None = None
        """Why the last session ended, until another one has read and settled."""
        self._backoff = 0.0
        self._rows = _MOST_ROWS
        """How many are read at once, less than these where reading takes long."""
        self._hidden = (0, 0)
        """Messages, and bytes, that the last sweep has found and that are delivered, but locked."""
        self._refused_to_compact: str | None = None
        self._position: int | None = None
        """Id up to which everything visible was read."""
        self._cut = False
        """Whether the last reading left something that it would have found without its limits."""
        self._keyed = False
        """Whether the last reading found any ordering key."""
        self._under_way: list[list[int]] = []
        """Ids of the runs that the publisher has, in order."""
        self._next_sweep = 0.0
        self._latest_sweep = 0.0
        self._next_compact = 0.0
        self._next_addresses = 0.0
        self._noted: str | None = ""
        """The trouble that outbox_status() shows; empty if that is not known."""
        self._log = structlog.get_logger().bind(broker_id=broker_id)
        self.thread = threading.Thread(target=self._work, name=f"worker-{broker_id}", daemon=True)
        self.thread.start()

    @property
    def trouble(self) -> str | None:
        """What keeps messages from being delivered or settled now."""
        return (
            self.failure or self.session_trouble or self._publisher.trouble or self._ledger.trouble
        )

    @property
    def delivered(self) -> int:
        """How many messages it has delivered."""
        return self._ledger.delivered

    @property
    def alive(self) -> bool:
        """Whether its threads work."""
        return self.thread.is_alive() and self._publisher.alive

    @property
    def connected(self) -> bool:
        """Whether the broker is connected."""
        return self._publisher.connected

    def stop(self) -> None:
        """Finish what is being written, report it, and end."""
        self._stopping.set()
        self._publisher.stop()

    def abort(self) -> None:
        """End at once."""
        self._publisher.abort()

    def unblock(self) -> None:
        """Give up a database that does not answer."""
        self._database.unblock()

    # -- in the thread -----------------------------------------------------------------

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._database.connected():
                    self._work_in_session()
            except psycopg.Error as error:
                text = first_line(error)
                self.session_trouble = text
                self._log.warning("database not usable", error=text)
                if self._once:
                    self.failure = text
                    break
            except Exception as error:
                # A defect of ours must not end the relay.
                self.session_trouble = f"defect: {type(error).__name__}"
                self._log.exception("relay failed", error=name_of(error))
            finally:
                self.leading = False
                self._metrics.leading.labels(self.broker_id).set(0)
            # Before the next session: with its lock, the publisher would go on, and in between
            # another relay may have had the lock.
            while self._publisher.under_way:
                self._take(0.5)
            self._backoff = min(max(self._backoff * 2, _FIRST_BACKOFF), _LONGEST_BACKOFF)
            self._stopping.wait(self._backoff * random.uniform(0.5, 1.0))
        self._publisher.stop()
        self._publisher.join(1.0)

    def _work_in_session(self) -> None:
        try:
            self._stand_by()
            self._lead()
        except psycopg.Error as error:
            # Whoever looks at outbox_status() shall know, as far as the database takes it.
            with suppress(psycopg.Error):
                self._outbox.note(first_line(error))
            raise

    def _stand_by(self) -> None:
        """Wait for the lock."""
        waiting = False
        while not self._outbox.lock():
            if self._once:
                self.failure = "another relay works this outbox"
                self._stopping.set()
            if not waiting:
                self._log.info("standing by: another relay works this outbox")
                waiting = True
            self._well()
            if self._stopping.wait(_LOCK_POLL):
                return
        self.leading = True
        self._metrics.leading.labels(self.broker_id).set(1)
        self._log.info("working the outbox")

    def _lead(self) -> None:
        self._ledger.settle()
        self._noted = ""
        self._position = None
        self._next_sweep = self._next_addresses = 0.0
        while self.leading and not self._stopping.is_set():
            self._look_after_the_rest()
            found = self._read()
            if found:
                self._collect(0.0)
            elif self._publisher.under_way:
                self._collect(_HEARTBEAT)
            else:
                self._well()
                if self._once:
                    self._stopping.set()
                self._collect(_POLL)
            if self._once and self._publisher.trouble and not self._publisher.connected:
                self.failure = self._publisher.trouble
                self.stop()
        while self._publisher.under_way:
            self._collect(_HEARTBEAT)
        if self._once:
            self.failure = self.failure or self.trouble

    def _well(self) -> None:
        """The database lets itself be read, and takes what became of messages."""
        self.session_trouble = None
        self._backoff = 0.0

    def _look_after_the_rest(self) -> None:
        """Hosts that changed, errors to be remembered, space to be given back."""
        now = time.monotonic()
        if now >= self._next_addresses:
            self._next_addresses = now + _ADDRESS_INTERVAL
            self._publisher.configure(addresses_of_brokers(self._database).get(self.broker_id, []))
        trouble = self._publisher.trouble or self._ledger.trouble
        if self.session_trouble is None and trouble != self._noted:
            # Somebody may have locked its row: then it is noted later.
            with suppress(psycopg.errors.LockNotAvailable):
                self._outbox.note(trouble)
                self._noted = trouble
        if now >= self._next_compact and not self._publisher.under_way:
            self._compact()

    def _compact(self) -> None:
        interval = _COMPACT_INTERVAL
        try:
            if self._outbox.compact():
                self._log.info("gave back the space of the outbox")
        except psycopg.Error as error:
            if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
                # The session is gone.
                raise
            text = first_line(error)
            if text != self._refused_to_compact:
                self._log.warning("could not give back the space of the outbox", error=text)
            self._refused_to_compact = text
            interval = _COMPACT_REFUSED_INTERVAL
        self._next_compact = time.monotonic() + interval

    def _read(self) -> bool:
        """Read what comes next and hand it over; whether there was any."""
        now = time.monotonic()
        if self._publisher.under_way >= 2:
            return False
        idle = not self._publisher.under_way
        overdue = now - self._latest_sweep > _LONGEST_WITHOUT_SWEEP and now >= self._next_sweep
        if overdue and not idle:
            # A sweep would find what is under way.
            return False
        sweep = self._position is None or (idle and now >= self._next_sweep)
        if sweep:
            return self._sweep()
        settled = self._position if idle else min(ids[0] for ids in self._under_way) - 1
        assert settled is not None
        return self._hand_over(self._position, settled)

    def _sweep(self) -> bool:
        started = time.monotonic()
        before = self._position
        self._position = None
        found = self._hand_over(None, -1)
        if self._keyed:
            # Of those with the same key that waited, a sweep finds one.
            deadline = time.monotonic() + _WAKING
            while self._outbox.wake() and time.monotonic() < deadline:
                pass
        self._latest_sweep = time.monotonic()
        self._next_sweep = self._latest_sweep + _SWEEP_SHARE * (self._latest_sweep - started)
        if not self._cut:
            self._position = max(self._position or 0, before or 0)
        return found

    def _hand_over(self, after: int | None, settled: int) -> bool:
        entries = self._due(after, settled)
        if not self._database.lease.valid:
            # The answer took long, and may do so each time.
            self._database.prove()
        size = _size(entries)
        self._keyed = False
        if not entries:
            return False
        self._position = entries[-1].id
        self._keyed = any(entry.ordering_key is not None for entry in entries)
        entries, hidden = self._ledger.visible(entries)
        if after is None:
            # Read again at every sweep, it must not keep this one from finding others.
            self._hidden = (
                min(hidden, _MOST_HIDDEN_ROWS),
                min(size - _size(entries), _MOST_HIDDEN_BYTES) if hidden else 0,
            )
        else:
            entries = self._without_late_keys(entries, after)
        if not entries:
            return False
        run = Run(entries, Encoder(self._publisher.frame_max))
        self._under_way.append([entry.id for entry in entries])
        self._publisher.put(run)
        return True

    def _due(self, after: int | None, settled: int) -> list[Entry]:
        """Read; a message that PostgreSQL itself cannot hand over is set aside."""
        hidden_rows, hidden_bytes = self._hidden if after is None else (0, 0)
        size = _MOST_BYTES + hidden_bytes
        rows = most = self._rows + hidden_rows
        while True:
            try:
                entries = self._outbox.due(after, settled, rows, size)
                break
            except psycopg.errors.QueryCanceled:
                # It took too long, and may do so the next time.
                if rows == 1:
                    raise
                rows = most = self._rows = max(rows // 10, 1)
            except (
                psycopg.DataError,
                psycopg.errors.ProgramLimitExceeded,
                psycopg.errors.OutOfMemory,
            ) as error:
                # Too large, or not to be had in UTF-8: the one among many is found by reading less.
                rows //= 10
                if rows == 0:
                    self._set_aside(after, settled, first_line(error))
                    rows = most
        self._cut = len(entries) >= rows or _size(entries) >= size
        self._rows = min(self._rows * 2, _MOST_ROWS)
        return entries

    def _set_aside(self, after: int | None, settled: int, text: str) -> None:
        first = self._outbox.first_due(after, settled)
        if first is not None:
            self._ledger.set_aside(*first, text)

    def _without_late_keys(self, entries: list[Entry], after: int) -> list[Entry]:
        """Leave to a sweep what must not overtake messages that were committed only now.

        These have ids among those under way, where reading goes forward no more.
        """
        under_way = sorted(chain.from_iterable(self._under_way))
        if not under_way or all(entry.ordering_key is None for entry in entries):
            return entries
        late = self._outbox.late_keys(under_way, after)
        return [entry for entry in entries if entry.ordering_key not in late]

    def _collect(self, timeout: float) -> None:
        """Wait for what becomes of messages, and report it; prove meanwhile that we are there."""
        if not self._take(timeout) and timeout >= _HEARTBEAT:
            self._database.prove()
        if not self._ledger.complete:
            self._ledger.settle()
            if self._noted is not None:
                # Settling may have ended the trouble, as far as outbox_status() knows.
                self._noted = ""
            self._well()

    def _take(self, timeout: float) -> bool:
        """Wait for what becomes of messages; whether there is any news."""
        outcome = self._publisher.get(timeout)
        if outcome is None:
            return False
        if outcome.done:
            self._under_way.pop(0)
        self._ledger.add(outcome)
        return True


def _size(entries: list[Entry]) -> int:
    """At least as much as amqp.outbox_due() counts."""
    return sum(
        len(entry.body) + (LARGEST_HEADERS if entry.fields[_HEADERS] is not None else 0)
        for entry in entries
    )
