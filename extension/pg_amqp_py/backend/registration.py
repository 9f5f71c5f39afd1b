"""The SQL function amqp.add_broker(): a broker's rows from an AMQP URI."""

from __future__ import annotations

import plpy

from pg_amqp_py.backend import session
from pg_amqp_py.backend.errors import INVALID_PARAMETER, SHOWS_BYTES, AMQPError, required
from pg_amqp_py.backend.server import Statement
from pg_amqp_py.backend.tables import acting_as, owner_of
from pg_amqp_py.wire.uri import InvalidURIError, parse_uri

_HOST = "text", "int4", "text", "text", "text", "bool"
_add_first = Statement(
    """
INSERT INTO amqp.broker (host, port, vhost, username, password, ssl)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING broker_id
""",
    *_HOST,
)
_add_other = Statement(
    """
INSERT INTO amqp.broker (host, port, vhost, username, password, ssl, broker_id)
VALUES ($1, $2, $3, $4, $5, $6, $7)
""",
    *_HOST,
    "int4",
)


def announce_change(relation: str) -> None:
    """Trigger on amqp.broker: every session reads its rows again in its next transaction."""
    session.broker_table_changed(int(relation))


def add_broker(uri: str | None) -> int:
    """Insert a row for each host of the URI and return their common broker_id."""
    try:
        hosts = parse_uri(required("uri", uri))
    except InvalidURIError as error:
        raise AMQPError(
            f"invalid AMQP URI: {error}",
            sqlstate=INVALID_PARAMETER,
            hint="Write amqp://user:password@host:port/vhost, or amqps:// for TLS; several hosts"
            " with commas; special characters percent-encoded.",
        ) from None
    # As the owner of the table: its defaults, constraints and triggers are the owner's code.
    try:
        with acting_as(owner_of("broker")):
            broker_id: int = _add_first(*hosts[0])[0]["broker_id"]
            for host in hosts[1:]:
                _add_other(*host, broker_id)
    except plpy.SPIError as error:
        # Without its DETAIL, which may show the row; nor does it show a character of the password
        # that the database has no room for.
        reason = "its encoding lacks a character" if error.sqlstate in SHOWS_BYTES else str(error)
        raise AMQPError(f"could not add the broker: {reason}", sqlstate=error.sqlstate) from None
    return broker_id
