"""Sessions in PostgreSQL, and what it reports in them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from psycopg import sql

from servers.postgres import ALONE
from servers.processes import wait_for
from support.fix_servers import VHost
from support.patience import LIMIT


@dataclass(frozen=True)
class Report:
    """What PostgreSQL reported: the fields of an error or of a notice."""

    severity: str
    sqlstate: str
    message: str
    detail: str
    hint: str
    context: str

    @classmethod
    def of(cls, diagnostic: psycopg.errors.Diagnostic) -> Report:
        """Copy the fields: psycopg's own object is valid only while the handler runs."""
        return cls(
            diagnostic.severity_nonlocalized or "",
            diagnostic.sqlstate or "",
            diagnostic.message_primary or "",
            diagnostic.message_detail or "",
            diagnostic.message_hint or "",
            diagnostic.context or "",
        )


class Session(psycopg.Connection[tuple[Any, ...]]):
    """A connection of psycopg's that keeps every notice; open_session() opens it."""

    reports: list[Report]
    pid: int
    """The process id of its backend."""

    def __exit__(self, *error: Any) -> None:
        # A transaction that is open goes with a session that commits by itself.
        if self.autocommit:
            self.close()
        else:
            super().__exit__(*error)

    def run(self, query: str | sql.Composable, *values: object) -> list[tuple[Any, ...]]:
        """Run a query and return its rows."""
        cursor = self.execute(query, values or None)  # type: ignore[arg-type]
        return [] if cursor.description is None else cursor.fetchall()

    def value(self, query: str | sql.Composable, *values: object) -> Any:
        """Run a query and return the one value that it yields."""
        ((value,),) = self.run(query, *values)
        return value

    def error(self, query: str | sql.Composable, *values: object) -> Report:
        """Run a query that must fail, and return how it did."""
        with pytest.raises(psycopg.Error) as raised:
            self.run(query, *values)
        return Report.of(raised.value.diag)

    def warnings(self) -> list[Report]:
        """Return the warnings since the last call."""
        found = [report for report in self.reports if report.severity == "WARNING"]
        self.reports.clear()
        return found

    def add_broker(self, url: str) -> int:
        """Add a broker and return its id."""
        if ALONE in os.environ:
            return self._insert_broker(url)
        number: int = self.value("SELECT amqp.add_broker(%s)", url)
        return number

    def _insert_broker(self, url: str) -> int:
        """Do without the function, which the extension alone has."""
        parts = urlsplit(url)
        number: int = self.value(
            "INSERT INTO amqp.broker (host, port, vhost, username, password)"
            " VALUES (%s, %s, %s, %s, %s) RETURNING broker_id",
            parts.hostname,
            parts.port,
            unquote(parts.path[1:]),
            parts.username,
            parts.password,
        )
        return number

    def publish(
        self, broker_id: int, exchange: str, numbers: Sequence[int], routing_key: str = "key"
    ) -> None:
        """Publish these numbers, in this order."""
        self.run(
            "SELECT amqp.publish(%s, %s, %s, n::text) FROM unnest(%s::int[]) AS n",
            broker_id,
            exchange,
            routing_key,
            list(numbers),
        )

    def set(self, **settings: str) -> None:
        """Set settings of the extension for the session."""
        for name, value in settings.items():
            self.run("SELECT set_config(%s, %s, false)", f"amqp.{name}", value)


def open_session(
    dsn: str, *brokers: VHost, role: str | None = None, autocommit: bool = True
) -> Session:
    """Open a session; it ends with the block that it is used in.

    The brokers get the ids 1, 2, ... of a fresh database.
    """
    session = Session.connect(dsn, autocommit=autocommit)
    session.reports, session.pid = [], session.info.backend_pid
    session.add_notice_handler(lambda d: session.reports.append(Report.of(d)))
    if role is not None:
        session.run(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
    for broker in brokers:
        session.add_broker(broker.url())
    return session


def session_fixture(**settings: str) -> Any:
    """The fixture `session` of a module whose sessions have no broker yet, and these settings."""

    @pytest.fixture
    def session(database: str) -> Iterator[Session]:
        """A session in the test's database."""
        with open_session(database) as session:
            session.set(**settings)
            yield session

    return session


def wait_for_end(observer: Session, *pids: int) -> None:
    """Wait until these backends are gone, with what they do at their very end.

    A backend is not listed any more before it writes its last words into the server's log.
    """
    wait_for(
        lambda: (
            not observer.execute(
                "SELECT FROM pg_stat_activity WHERE pid = ANY(%s)", [list(pids)]
            ).fetchall()
            and not any(Path(f"/proc/{pid}").exists() for pid in pids)
        ),
        LIMIT,
        f"the end of backends {pids}",
    )


def wait_for_event(observer: Session, pid: int, event: str) -> None:
    """Wait until a backend waits for this event of pg_stat_activity (PgSleep, advisory, ...)."""
    wait_for(
        lambda: observer.execute(
            "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = %s", [pid, event]
        ).fetchall(),
        LIMIT,
        f"backend {pid} to wait for {event}",
    )
