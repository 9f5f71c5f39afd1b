"""The extension's tables: with whose rights they are used, and the rows of amqp.broker."""

from __future__ import annotations

import plpy

from pg_amqp_py.backend import server
from pg_amqp_py.backend.errors import (
    BAD_CHARACTER,
    INVALID_PARAMETER,
    SHOWS_BYTES,
    UNDEFINED_TABLE,
    WRONG_OBJECT_TYPE,
    AMQPError,
    required,
)
from pg_amqp_py.backend.server import Statement
from pg_amqp_py.backend.session import session
from pg_amqp_py.wire.address import Address

# Names and operators are qualified throughout: the caller's search_path means nothing here.
_find_table = Statement(
    """
SELECT c.relowner::pg_catalog.int8 AS owner, c.relkind
FROM pg_catalog.pg_class AS c
WHERE c.relname OPERATOR(pg_catalog.=) $1
  AND c.relnamespace OPERATOR(pg_catalog.=)
      (SELECT n.oid FROM pg_catalog.pg_namespace AS n
       WHERE n.nspname OPERATOR(pg_catalog.=) 'amqp')
""",
    "name",
)
_pin_search_path = Statement(
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)"
)
_plan_by_index = Statement(
    "SELECT pg_catalog.set_config('enable_seqscan', 'off', true),"
    " pg_catalog.set_config('enable_bitmapscan', 'off', true),"
    " pg_catalog.set_config('enable_sort', 'off', true),"
    " pg_catalog.set_config('jit', 'off', true)"
)
_read_rows = Statement(
    """
SELECT b.host, b.port, b.vhost, b.username, b.password, b.ssl, b.ssl_cacert, b.ssl_cert,
       b.ssl_key, b.ssl_verify_peer, b.ssl_verify_hostname
FROM ONLY amqp.broker AS b
WHERE b.broker_id OPERATOR(pg_catalog.=) $1
ORDER BY b.host USING OPERATOR(pg_catalog.<), b.port USING OPERATOR(pg_catalog.<)
""",
    "int4",
)
_HOST = "text", "int4", "text", "text", "text", "bool"
_add_first = Statement(
    """
INSERT INTO amqp.broker (host, port, vhost, username, password, ssl)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING broker_id
""",
    *_HOST,
)
_find_same = Statement(
    """
SELECT pg_catalog.min(b.broker_id) AS broker_id FROM amqp.broker AS b
WHERE b.host OPERATOR(pg_catalog.=) $1 AND b.port OPERATOR(pg_catalog.=) $2
  AND COALESCE(b.vhost, '/') OPERATOR(pg_catalog.=) COALESCE($3, '/')
  AND COALESCE(b.username, 'guest') OPERATOR(pg_catalog.=) COALESCE($4, 'guest')
""",
    *_HOST[:4],
)
_add_other = Statement(
    """
INSERT INTO amqp.broker (host, port, vhost, username, password, ssl, broker_id)
VALUES ($1, $2, $3, $4, $5, $6, $7)
""",
    *_HOST,
    "int4",
)


def owner_of(table: str) -> int:
    """The OID of the role that owns a table of schema amqp.

    Raises AMQPError if that is no ordinary table: a view or a foreign table put in its place
    would be somebody's code.
    """
    found = _find_table(table)
    if not len(found):
        raise AMQPError(
            f'table "amqp.{table}" does not exist',
            sqlstate=UNDEFINED_TABLE,
            hint="Is the extension pg_amqp_py installed in this database?",
        )
    if found[0]["relkind"] != "r":
        raise AMQPError(
            f'"amqp.{table}" is not an ordinary table',
            sqlstate=WRONG_OBJECT_TYPE,
            detail="Something else was put in the place of the extension's table.",
        )
    owner: int = found[0]["owner"]
    return owner


class acting_as:  # noqa: N801 -- as contextlib's, which would cost a first publish() 1 ms
    """Run with the rights of `role` (an OID) and no way to gain others.

    Whatever code the owner of a table has attached to it runs as the owner and never as the
    caller, finds nothing of the caller's by its search_path, and leaves no setting changed behind.
    """

    def __init__(self, role: int) -> None:
        self._role = role

    def __enter__(self) -> None:
        self._level = server.begin_settings()
        self._before = server.switch_user(self._role)
        try:
            _pin_search_path()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        server.end_settings(False, self._level)
        server.restore_user(*self._before)


class planning_by_index:  # noqa: N801
    """Have queries planned to use an index wherever there is one.

    For a table that is empty at one moment and large at the next: its statistics mislead.
    """

    def __enter__(self) -> None:
        self._level = server.begin_settings()
        try:
            _plan_by_index()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        server.end_settings(False, self._level)


def read_addresses(broker_id: int) -> list[Address]:
    """The hosts of a broker, in the order in which they are tried; empty if it has no row."""
    with acting_as(owner_of("broker")):
        try:
            rows = _read_rows(broker_id)
        except (plpy.SPIError, UnicodeError) as error:
            if getattr(error, "sqlstate", BAD_CHARACTER) not in SHOWS_BYTES:
                raise
            # Without its text, which shows a part of what may be the password.
            raise AMQPError(
                f"the row of broker {broker_id} holds text that is not UTF-8",
                sqlstate=BAD_CHARACTER,
                hint="In an SQL_ASCII database, amqp.broker must hold text in UTF-8.",
            ) from None
    return [
        Address(
            row["host"],
            row["port"],
            "/" if row["vhost"] is None else row["vhost"],
            "guest" if row["username"] is None else row["username"],
            "guest" if row["password"] is None else row["password"],
            row["ssl"],
            row["ssl_cacert"],
            row["ssl_cert"],
            row["ssl_key"],
            row["ssl_verify_peer"],
            row["ssl_verify_hostname"],
        )
        for row in rows
    ]


def announce_change(relation: str) -> None:
    """Trigger on amqp.broker: every session reads its rows again in its next transaction."""
    session.change_rows(server.current_subtransaction())
    server.announce_change(int(relation))


def add_broker(uri: str | None) -> int:
    """Insert a row for each host of the URI and return their common broker_id."""
    # Here, because a session's first publish() shall not wait for it.
    from pg_amqp_py.wire.uri import InvalidURIError, parse_uri

    try:
        hosts = parse_uri(required("uri", uri))
    except InvalidURIError as error:
        raise AMQPError(
            f"invalid AMQP URI: {error}",
            sqlstate=INVALID_PARAMETER,
            hint="Write amqp://user:password@host:port/vhost, or amqps:// for TLS; several hosts"
            " with commas; special characters percent-encoded. Files for TLS have columns in"
            " amqp.broker.",
        ) from None
    # As the owner of the table: its defaults, constraints and triggers are the owner's code.
    try:
        with acting_as(owner_of("broker")):
            same: int | None = _find_same(*hosts[0][:4])[0]["broker_id"]
            broker_id: int = _add_first(*hosts[0])[0]["broker_id"]
            for host in hosts[1:]:
                _add_other(*host, broker_id)
    except plpy.SPIError as error:
        # Without its DETAIL, which may show the row; nor does it show a character of the password
        # that the database has no room for.
        reason = "its encoding lacks a character" if error.sqlstate in SHOWS_BYTES else str(error)
        raise AMQPError(f"could not add the broker: {reason}", sqlstate=error.sqlstate) from None
    if same is not None:
        plpy.notice(
            f"broker {same} has the same host, port, virtual host and user",
            hint=f"If one is enough: DELETE FROM amqp.broker WHERE broker_id = {broker_id};",
        )
    return broker_id
