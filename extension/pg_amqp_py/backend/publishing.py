"""The SQL functions amqp.publish(), amqp.autonomous_publish() and those of triggers."""

from __future__ import annotations

import plpy

from pg_amqp_py.backend import server, settings
from pg_amqp_py.backend.asking import channel_with, check_usage, tolerated
from pg_amqp_py.backend.buffer import Destination
from pg_amqp_py.backend.delivering import deliver, returned
from pg_amqp_py.backend.errors import (
    CONNECTION_FAILURE,
    WRONG_STATE,
    AMQPError,
    from_server,
    invalid_message,
    null,
)
from pg_amqp_py.backend.server import IN_CALL
from pg_amqp_py.backend.session import session
from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import MessageError, RangeError
from pg_amqp_py.wire.fields import EXCHANGE, PLACE, other_fields
from pg_amqp_py.wire.table import parse_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pg_amqp_py.backend.session import Transaction
    from pg_amqp_py.wire.channel import PublishingChannel

# For each message, so without a look into the modules.
_current_user = server.current_user
_current_subtransaction = server.current_subtransaction
_permitted = session.permitted.get
_capture = settings.capture
# Nearly always the default: to compare the text costs less than a call.
_capture_text = settings.capture.option
_on_failure_text = settings.on_failure.option
_synchronous_commit_text = settings.synchronous_commit.option
_invalidations = server.invalidations
_capturing = Encoder()
_to_epoch: Callable[[str], int] | None = None
_JSON: Any = other_fields(content_type="application/json")


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
    while True:
        try:
            fields = (
                "amq.direct" if exchange is None else exchange,
                routing_key or "",
                delivery_mode,
                content_type,
                reply_to,
                correlation_id,
                bool(mandatory),
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
            if broker_id is None:
                raise null("broker_id")
            if _capture_text.value != b"off" and _capture.value():
                destination, encoder = Destination(broker_id, captured=True), _capturing
            elif autonomous:
                _publish_now(broker_id, fields, body)
                return True
            else:
                channel = way_to(session.transaction, broker_id, fields)
                if channel is None:
                    _put(broker_id, fields, body)
                    return True
                destination, encoder = session.brokers[broker_id].destination, channel.encoder
            transaction = session.transaction or session.begun()
            transaction.buffer.append(
                _current_subtransaction(), user, destination, encoder, fields, body
            )
            return True
        except (AMQPError, MessageError) as failure:
            error = invalid_message(failure) if isinstance(failure, MessageError) else failure
            if _is_unknown_mode(failure) and tolerated(error):
                # The C extension warns of a mode that it does not know, and goes on without.
                delivery_mode = None
                continue
            _count_failure(broker_id)
            if not tolerated(error):
                # PostgreSQL shows a traceback as CONTEXT, and ours would say nothing to the user.
                raise error.with_traceback(None) from None
            return False
        except plpy.SPIError as interrupt:
            raise from_server(interrupt) from None


def _count_failure(broker_id: int | None) -> None:
    if broker_id in session.brokers:
        session.brokers[broker_id].counters.failed += 1


def _is_unknown_mode(failure: Exception) -> bool:
    return isinstance(failure, RangeError) and failure.field == "delivery_mode"


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


def publish_change_failed(
    broker_id: int,
    schema: str,
    table: str,
    operation: str,
    sqlstate: str,
    reason: str,
    detail: str,
    hint: str,
) -> bool:
    """What publish_change() does with a row that no message can be made of, for this reason.

    Returns False if that is to be tolerated; else it raises AMQPError.
    """
    _count_failure(broker_id)
    error = AMQPError(
        f'cannot make a message of a row of table "{schema}.{table}"',
        sqlstate=sqlstate,
        detail=f'Table "{schema}.{table}", {operation}: {reason}. {detail}'.rstrip(),
        hint=hint or "A message has what to_jsonb() makes of a row: try it with this one.",
    )
    if not tolerated(error):
        raise error
    return False


_CHANGE_PROPERTIES = ["delivery_mode", "mandatory", "priority", "expiration", "type", "app_id"]


def _properties(text: str) -> tuple[Any, ...]:
    """Parameters of publish() behind the message, by a JSON object of some of them."""
    # Here, because most sessions fire no such trigger.
    from json import dumps

    given = parse_table(text, "properties")
    headers = dumps(given["headers"], ensure_ascii=False) if "headers" in given else None
    others = {name: given.get(name) for name in _CHANGE_PROPERTIES}
    return other_fields(content_type="application/json", headers=headers, **others)


def way_to(
    transaction: Transaction | None, broker_id: int, fields: tuple[Any, ...]
) -> PublishingChannel | None:
    """The connection to publish a message on; None if the message belongs into the outbox.

    Raises AMQPError, or MessageError if nobody could publish it.
    """
    # 1. This transaction has published there before.
    if transaction is not None:
        channel = transaction.publishing.get(broker_id)
        if channel is not None and fields[EXCHANGE] in channel.exchanges:
            kept = session.brokers[broker_id].kept
            if not kept.batches or not kept.is_stuck(*fields[PLACE]):
                return channel
    server.refuse_parallel_mode()
    # 2. All is as it was when the connection was last used. 3. What is not is mended.
    channel = _unchanged(broker_id, fields[EXCHANGE]) or _mended(broker_id, fields)
    if channel is not None:
        session.begun().let_publish(broker_id, channel)
        if _synchronous_commit_text.value == b"on" or settings.synchronous_commit.value():
            # Whoever receives the message must not find its row gone after a crash of this server.
            server.force_sync_commit()
            if not server.synchronous_commit.value:
                # Nor what this session has committed before.
                server.flush_wal()
    return channel


def _unchanged(broker_id: int, exchange: str) -> PublishingChannel | None:
    """The connection, if nothing has changed: this is how nearly every transaction begins.

    To find out and mend whatever has changed would cost it more than all the rest.
    """
    broker = session.brokers.get(broker_id)
    if broker is None or broker.kept.batches or broker.read_at != _invalidations.value:
        return None
    channel = broker.channel
    if channel is None or exchange not in channel.exchanges:
        return None
    settings.check()
    to_outbox = _on_failure_text.value != b"error" and settings.on_failure.value() == "outbox"
    return None if to_outbox or not channel.quiet() else channel


def _mended(broker_id: int, fields: tuple[Any, ...]) -> PublishingChannel | None:
    """The connection, with all that it takes to get one; None if nothing helps but the outbox."""
    if settings.on_failure.value() == "outbox":
        from pg_amqp_py.backend.to_outbox import channel_or_outbox

        return channel_or_outbox(broker_id, fields)
    return channel_with(broker_id, *fields[PLACE])


def _put(broker_id: int, fields: tuple[Any, ...], body: bytes) -> None:
    from pg_amqp_py.backend.to_outbox import put

    put(broker_id, fields, body)


def _publish_now(broker_id: int, fields: tuple[Any, ...], body: bytes) -> None:
    server.refuse_parallel_mode()
    channel = channel_with(broker_id, *fields[PLACE])
    broker = session.brokers[broker_id]
    stream = bytearray()
    channel.encoder.append(stream, fields, body)
    batch = Batch(stream, [0], channel.encoder.frame_max)
    error = deliver(broker, batch, IN_CALL, confirm=True)
    if batch.pending:
        session.begun().forget_connection(broker_id)
        raise broker.note(
            AMQPError(
                f"message was not confirmed by broker {broker_id}",
                sqlstate=CONNECTION_FAILURE,
                detail=f"Reason: {error}",
                hint="It may or may not have arrived.",
            )
        )
    for causes, what in (batch.refused, "refused"), (returned(batch), "returned as unroutable"):
        for cause in causes:
            raise broker.note(
                AMQPError(
                    f"message to {cause.place} was {what} by broker {broker_id}",
                    sqlstate=WRONG_STATE,
                    detail=f"The broker says: {cause.text}",
                )
            )


def _epoch(timestamp: str) -> int:
    global _to_epoch
    if _to_epoch is None:
        # Here, because most sessions never publish a timestamp; and once, because an import that
        # finds its module loaded costs more than all that is done with it.
        from pg_amqp_py.backend.timestamps import epoch

        _to_epoch = epoch
    return _to_epoch(timestamp)
