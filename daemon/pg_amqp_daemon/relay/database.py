"""A relay's session in PostgreSQL, and the proof that it still holds its lock.

The lock of an outbox is an advisory lock: it goes with the session. So that it goes in time when
the network hangs, the server is told to end a session that is idle for LEASE seconds
(idle_session_timeout), and the relay delivers nothing when its last query that was answered is
older than a little less than that: by then another relay may have the lock.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format
from psycopg.types.numeric import Int4, Int8
from psycopg.types.string import StrBinaryDumper

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.fields import FIELDS
from pg_amqp_py.wire.waves import Entry, Undelivered

LEASE = 3.0
_MARGIN = 1.0
_SLOWEST = 10.0
"""Seconds after which a query that is not answered is given up, and the session with it: TCP may
go on acknowledging for a peer that does nothing any more, and another relay may have the lock."""

_SETTINGS = {
    "idle_session_timeout": f"{LEASE:g}s",
    # A server whose answers are not taken any more must notice, too.
    "tcp_user_timeout": f"{LEASE:g}s",
    "tcp_keepalives_idle": "1",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "2",
    # A relay that is gone must not keep its lock while its last query waits for somebody else's.
    "client_connection_check_interval": "1s",
    "lock_timeout": "5s",
    # Before _SLOWEST, so that a query which merely takes long fails as such.
    "statement_timeout": "8s",
    "transaction_timeout": "0",
    "search_path": "pg_catalog",
    "default_transaction_isolation": "read committed",
    # See amqp.outbox_due().
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "jit": "off",
    # Room for what outbox_due() looks at.
    "work_mem": "64MB",
    "plan_cache_mode": "force_generic_plan",
}
_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
_BROKERS = """
SELECT broker_id, host, port, COALESCE(vhost, '/'), COALESCE(username, 'guest'),
       COALESCE(password, 'guest'), ssl, ssl_cacert, ssl_cert, ssl_key, ssl_verify_peer,
       ssl_verify_hostname
FROM ONLY amqp.broker ORDER BY broker_id, host, port
"""
_LATE = """
SELECT DISTINCT o.ordering_key FROM amqp.outbox AS o
WHERE o.broker_id = %s AND o.id BETWEEN %s AND %s AND o.next_attempt_at IS NULL
  AND o.ordering_key IS NOT NULL
  AND NOT EXISTS (SELECT FROM unnest(%s::int8[]) AS u (id) WHERE u.id = o.id)
"""
# A commit with synchronous_commit = off is seen before it is on disk. One of our own that waits for
# the disk takes it along. Where all is flushed, this writes nothing. A row of its own, since
# somebody may have locked another one.
_FLUSH = """
INSERT INTO amqp.outbox_progress AS p (broker_id, second, messages)
SELECT %s, clock_timestamp(), 0
WHERE pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()
  AND set_config('synchronous_commit',
                 COALESCE(NULLIF(current_setting('synchronous_commit'), 'off'), 'on'), true) <> ''
ON CONFLICT DO NOTHING
"""
FREED = 10_000
"""How many messages free() frees at once, at most."""
_FREE = f"""
UPDATE amqp.outbox SET next_attempt_at = clock_timestamp()
WHERE id = ANY (ARRAY(
    SELECT o.id FROM amqp.outbox AS o
    WHERE o.broker_id = %s AND o.next_attempt_at > clock_timestamp()
      AND o.last_error = ANY (%s::text[])
    ORDER BY o.next_attempt_at LIMIT {FREED} FOR UPDATE SKIP LOCKED))
RETURNING 1
"""
_DUE = f"""
SELECT id, ordering_key, body, {", ".join(f'"{name}"' for name in FIELDS)}
FROM amqp.outbox_due(%s, %s::int8, %s, %s, %s)
"""


class Status(NamedTuple):
    """A line of amqp.outbox_status()."""

    broker_id: int
    pending: int
    waiting: int
    """Of the pending messages, those that wait for a time or another attempt."""
    oldest: float
    """Age of the oldest one in seconds."""
    dead: int
    relay: str | None
    """Who works it."""
    trouble: str | None


def words(error: psycopg.Error) -> str:
    """What PostgreSQL or libpq says, in one line."""
    return str(error).strip().partition("\n")[0]


class Lease:
    """Until when this relay may deliver: the thread that asks tells the one that delivers."""

    def __init__(self) -> None:
        self._until = 0.0

    @property
    def valid(self) -> bool:
        """Whether the lock is certainly held."""
        return time.monotonic() < self._until

    def prove(self, asked_at: float) -> None:
        """A query sent at `asked_at` (time.monotonic()) was answered: there was a session."""
        self._until = asked_at + LEASE - _MARGIN

    def revoke(self) -> None:
        """The session is gone, or about to be."""
        self._until = 0.0


class _Text(Loader):
    """Text that should be UTF-8; what is not is left for the encoder of a message to refuse."""

    format = Format.BINARY

    def load(self, data: Buffer) -> str:
        return bytes(data).decode("utf-8", "surrogateescape")


class _Dumper(StrBinaryDumper):
    def dump(self, obj: str) -> bytes:
        return obj.encode("utf-8", "surrogateescape")


def _use_utf8(connection: psycopg.Connection[Any]) -> None:
    """Exchange text as UTF-8.

    An SQL_ASCII database may hold anything: asked for UTF-8, the server would fail with all rows
    because of one.
    """
    if connection.info.parameter_status("server_encoding") != "SQL_ASCII":
        connection.execute("SET client_encoding = 'UTF8'")
        return
    connection.execute("SET client_encoding = 'SQL_ASCII'")
    connection.adapters.register_loader("text", _Text)
    connection.adapters.register_dumper(str, _Dumper)


class Database:
    """One session. Used by one thread; `unblock` may be called by another.

    Raises psycopg.Error.
    """

    def __init__(self, dsn: str, purpose: str = "") -> None:
        self._dsn = dsn
        self._name = f"pg-amqp relay {os.getpid()} on {socket.gethostname()}{purpose}"
        self._connection: psycopg.Connection[Any] | None = None
        self._asked_at: float | None = None
        self._locked = False
        self._guard = threading.Lock()
        self.lease = Lease()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Connect, and disconnect at the end; the lease ends with it."""
        given = conninfo_to_dict(self._dsn)
        defaults = {name: value for name, value in _DEFAULTS.items() if name not in given}
        conninfo = make_conninfo(self._dsn, **defaults, application_name=self._name)
        with psycopg.connect(conninfo, autocommit=True, prepare_threshold=0) as connection:
            _use_utf8(connection)
            for name, value in _SETTINGS.items():
                # Some are not known to every server.
                connection.execute(
                    "SELECT set_config(name, %s, false) FROM pg_settings WHERE name = %s",
                    [value, name],
                )
            self._connection = connection
            self._locked = False
            try:
                yield
            finally:
                self.lease.revoke()
                with self._guard:
                    self._connection = None

    def unblock(self) -> None:
        """Break the session if it has not answered for long; its thread gets an error."""
        asked_at = self._asked_at
        if asked_at is not None and time.monotonic() - asked_at > _SLOWEST:
            with self._guard, suppress(OSError, psycopg.Error):
                if self._connection is not None:
                    with socket.socket(fileno=os.dup(self._connection.fileno())) as same:
                        same.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def _asking(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """The session, to ask something of it: unblock() watches, and the answer proves it."""
        connection = self._connection
        assert connection is not None
        self._asked_at = asked_at = time.monotonic()
        try:
            yield connection
        finally:
            self._asked_at = None
        if self._locked:
            self.lease.prove(asked_at)

    def _ask(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        with self._asking() as connection:
            cursor = connection.cursor(binary=True).execute(query.encode(), arguments)
            return cursor.fetchall() if cursor.description else []

    def prove(self) -> None:
        """Ask for nothing but an answer."""
        self._ask("SELECT 1")

    def brokers(self) -> dict[int, list[Address]]:
        """The hosts of every broker, in the order in which they are tried."""
        found: dict[int, list[Address]] = {}
        for broker_id, *fields in self._ask(_BROKERS):
            found.setdefault(broker_id, []).append(Address(*fields))
        return found

    def lock(self, broker_id: int) -> bool:
        """Try to become the one that works a broker's outbox."""
        ((locked,),) = self._ask("SELECT amqp.outbox_lock(%s)", Int4(broker_id))
        if locked:
            self._locked = True
            # What would fail afterwards shall fail before anything is sent.
            self.settle(broker_id, [], [], [], [])
        return bool(locked)

    def due(
        self, broker_id: int, after: int | None, settled: int, rows: int, size: int
    ) -> list[Entry]:
        """What is to be delivered next: see amqp.outbox_due()."""
        found = self._ask(
            _DUE,
            Int4(broker_id),
            None if after is None else Int8(after),
            Int8(settled),
            Int4(rows),
            Int8(size),
        )
        if found:
            # What a crash of the server could still take back must not be sent.
            self._ask(_FLUSH, Int4(broker_id))
        return [Entry(number, key, tuple(fields), body) for number, key, body, *fields in found]

    def first_due(self, broker_id: int, after: int | None, settled: int) -> tuple[int, str] | None:
        """The id and message_id of the message that `due` would give first."""
        found = self._ask(
            "SELECT id, message_id FROM amqp.outbox_due(%s, %s::int8, %s, 1, 1)",
            Int4(broker_id),
            None if after is None else Int8(after),
            Int8(settled),
        )
        return (found[0][0], found[0][1]) if found else None

    def wake(self, broker_id: int) -> int:
        """Let what waited and is due be read in order of id; how many: see amqp.outbox_wake()."""
        ((woken,),) = self._ask("SELECT amqp.outbox_wake(%s)", Int4(broker_id))
        return int(woken)

    def late_keys(self, broker_id: int, under_way: Sequence[int], last: int) -> set[str]:
        """Ordering keys of messages that became visible among those under way, or behind them.

        That is, up to the id `last`, and ready to be delivered.
        """
        found = self._ask(_LATE, Int4(broker_id), Int8(under_way[0]), Int8(last), list(under_way))
        return {key for (key,) in found}

    def settle(
        self,
        broker_id: int,
        delivered: Sequence[int],
        delivered_message_ids: Sequence[object],
        refused: Sequence[Undelivered],
        refused_message_ids: Sequence[object],
    ) -> list[int]:
        """Report what became of messages: see amqp.outbox_settle().

        Returns the ids of those that somebody has locked.
        """
        ((locked,),) = self._ask(
            "SELECT amqp.outbox_settle(%s, %s::int8[], %s::text[], %s::int8[], %s::text[],"
            " %s::text[], %s::text[])",
            Int4(broker_id),
            list(delivered),
            list(delivered_message_ids),
            [refusal.id for refusal in refused],
            list(refused_message_ids),
            [refusal.verdict for refusal in refused],
            [self._storable(refusal.text) for refusal in refused],
        )
        return list(locked)

    def free(self, broker_id: int, errors: Sequence[str]) -> int:
        """Let those try again at once that wait because of these errors; how many there were.

        FREED at most; and not what somebody has locked, which comes when its time has come.
        """
        texts = [self._storable(error) for error in errors]
        return len(self._ask(_FREE, Int4(broker_id), texts))

    def note(self, broker_id: int, error: str | None) -> None:
        """Remember for amqp.outbox_status() what keeps messages from being delivered, or that
        nothing does any more.
        """
        text = None if error is None else self._storable(error)
        self._ask("SELECT amqp.outbox_note(%s, %s::text)", Int4(broker_id), text)

    def _storable(self, text: str) -> str:
        """The text as any database can store it: the broker says whatever it likes."""
        assert self._connection is not None
        if self._connection.info.parameter_status("server_encoding") != "UTF8":
            text = text.encode("ascii", "backslashreplace").decode()
        return text.replace("\0", "")

    def compact(self) -> bool:
        """Give back the space of a table that is large and nearly empty; whether it was.

        With FREEZE, what is put back is visible to snapshots that are older, of a pg_dump for
        instance; TRUNCATE alone would let them see an empty table.
        """
        with self._asking() as connection, connection.transaction():
            cursor = connection.cursor(binary=True)
            cursor.execute("SELECT amqp.outbox_lock_to_compact()")
            if cursor.fetchone() != (True,):
                return False
            with cursor.copy("COPY amqp.outbox TO STDOUT (FORMAT binary)") as taken:
                alive = [bytes(part) for part in taken]
            cursor.execute("TRUNCATE amqp.outbox")
            with cursor.copy("COPY amqp.outbox FROM STDIN (FORMAT binary, FREEZE)") as given:
                for part in alive:
                    given.write(part)
        return True

    def status(self) -> list[Status]:
        """What is in the outbox, for every broker."""
        return [
            Status(*row)
            for row in self._ask(
                "SELECT broker_id, pending, waiting,"
                " COALESCE(date_part('epoch', oldest_age), 0)::float8, dead, relay, trouble"
                " FROM amqp.outbox_status()"
            )
        ]
