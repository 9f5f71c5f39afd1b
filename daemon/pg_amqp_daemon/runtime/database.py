"""A session in PostgreSQL that knows when it was last answered, and can be broken off."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format
from psycopg.types.string import StrBinaryDumper

from pg_amqp_daemon.runtime.lease import LEASE, Lease

_SLOWEST = 10.0
"""Seconds after which a query that is not answered is given up, and the session with it: TCP may
go on acknowledging for a peer that does nothing any more, and another program may have the lock."""

_SETTINGS = {
    # What holds a lock and says nothing any more must not keep it: see Lease.
    "idle_session_timeout": f"{LEASE:g}s",
    # A server whose answers are not taken any more must notice, too.
    "tcp_user_timeout": f"{LEASE:g}s",
    "tcp_keepalives_idle": "1",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "2",
    # A program that is gone must not keep its lock while its last query waits for somebody else's.
    "client_connection_check_interval": "1s",
    "lock_timeout": "5s",
    # Before _SLOWEST, so that a query which merely takes long fails as such.
    "statement_timeout": "8s",
    "transaction_timeout": "0",
    "search_path": "pg_catalog",
    "default_transaction_isolation": "read committed",
}
_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}


def first_line(error: psycopg.Error) -> str:
    """What PostgreSQL or libpq says, in one line."""
    return str(error).strip().partition("\n")[0]


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
    """One session at a time. Used by one thread; `unblock` may be called by another.

    `purpose` is what pg_stat_activity shows of it, beside process and host; `settings` are what
    its session needs beyond those of every session, or in their place (None: the role's own).
    After `patience` seconds without an answer it is broken off. Raises psycopg.Error.
    """

    def __init__(
        self,
        dsn: str,
        purpose: str,
        part: str = "",
        settings: Mapping[str, str | None] | None = None,
        patience: float = _SLOWEST,
    ) -> None:
        self.lease = Lease()
        """Of the lock that this session has, if it has one."""
        self._dsn = dsn
        self._patience = patience
        self.name = f"pg-amqp {purpose} {os.getpid()} on {socket.gethostname()}{part}"
        """What pg_stat_activity shows, if it is not cut short there."""
        self._settings: dict[str, str | None] = {**_SETTINGS, **(settings or {})}
        self._connection: psycopg.Connection[Any] | None = None
        self._asked_at: float | None = None
        self._guard = threading.Lock()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Connect, and disconnect at the end; the lease ends with it."""
        given = conninfo_to_dict(self._dsn)
        defaults = {name: value for name, value in _DEFAULTS.items() if name not in given}
        conninfo = make_conninfo(self._dsn, **defaults, application_name=self.name)
        with psycopg.connect(conninfo, autocommit=True, prepare_threshold=0) as connection:
            _use_utf8(connection)
            # Functions of others may LISTEN: what nobody takes would be kept for ever.
            connection.add_notify_handler(lambda _: None)
            for name, value in self._settings.items():
                # Some are not known to every server.
                # NULL is the role's own.
                connection.execute(
                    "SELECT set_config(name, %s, false) FROM pg_settings WHERE name = %s",
                    [value, name],
                )
            self._connection = connection
            try:
                yield
            finally:
                self.lease.revoke()
                with self._guard:
                    self._connection = None

    def unblock(self) -> None:
        """Break the session if it has not answered for long; its thread gets an error."""
        asked_at = self._asked_at
        if asked_at is not None and time.monotonic() - asked_at > self._patience:
            with self._guard, suppress(OSError, psycopg.Error):
                if self._connection is not None:
                    with socket.socket(fileno=os.dup(self._connection.fileno())) as same:
                        same.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def asking(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """The session, to ask something of it: unblock() watches, and the answer is a proof."""
        connection = self._connection
        assert connection is not None
        self._asked_at = asked_at = time.monotonic()
        try:
            yield connection
        finally:
            self._asked_at = None
        self.lease.answered(asked_at)

    def ask(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Execute a query; its rows."""
        with self.asking() as connection:
            cursor = connection.cursor(binary=True).execute(query.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    def copy(self, statement: str, data: bytes) -> None:
        """Execute a COPY FROM STDIN with all its data."""
        with self.asking() as connection, connection.cursor().copy(statement.encode()) as copying:
            copying.write(data)

    @property
    def broken(self) -> bool:
        """Whether the session is of no use any more."""
        return self._connection is None or self._connection.broken

    def prove(self) -> None:
        """Ask for nothing but an answer."""
        self.ask("SELECT 1")

    def storable(self, text: str) -> str:
        """The text as this database can store it: a broker says whatever it likes."""
        assert self._connection is not None
        if self._connection.info.parameter_status("server_encoding") != "UTF8":
            text = text.encode("ascii", "backslashreplace").decode()
        return text.replace("\0", "")
