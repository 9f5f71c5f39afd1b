"""The SQL functions that show or end what this session has: pending, status, ping, disconnect."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import plpy

from pg_amqp_py.backend import settings
from pg_amqp_py.backend.asking import ask
from pg_amqp_py.backend.broker import Broker
from pg_amqp_py.backend.errors import WRONG_STATE, AMQPError, required, showable
from pg_amqp_py.backend.server import IN_CALL, Statement
from pg_amqp_py.backend.session import session
from pg_amqp_py.wire.channel import PublishingChannel
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError
from pg_amqp_py.wire.fields import TIMESTAMP, with_field

# Text that means the same under every DateStyle. By days and seconds, because the last of all
# timestamps are more microseconds than a double or 64 bits hold.
_from_epoch = Statement(
    """
SELECT pg_catalog.to_char(
           (pg_catalog.date '1970-01-01' OPERATOR(pg_catalog.+) $1)
               OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => $2),
           'YYYY-MM-DD HH24:MI:SS.US"+00"'
       ) AS at
""",
    "int4",
    "float8",
)
_from_utf8 = Statement("SELECT pg_catalog.convert_from($1, 'UTF8') AS text", "bytea")
_has_role = Statement("SELECT pg_catalog.pg_has_role($1, 'USAGE') AS found", "oid")


def pending() -> list[tuple[Any, ...]]:
    """amqp.pending(): what the transaction will publish, in the order of the calls."""
    return list(_pending())


def _pending() -> Iterator[tuple[Any, ...]]:
    capturing = settings.capture.value()
    shown: dict[int, bool] = {}
    if session.transaction is None:
        return
    for publisher, destination, message in session.transaction.buffer.messages():
        # Not what other roles have published in this transaction: it is theirs to show.
        if publisher not in shown:
            shown[publisher] = _has_privileges_of(publisher)
        if not shown[publisher]:
            continue
        fields: tuple[Any, ...] = message.envelope
        if fields[TIMESTAMP] is not None:
            fields = with_field(fields, TIMESTAMP, _timestamp(fields[TIMESTAMP]))
        exchange, routing_key, *properties = fields
        yield (
            destination.broker_id,
            exchange,
            routing_key,
            _text(message.body),
            message.body,
            *properties,
            # What is captured at commit is not sent either, whenever it was published.
            destination.captured or capturing,
        )


def _has_privileges_of(role: int) -> bool:
    found: bool | None = _has_role(role)[0]["found"]
    return bool(found)


def _text(body: bytes) -> str | None:
    """A message as text, None if it is none in the encoding of this database."""
    if body.isascii():
        # PostgreSQL's text cannot hold a NUL.
        return None if b"\0" in body else body.decode()
    try:
        text: str = _from_utf8(body)[0]["text"]
    except (plpy.SPIError, UnicodeDecodeError):
        return None
    return text


def _timestamp(epoch: float) -> str:
    days, seconds = divmod(epoch, 86400)
    at: str = _from_epoch(int(days), seconds)[0]["at"]
    return at


def status() -> list[tuple[Any, ...]]:
    """amqp.status(): the brokers that this session has used."""
    transaction = session.transaction
    rows = []
    for _, broker in sorted(session.brokers.items()):
        # Whoever asks wants to know what is, not what was when the connection was last used.
        broker.listen(IN_CALL)
        connection = broker.channel.connection if broker.channel else _to_ask(broker)
        address = connection.address if connection else None
        rows.append(
            (
                broker.broker_id,
                connection is not None,
                address and address.host,
                address and address.port,
                address and address.vhost,
                address and address.ssl,
                connection and showable(connection.server_product),
                connection and showable(connection.server_version),
                connection and _timestamp(connection.connected_at),
                broker.counters.published,
                broker.counters.confirmed,
                broker.counters.returned,
                broker.counters.failed,
                transaction.buffer.pending(broker.broker_id) if transaction else 0,
                broker.kept.messages,
                broker.last_error,
                broker.last_error_at and _timestamp(broker.last_error_at),
            )
        )
    return rows


def _to_ask(broker: Broker) -> Connection | None:
    """The connection for requests, if there is one that lives."""
    if broker.requester is None:
        return None
    connection = broker.requester.connection
    try:
        connection.receive()
    except ConnectionLostError:
        return None
    except ChannelClosedError:
        # The next request opens it again.
        pass
    return connection


def ping(broker_id: int | None) -> tuple[Any, ...]:
    """amqp.ping(): a round trip to the broker, connecting if needed. Raises AMQPError."""
    number = required("broker_id", broker_id)
    if settings.capture.value():
        raise AMQPError(
            "cannot ping a broker while amqp.capture is on",
            sqlstate=WRONG_STATE,
            hint="SET amqp.capture = off;",
        )
    known = session.brokers.get(number)
    if known is not None:
        known.forget_failures()
        session.begun().forget_connection(number)

    def question(channel: PublishingChannel, deadline: float) -> tuple[Any, ...]:
        start = time.perf_counter()
        channel.round_trip(deadline)
        microseconds = (time.perf_counter() - start) * 1e6
        connection = channel.connection
        return (
            connection.address.host,
            connection.address.port,
            showable(connection.server_product),
            showable(connection.server_version),
            f"{microseconds:.0f} microseconds",
        )

    return ask(number, "a round trip", question, writes=False)


def disconnect(broker_id: int | None) -> None:
    """amqp.disconnect(): close the connection; what is pending still goes out at commit."""
    if broker_id in session.brokers:
        session.brokers[broker_id].close(IN_CALL)
        session.begun().forget_connection(broker_id)
