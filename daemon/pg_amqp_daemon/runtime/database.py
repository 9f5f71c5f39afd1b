"""A session in PostgreSQL that knows when it was last answered, and can be broken off."""

from __future__ import annotations

import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format
from psycopg.pq.misc import PGnotify
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
    # What stands still in a transaction keeps locks, so that nobody can take over.
    "idle_in_transaction_session_timeout": f"{_SLOWEST:g}s",
    "search_path": "pg_catalog",
    "default_transaction_isolation": "read committed",
    # As the functions of the schema amqp were written.
    "standard_conforming_strings": "on",
}
# A role may have any of them, and a search_path that finds others first. Some are not known to
# every server, and NULL is the role's own.
_SET = """
SELECT pg_catalog.set_config(s.name, g.value, false)
FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.text[]), pg_catalog.unnest(%s::pg_catalog.text[]))
    AS g (name, value)
JOIN pg_catalog.pg_settings AS s ON s.name OPERATOR(pg_catalog.=) g.name
"""
_SHARED = (
    psycopg.errors.InvalidSqlStatementName,
    psycopg.errors.DuplicatePreparedStatement,
    psycopg.errors.ProtocolViolation,
)
"""What is said of statements of ours where another client prepares its own in the session."""
MISSING = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
)
"""What is said of what is not there: where it is ours, the database is of another version."""
_OURS = re.compile(r'"amqp_inner"|\bamqp(_inner)?\.')
_OTHER_VERSION = (
    "{}; pg-amqp {} needs its own version in the database:"
    " ALTER EXTENSION pg_amqp_py UPDATE, or without the extension pg-amqp install"
)
_POOLER = "the connection leads through a pooler that {}: connect to PostgreSQL itself"
_SHARES = _POOLER.format("shares sessions between transactions")
_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}


def _given_elsewhere(service: object) -> set[str]:
    """What libpq finds in its environment, or in the file of services, unless it is told here."""
    given: set[str] = {"connect_timeout"} if os.environ.get("PGCONNECT_TIMEOUT") else set()
    service = service or os.environ.get("PGSERVICE")
    if service:
        folder = os.environ.get("PGSYSCONFDIR", "/etc/postgresql-common")
        own = os.environ.get("PGSERVICEFILE") or Path("~/.pg_service.conf").expanduser()
        found = ConfigParser(interpolation=None, strict=False)
        with suppress(ConfigParserError, OSError, UnicodeError):
            found.read([Path(folder) / "pg_service.conf", own])
            given.update(found.options(str(service)))
    return given


def _is_shared(conninfo: str, pid: int) -> bool:
    """Whether a pooler gives a session to the next client that asks, as soon as it is idle."""
    with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as other:
        return other.execute("SELECT pg_catalog.pg_backend_pid()").fetchone() == (pid,)


def first_line(error: psycopg.Error) -> str:
    """What PostgreSQL or libpq says, in one line, and what to do if its version is another one."""
    line = str(error).strip().partition("\n")[0]
    if isinstance(error, MISSING) and _OURS.search(line):
        return _OTHER_VERSION.format(line, version("pg_amqp_py"))
    return line


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


@contextmanager
def _noting(failures: list[psycopg.Error]) -> Iterator[None]:
    """Note a failure, and go on."""
    try:
        yield
    except psycopg.Error as failure:
        failures.append(failure)


class Database:
    """One session at a time. Used by one thread; `unblock` may be called by another.

    `purpose` is what pg_stat_activity shows of it, beside process and host; `settings` are what
    its session needs beyond those of every session, or in their place (None: the role's own).
    After `patience` seconds without an answer it is broken off. With `own`, no pooler may keep the
    session when the connection ends. Raises psycopg.Error.
    """

    def __init__(
        self,
        dsn: str,
        purpose: str,
        part: str = "",
        settings: Mapping[str, str | None] | None = None,
        patience: float = _SLOWEST,
        *,
        own: bool = False,
    ) -> None:
        self.lease = Lease()
        """Of the lock that this session has, if it has one."""
        self._dsn = dsn
        self._patience = patience
        self._own = own
        self._pooled = False
        """Whether a pooler stands between."""
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
        elsewhere = _given_elsewhere(given.get("service"))
        defaults = {
            name: value
            for name, value in _DEFAULTS.items()
            if name not in given and name not in elsewhere
        }
        conninfo = make_conninfo(self._dsn, **defaults, application_name=self.name)
        with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection:
            # Before anything is set, which a pooler might leave to somebody else.
            ((pid,),) = connection.execute("SELECT pg_catalog.pg_backend_pid()")
            # A pooler invents what a client may cancel by.
            self._pooled = pid != connection.info.backend_pid
            if self._pooled and self._own:
                raise psycopg.OperationalError(_POOLER.format("keeps sessions for others"))
            if self._pooled and _is_shared(conninfo, pid):
                raise psycopg.OperationalError(_SHARES)
            # The role's own may be too short for what comes.
            connection.execute("SET statement_timeout = 0")
            connection.execute(_SET, [list(self._settings), list(self._settings.values())])
            _use_utf8(connection)
            connection.prepare_threshold = 0
            # Functions of others may LISTEN: what nobody takes would be kept for ever.
            connection.add_notify_handler(lambda _: None)
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
        except _SHARED as error:
            if not self._pooled:
                raise
            raise psycopg.OperationalError(_SHARES) from error
        finally:
            self._asked_at = None
        self.lease.answered(asked_at)

    def ask(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Execute a query; its rows."""
        with self.asking() as connection:
            cursor = connection.cursor(binary=True).execute(
                query.encode("utf-8", "surrogateescape"), arguments or None
            )
            return cursor.fetchall() if cursor.description else []

    def ask_all(
        self, *queries: tuple[Any, ...], meanwhile: Callable[[], None] = lambda: None
    ) -> list[list[tuple[Any, ...]]]:
        """Execute queries, each with its arguments, in one round trip; the rows of each.

        What fails keeps those behind it from being executed. `meanwhile` is called while the
        server works.
        """
        failures: list[psycopg.Error] = []
        cursors = []
        with self.asking() as connection:
            # The first that fails may be seen in the block, and again at its end.
            with _noting(failures), connection.pipeline(), _noting(failures):
                for query, *arguments in queries:
                    cursor = connection.cursor(binary=True)
                    cursors.append(cursor.execute(query.encode(), arguments or None))
                meanwhile()
            if failures:
                raise failures[0]
            return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def copy(self, statement: str, data: bytes) -> None:
        """Execute a COPY FROM STDIN with all its data."""
        with self.asking() as connection, connection.cursor().copy(statement.encode()) as copying:
            copying.write(data)

    def hear(self, take: Callable[[PGnotify], None]) -> None:
        """Hand each notification of the session to `take` from now on, whenever it arrives."""
        assert self._connection is not None
        # Before psycopg decodes it: a payload may be anything in an SQL_ASCII database.
        self._connection.pgconn.notify_handler = take

    def wait(self, timeout: float) -> None:
        """Wait, at most so many seconds, until something has arrived; take notifications in."""
        connection = self._connection
        assert connection is not None
        pgconn = connection.pgconn
        readable = select.poll()
        readable.register(pgconn.socket, select.POLLIN)
        if readable.poll(timeout * 1000):
            pgconn.consume_input()
            take = pgconn.notify_handler
            while take is not None and (notification := pgconn.notifies()):
                take(notification)

    @property
    def address(self) -> str:
        """Host and port of the server, as it was connected to."""
        assert self._connection is not None
        info = self._connection.info
        return f"{'localhost' if info.host.startswith('/') else info.host}:{info.port}"

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
