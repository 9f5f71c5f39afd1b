"""The SQL functions amqp.publish() and amqp.autonomous_publish()."""

from __future__ import annotations

import plpy

from pg_amqp_py.backend import server, session, settings
from pg_amqp_py.backend.asking import publisher, tolerated
from pg_amqp_py.backend.buffer import Destination
from pg_amqp_py.backend.commit import deliver, returned
from pg_amqp_py.backend.errors import (
    CONNECTION_FAILURE,
    WRONG_STATE,
    AMQPError,
    from_server,
    invalid_message,
    required,
)
from pg_amqp_py.backend.rights import check_usage
from pg_amqp_py.wire.delivery import Batch
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import MessageError, RangeError
from pg_amqp_py.wire.properties import FIELDS
from pg_amqp_py.wire.table import parse_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pg_amqp_py.backend.broker import Broker
    from pg_amqp_py.wire.connection import Connection

# For each message, so without a look into the modules.
_current_user = server.current_user
_permitted = session.permitted.get
_invalidations = server.invalidations
_DELIVERY_MODE = FIELDS.index("delivery_mode")
_capturing = Encoder()
# Parameters of publish() from delivery_mode on.
_JSON: Any = (None, "application/json", *(None,) * 12)


def publish(
    broker_id: int | None,
    exchange: str | None,
    routing_key: str | None,
    message: str | bytes | None,
    delivery_mode: int | None,
    content_type: str | None,
    reply_to: str | None,
    correlation_id: str | None,
    mandatory: bool | None,
    headers: str | None,
    content_encoding: str | None,
    priority: int | None,
    expiration: str | None,
    message_id: str | None,
    timestamp: str | None,
    type: str | None,  # noqa: A002 -- AMQP's own name for it
    user_id: str | None,
    app_id: str | None,
    autonomous: bool = False,
) -> bool:
    """Publish when the transaction commits, or, if `autonomous`, now.

    Parameters are those of the SQL functions, as PL/Python hands them over. Returns whether
    the message was taken, if only by the outbox. Raises AMQPError unless `amqp.on_failure` is
    `warn`.
    """
    user = _current_user()
    if _permitted(user) != _invalidations.value:
        _check_usage()
    try:
        fields = (
            "amq.direct" if exchange is None else exchange,
            routing_key or "",
            bool(mandatory),
            delivery_mode,
            content_type,
            reply_to,
            correlation_id,
            headers,
            content_encoding,
            priority,
            expiration,
            message_id,
            None if timestamp is None else _epoch(timestamp),
            type,
            user_id,
            app_id,
        )
        body = message.encode() if isinstance(message, str) else message or b""
        try:
            return _take(user, broker_id, fields, body, autonomous)
        except RangeError as unknown:
            if unknown.field != "delivery_mode" or not tolerated(invalid_message(unknown)):
                raise
            # The C extension warns of a delivery mode that it does not know, and goes on without.
            without = (*fields[:_DELIVERY_MODE], None, *fields[_DELIVERY_MODE + 1 :])
            return _take(user, broker_id, without, body, autonomous)
    except (AMQPError, MessageError) as failure:
        error = invalid_message(failure) if isinstance(failure, MessageError) else failure
        session.count_failure(broker_id)
        if not tolerated(error):
            # PostgreSQL shows a traceback as CONTEXT, and ours would say nothing to the user.
            raise error.with_traceback(None) from None
        return False
    except plpy.SPIError as interrupt:
        raise from_server(interrupt) from None


def _check_usage() -> None:
    """Whether the caller may publish is no failure of publishing, to be tolerated."""
    try:
        check_usage()
    except AMQPError as error:
        raise error.with_traceback(None) from None
    except plpy.SPIError as interrupt:
        raise from_server(interrupt) from None


def publish_change(
    broker_id: int | None,
    exchange: str | None,
    routing_key: str | None,
    message: str | None,
    properties: str | None = None,
) -> bool:
    """publish() for the messages of triggers; `properties` is a JSON object, or there are none."""
    if properties is None:
        return publish(broker_id, exchange, routing_key, message, *_JSON)
    try:
        given = _properties(properties)
    except MessageError as error:
        raise invalid_message(error).with_traceback(None) from None
    return publish(broker_id, exchange, routing_key, message, *given)


def _properties(text: str) -> tuple[Any, ...]:
    """Parameters of publish() from delivery_mode on, by a JSON object of some of them."""
    # Here, because most sessions fire no such trigger.
    from json import dumps

    given = parse_table(text, "properties")
    headers = dumps(given["headers"], ensure_ascii=False) if "headers" in given else None
    return (
        given.get("delivery_mode"),
        "application/json",
        None,
        None,
        given.get("mandatory"),
        headers,
        None,
        given.get("priority"),
        given.get("expiration"),
        None,
        None,
        given.get("type"),
        None,
        given.get("app_id"),
    )


def _take(
    user: int, broker_id: int | None, fields: tuple[Any, ...], body: bytes, autonomous: bool
) -> bool:
    subtransaction = server.current_subtransaction()
    if settings.capture.value():
        captured = Destination(required("broker_id", broker_id), captured=True)
        session.buffer.append(subtransaction, user, captured, _capturing, fields, body)
        return True
    if autonomous:
        server.refuse_parallel_mode()
        connection = publisher(broker_id, *fields[:2])
        stream = bytearray()
        connection.encoder.append(stream, fields, body)
        assert broker_id is not None
        batch = Batch(stream, [0], connection.encoder.frame_max)
        _publish_now(session.brokers[broker_id], batch)
        return True
    known = session.publishing_to(broker_id)  # type: ignore[arg-type]
    broker = session.brokers.get(broker_id)  # type: ignore[arg-type]
    if (
        known is None
        or broker is None
        or fields[0] not in known.exchanges
        or (broker.kept and broker.is_stuck(*fields[:2]))
    ):
        server.refuse_parallel_mode()
        known = session.unchanged(broker_id, fields[0]) or _publisher(broker_id, fields, body)
        if known is None:
            return True
        broker = session.brokers[required("broker_id", broker_id)]
    session.buffer.append(subtransaction, user, broker.destination, known.encoder, fields, body)
    return True


def _publisher(broker_id: int | None, fields: tuple[Any, ...], body: bytes) -> Connection | None:
    """The connection to publish a message on; None if it went to the outbox instead."""
    if settings.on_failure.value() == "outbox":
        from pg_amqp_py.backend.to_outbox import publisher_or_outbox

        found = publisher_or_outbox(broker_id, fields, body)
    else:
        found = publisher(broker_id, *fields[:2])
    if found is not None:
        assert broker_id is not None
        session.let_publish(broker_id, found)
    return found


def _publish_now(broker: Broker, batch: Batch) -> None:
    error = deliver(broker, batch, confirm=True, on_wait=server.check_interrupts)
    if batch.pending:
        session.forget_connection(broker.broker_id)
        raise broker.note(
            AMQPError(
                f"message was not confirmed by broker {broker.broker_id}",
                sqlstate=CONNECTION_FAILURE,
                detail=f"Reason: {error}",
                hint="It may or may not have arrived.",
            )
        )
    for causes, what in (batch.refused, "refused"), (returned(batch), "returned as unroutable"):
        for cause in causes:
            raise broker.note(
                AMQPError(
                    f"message to {cause.place} was {what} by broker {broker.broker_id}",
                    sqlstate=WRONG_STATE,
                    detail=f"The broker says: {cause.text}",
                )
            )


def _epoch(timestamp: str) -> int:
    # Here, because most sessions never publish a timestamp.
    from pg_amqp_py.backend.timestamps import epoch

    return epoch(timestamp)
