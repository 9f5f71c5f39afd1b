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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format
from psycopg.types.numeric import Int4, Int8
from psycopg.types.string import StrBinaryDumper

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.ordered import Entry, Refusal

LEASE = 3.0
_MARGIN = 1.0
_SLOWEST = 300.0
"""Seconds after which a query that is not answered is given up, and the session with it."""

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
    "statement_timeout": "0",
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
_SAME = """
SELECT o.id FROM unnest(%s::int8[], %s::text[]) AS u (id, message_id)
JOIN amqp.outbox AS o ON o.id = u.id AND o.message_id = u.message_id
"""
_ENVELOPE = slice(2, 18)


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

    def _ask(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        connection = self._connection
        assert connection is not None
        self._asked_at = asked_at = time.monotonic()
        try:
            cursor = connection.cursor(binary=True).execute(query.encode(), arguments)
            rows = cursor.fetchall()
        finally:
            self._asked_at = None
        if self._locked:
            self.lease.prove(asked_at)
        return rows

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
            self.settle(broker_id, [], [], {})
        return bool(locked)

    def due(
        self, broker_id: int, after: int | None, settled: int, rows: int, size: int
    ) -> list[Entry]:
        """What is to be delivered next: see amqp.outbox_due()."""
        found = self._ask(
            "SELECT * FROM amqp.outbox_due(%s, %s::int8, %s, %s, %s)",
            Int4(broker_id),
            None if after is None else Int8(after),
            Int8(settled),
            Int4(rows),
            Int8(size),
        )
        return [Entry(row[0], row[1], row[_ENVELOPE], row[-1]) for row in found]

    def first_due(self, broker_id: int, after: int | None, settled: int) -> tuple[int, str] | None:
        """The id and message_id of the message that `due` would give first."""
        found = self._ask(
            "SELECT id, message_id FROM amqp.outbox_due(%s, %s::int8, %s, 1, 1)",
            Int4(broker_id),
            None if after is None else Int8(after),
            Int8(settled),
        )
        return found[0] if found else None

    def wake(self, broker_id: int) -> None:
        """Let what waited and is due be read in order of id: see amqp.outbox_wake()."""
        self._ask("SELECT amqp.outbox_wake(%s)", Int4(broker_id))

    def late_keys(self, broker_id: int, under_way: Sequence[int], last: int) -> set[str]:
        """Ordering keys of messages that became visible among those under way, or behind them.

        That is, up to the id `last`, and ready to be delivered.
        """
        found = self._ask(_LATE, Int4(broker_id), Int8(under_way[0]), Int8(last), list(under_way))
        return {key for (key,) in found}

    def still_there(self, messages: Mapping[int, object]) -> set[int]:
        """Which ids, of these with their message_id, are in the outbox and have that message_id."""
        return {found for (found,) in self._ask(_SAME, list(messages), list(messages.values()))}

    def settle(
        self,
        broker_id: int,
        delivered: Sequence[int],
        refused: Sequence[Refusal],
        message_ids: Mapping[int, object],
    ) -> None:
        """Report what became of messages, all of which `message_ids` knows.

        See amqp.outbox_settle().
        """
        self._ask(
            "SELECT amqp.outbox_settle(%s, %s::int8[], %s::text[], %s::int8[], %s::text[],"
            " %s::text[], %s::text[])",
            Int4(broker_id),
            list(delivered),
            [message_ids[one] for one in delivered],
            [refusal.id for refusal in refused],
            [message_ids[refusal.id] for refusal in refused],
            [refusal.verdict for refusal in refused],
            [self._storable(refusal.text) for refusal in refused],
        )

    def note(self, broker_id: int, error: str) -> None:
        """Remember an error for amqp.outbox_status()."""
        self._ask("SELECT amqp.outbox_note(%s, %s)", Int4(broker_id), self._storable(error))

    def _storable(self, text: str) -> str:
        """The text as any database can store it: the broker says whatever it likes."""
        assert self._connection is not None
        if self._connection.info.parameter_status("server_encoding") != "UTF8":
            text = text.encode("ascii", "backslashreplace").decode()
        return text.replace("\0", "")

    def compact(self) -> bool:
        """Give back the space of a table that is large and nearly empty."""
        ((done,),) = self._ask("SELECT amqp.outbox_compact()")
        return bool(done)

    def status(self) -> list[tuple[int, int, int, float, int]]:
        """For every broker: pending, of these waiting, seconds of the oldest, dead letters."""
        return self._ask(
            "SELECT broker_id, pending, waiting,"
            " COALESCE(date_part('epoch', oldest_age), 0)::float8, dead FROM amqp.outbox_status()"
        )
