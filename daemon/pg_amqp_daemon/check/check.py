"""One look at a database and its brokers from outside: what is there, late, and wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import psycopg

from pg_amqp_daemon.check.verdict import Figure, Finding, Verdict, report, worst
from pg_amqp_daemon.runtime.brokers import addresses_of_brokers
from pg_amqp_daemon.runtime.database import MISSING, Database, first_line
from pg_amqp_py.wire.channel import connect_publisher
from pg_amqp_py.wire.errors import ConnectError

_CONNECT_TIMEOUT = 5.0
_LONG = "10 minutes"
"""For which a transaction may stand idle, before it is said that it holds up vacuum."""

_VERSIONS = """
SELECT current_setting('server_version'),
       (SELECT e.extversion FROM pg_extension AS e WHERE e.extname = 'pg_amqp_py'),
       to_regprocedure('amqp.outbox_version()') IS NOT NULL
"""
_MAY_READ_LOGINS = "SELECT has_table_privilege('amqp.broker', 'SELECT')"
_HOLDERS = f"""
SELECT format('a transaction of process %s has been open for %s (%s, %s)', a.pid,
              date_trunc('second', clock_timestamp() - a.xact_start), a.usename, a.state)
FROM pg_stat_activity AS a
WHERE a.backend_xmin IS NOT NULL AND a.datname = current_database()
  AND a.xact_start < clock_timestamp() - interval '{_LONG}'
UNION ALL
SELECT format('prepared transaction "%s" is %s old', p.gid,
              date_trunc('second', clock_timestamp() - p.prepared))
FROM pg_prepared_xacts AS p
WHERE p.database = current_database() AND p.prepared < clock_timestamp() - interval '{_LONG}'
UNION ALL
SELECT format('replication slot "%s" is not in use and holds the snapshot of transaction %s',
              r.slot_name, COALESCE(r.xmin, r.catalog_xmin))
FROM pg_replication_slots AS r
WHERE NOT r.active AND COALESCE(r.xmin, r.catalog_xmin) IS NOT NULL
"""
_OUTBOX = """
SELECT s.broker_id, s.pending - s.waiting, s.pending, s.dead, s.trouble,
       COALESCE(EXTRACT(epoch FROM s.oldest_age), 0)::float8
FROM amqp.outbox_status() AS s
"""
_INBOX = "SELECT consumer, dead, trouble FROM amqp.inbox_status()"
_LISTENERS = """
SELECT s.channel, s.last_error FROM amqp.listener_status() AS s
WHERE s.listener IS NULL
  AND EXISTS (SELECT FROM amqp.listener AS l WHERE l.channel = s.channel AND l.enabled)
"""


class Limits(NamedTuple):
    """Ages of the oldest message that is due, in seconds."""

    warning: float
    critical: float


class _Look:
    """What one call finds."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits
        self.figures: list[Figure] = []

    def all(self) -> Iterator[Finding]:
        """Look at everything, as far as it can be looked at."""
        looks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
            ("versions", self._versions),
            ("outbox", self._outbox),
            ("consumers", self._consumers),
            ("listeners", self._listeners),
            ("brokers", self._brokers),
            ("snapshots", self._snapshots),
        ]
        for what, look in looks:
            try:
                yield from look()
            except psycopg.errors.InsufficientPrivilege as error:
                yield Finding(Verdict.UNKNOWN, f"{what}: {first_line(error)}")
            except MISSING as error:
                yield Finding(Verdict.CRITICAL, f"{what}: {first_line(error)}")

    def _versions(self) -> Iterator[Finding]:
        ((server, extension, outbox),) = self._database.ask(_VERSIONS)
        daemon = version("pg_amqp_py")
        if extension is None and not outbox:
            yield Finding(
                Verdict.CRITICAL,
                "neither the extension nor the outbox is here: is it the right database?"
                " CREATE EXTENSION pg_amqp_py CASCADE, or pg-amqp install",
            )
            return
        if extension is None:
            ((installed,),) = self._database.ask("SELECT amqp.outbox_version()")
        else:
            installed = extension
        what = "outbox" if extension is None else "extension"
        text = f"PostgreSQL {server}, {what} {installed}, pg-amqp {daemon}"
        if installed == daemon:
            yield Finding(Verdict.OK, text)
        else:
            command = "ALTER EXTENSION pg_amqp_py UPDATE" if extension else "pg-amqp install"
            yield Finding(Verdict.WARNING, f"{text}: they should be the same ({command})")

    def _outbox(self) -> Iterator[Finding]:
        for broker_id, due, pending, dead, trouble, oldest in self._database.ask(_OUTBOX):
            name = f"outbox of broker {broker_id}"
            self.figures += (
                Figure(f"pending_{broker_id}", pending),
                Figure(f"oldest_{broker_id}", round(oldest, 3), "s"),
                Figure(f"dead_{broker_id}", dead),
            )
            if trouble is not None:
                yield Finding(Verdict.CRITICAL, f"{name}: {trouble}")
            if dead:
                yield Finding(Verdict.WARNING, f"{name}: dead letters: {dead}")
            verdict = Verdict.OK
            if oldest >= self._limits.critical:
                verdict = Verdict.CRITICAL
            elif oldest >= self._limits.warning:
                verdict = Verdict.WARNING
            text = f"{name}: {pending} pending, {due} of them due"
            if pending:
                text += f"; the oldest is {oldest:.0f} s late"
            yield Finding(verdict, text)

    def _consumers(self) -> Iterator[Finding]:
        for consumer, dead, trouble in self._database.ask(_INBOX):
            name = f'consumer "{consumer}"'
            self.figures.append(Figure(f"dead_messages_{consumer}", dead))
            if dead:
                yield Finding(Verdict.WARNING, f"{name}: dead messages: {dead}")
            if trouble is not None:
                yield Finding(Verdict.CRITICAL, f"{name}: {trouble}")
            elif not dead:
                yield Finding(Verdict.OK, f"{name}: works")

    def _listeners(self) -> Iterator[Finding]:
        for channel, error in self._database.ask(_LISTENERS):
            yield Finding(
                Verdict.CRITICAL,
                f'channel "{channel}": nobody listens' + (f" ({error})" if error else ""),
            )

    def _brokers(self) -> Iterator[Finding]:
        if self._database.ask(_MAY_READ_LOGINS) == [(False,)]:
            yield Finding(
                Verdict.OK, "brokers: not asked, since the role may not read their logins"
            )
            return
        client: dict[str, Any] = {
            "product": "pg-amqp",
            "platform": "Python",
            "connection_name": f"pg-amqp check {os.getpid()}",
        }
        for broker_id, addresses in addresses_of_brokers(self._database).items():
            failures = []
            begun = time.monotonic()
            for address in addresses:
                try:
                    channel = connect_publisher(
                        address, client, _CONNECT_TIMEOUT, lambda: None, heartbeat=0
                    )
                except ConnectError as error:
                    failures.append(f"{address}: {error}")
                else:
                    channel.connection.close()
            name = f"broker {broker_id}"
            if not failures:
                took = (time.monotonic() - begun) * 1000 / len(addresses)
                yield Finding(Verdict.OK, f"{name}: can be reached, in {took:.0f} ms")
            else:
                all_of_them = len(failures) == len(addresses)
                verdict = Verdict.CRITICAL if all_of_them else Verdict.WARNING
                yield Finding(verdict, f"{name}: {'; '.join(failures)}")

    def _snapshots(self) -> Iterator[Finding]:
        for (text,) in self._database.ask(_HOLDERS):
            yield Finding(Verdict.WARNING, f"vacuum cannot remove delivered messages: {text}")


def check(dsn: str, limits: Limits) -> tuple[str, int]:
    """What to print, and the exit status."""
    database = Database(dsn, "check")
    look = _Look(database, limits)
    findings: list[Finding] = []
    try:
        with database.connected():
            findings.extend(look.all())
    except psycopg.Error as error:
        findings.append(Finding(Verdict.CRITICAL, f"database: {first_line(error)}"))
    return report(findings, look.figures), int(worst(findings))
