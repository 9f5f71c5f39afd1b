"""pg-amqp install: outbox and inbox in a database that must do without PL/Python.

Everything is done in one transaction, by the owner of both schemas, who need be nobody special. Not
by a superuser for somebody else: he would run functions that the owner may have put there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import IsolationLevel, errors

from pg_amqp_daemon.install import scripts

OLDEST_SERVER = 14

_SCHEMAS = ("amqp", "amqp_inner")

_Connection = psycopg.Connection[tuple[Any, ...]]

# Several hosts may start at once.
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(1634562418, 0)"
# Whoever waits for a lock on a table keeps publishers waiting behind.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '5s'"


class InstallError(Exception):
    """Nothing was changed; the message, one line, says why."""


def install(dsn: str) -> str:
    """Install outbox and inbox, or bring earlier ones to this version; return what was done.

    Raises InstallError.
    """
    with _transaction(dsn) as connection:
        missing = _missing_schemas(connection)
        installed = _installed_version(connection)
        if installed == scripts.VERSION:
            return f"outbox and inbox {installed} are already up to date"
        _create_schemas(connection, missing)
        for script in scripts.outbox() if installed is None else scripts.outbox_upgrade(installed):
            _execute(connection, script)
        if installed is None:
            return f"outbox and inbox {scripts.VERSION} installed"
        return f"outbox and inbox upgraded from {installed} to {scripts.VERSION}"


def uninstall(dsn: str) -> str:
    """Remove outbox and inbox, if no message is in them; return what was done.

    Raises InstallError.
    """
    with _transaction(dsn) as connection:
        missing = _missing_schemas(connection)
        installed = _installed_version(connection)
        if installed is None:
            return "outbox and inbox are not installed"
        _refuse_unless_empty(connection)
        if installed != scripts.VERSION:
            # What an earlier one has, and where, is known to the upgrade alone.
            _create_schemas(connection, missing)
            for script in scripts.outbox_upgrade(installed):
                _execute(connection, script)
        for statement in scripts.outbox_removal():
            _execute(connection, statement)
        said = f"outbox and inbox {installed} removed"
        for schema in _SCHEMAS:
            try:
                with connection.transaction():
                    connection.execute(f"DROP SCHEMA {schema}".encode())
            except errors.DependentObjectsStillExist:
                said += f"; schema {schema} stays, it holds other objects"
        return said


@contextmanager
def _transaction(dsn: str) -> Iterator[_Connection]:
    """A transaction in which nothing else is installed; PostgreSQL's errors become ours."""
    try:
        with psycopg.connect(dsn, fallback_application_name="pg-amqp install") as connection:
            if connection.info.server_version < OLDEST_SERVER * 10000:
                raise InstallError(f"the server is older than PostgreSQL {OLDEST_SERVER}")
            # To see what another installation has done while this one waited.
            connection.isolation_level = IsolationLevel.READ_COMMITTED
            # Names that the scripts do not qualify are PostgreSQL's own.
            connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            # First: anybody who connects may hold the lock that comes next.
            connection.execute(_LOCK_TIMEOUT)
            connection.execute(_ONE_AT_A_TIME)
            yield connection
    except errors.LockNotAvailable:
        raise InstallError("somebody has held a lock for 5 s: try again") from None
    except psycopg.Error as error:
        raise InstallError(_one_line(error)) from None


def _missing_schemas(connection: _Connection) -> list[str]:
    """Those of the schemas that there are not; an error if one is not ours."""
    extensions = connection.execute(
        "SELECT extname FROM pg_extension WHERE extname IN ('amqp', 'pg_amqp_py')"
    ).fetchall()
    if ("pg_amqp_py",) in extensions:
        raise InstallError("extension pg_amqp_py is in this database: it brings outbox and inbox")
    if extensions:
        raise InstallError("extension amqp is in this database, and schema amqp is its own")
    found = connection.execute(
        "SELECT nspname, pg_get_userbyid(nspowner), pg_get_userbyid(nspowner) = current_user"
        " FROM pg_namespace WHERE nspname = ANY (%s) ORDER BY nspname",
        [list(_SCHEMAS)],
    ).fetchall()
    for schema, owner, is_ours in found:
        if not is_ours:
            raise InstallError(f'schema {schema} belongs to role "{owner}": connect as this role')
    present = {schema for schema, _, _ in found}
    return [schema for schema in _SCHEMAS if schema not in present]


def _installed_version(connection: _Connection) -> str | None:
    if _value(connection, "SELECT to_regprocedure('amqp.outbox_version()')") is None:
        return None
    installed = str(_value(connection, "SELECT amqp.outbox_version()"))
    if _number(installed) > _number(scripts.VERSION):
        raise InstallError(
            f"outbox {installed} is in this database, and this pg-amqp is {scripts.VERSION}:"
            " use a later one"
        )
    return installed


def _create_schemas(connection: _Connection, missing: list[str]) -> None:
    try:
        for schema in missing:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
    except errors.InsufficientPrivilege:
        user, database = connection.info.user, connection.info.dbname
        raise InstallError(
            f'role "{user}" may not create schemas in database "{database}":'
            " GRANT CREATE ON DATABASE, or CREATE SCHEMA ... AUTHORIZATION this role, for "
            + " and ".join(missing)
        ) from None


def _refuse_unless_empty(connection: _Connection) -> None:
    # Nobody adds a message between the look and the end.
    connection.execute("LOCK TABLE amqp.outbox, amqp.outbox_dead")
    messages = _value(connection, "SELECT count(*) FROM amqp.outbox")
    dead = _value(connection, "SELECT count(*) FROM amqp.outbox_dead")
    if messages or dead:
        raise InstallError(
            f"undelivered messages: {messages}, dead letters: {dead}; deliver them"
            " (pg-amqp relay --once, amqp.retry_dead_letters()) or delete them"
            " (TRUNCATE amqp.outbox, amqp.discard_dead_letters())"
        )
    if _value(connection, "SELECT to_regclass('amqp.inbox')") is None:
        # It is of a version that had none.
        return
    connection.execute("LOCK TABLE amqp.inbox, amqp.inbox_dead")
    messages = _value(connection, "SELECT count(*) FROM amqp.inbox")
    dead = _value(connection, "SELECT count(*) FROM amqp.inbox_dead")
    if messages or dead:
        raise InstallError(
            f"messages in amqp.inbox: {messages}, dead messages: {dead}; keep them elsewhere or"
            " delete them (TRUNCATE amqp.inbox, amqp.inbox_dead)"
        )


def _execute(connection: _Connection, script: str) -> None:
    # No parameters: so it goes to the server in one piece, as several statements may.
    connection.execute(script.encode())


def _value(connection: _Connection, query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _one_line(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error)
    return "; ".join(f"{text}\n{error.diag.message_detail or ''}".split("\n")).strip("; ")
