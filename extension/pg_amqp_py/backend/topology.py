"""The SQL functions that change what the broker holds: exchanges, queues, bindings.

They take effect at once: the broker knows nothing of the transaction.
"""

from __future__ import annotations

from typing import Any

from pg_amqp_py.backend import settings
from pg_amqp_py.backend.asking import ask, tolerated
from pg_amqp_py.backend.errors import INVALID_PARAMETER, AMQPError, invalid_message, required
from pg_amqp_py.wire.channel import PublishingChannel
from pg_amqp_py.wire.errors import MessageError, TooLargeError
from pg_amqp_py.wire.pika_methods import encode, encode_with_arguments, spec
from pg_amqp_py.wire.properties import short_string
from pg_amqp_py.wire.table import encode_table, parse_table

Text = str | None
Flag = bool | None
Number = int | None


def exchange_declare(
    broker_id: Number,
    exchange: Text,
    exchange_type: Text,
    passive: Flag,
    durable: Flag,
    auto_delete: Flag,
    internal: Flag,
    arguments: Text,
) -> bool:
    """Create an exchange, or with `passive` only make sure that it exists."""
    return _call(
        broker_id,
        spec.Exchange.Declare,
        spec.Exchange.DeclareOk,
        f'to declare exchange "{exchange}"',
        names={"exchange": exchange, "type": "direct" if passive else exchange_type},
        flags={
            "passive": passive,
            "durable": durable,
            "auto_delete": auto_delete,
            "internal": internal,
        },
        arguments=arguments,
    )


def exchange_delete(broker_id: Number, exchange: Text, if_unused: Flag) -> bool:
    """Delete an exchange."""
    return _call(
        broker_id,
        spec.Exchange.Delete,
        spec.Exchange.DeleteOk,
        f'to delete exchange "{exchange}"',
        names={"exchange": exchange},
        flags={"if_unused": if_unused},
    )


def exchange_bind(
    broker_id: Number, destination: Text, source: Text, routing_key: Text, arguments: Text
) -> bool:
    """Route messages of exchange `source` to exchange `destination` as well."""
    return _call(
        broker_id,
        spec.Exchange.Bind,
        spec.Exchange.BindOk,
        f'to bind exchange "{destination}" to "{source}"',
        names={"destination": destination, "source": source, "routing_key": routing_key or ""},
        arguments=arguments,
    )


def exchange_unbind(
    broker_id: Number, destination: Text, source: Text, routing_key: Text, arguments: Text
) -> bool:
    """Undo exchange_bind()."""
    return _call(
        broker_id,
        spec.Exchange.Unbind,
        spec.Exchange.UnbindOk,
        f'to unbind exchange "{destination}" from "{source}"',
        names={"destination": destination, "source": source, "routing_key": routing_key or ""},
        arguments=arguments,
    )


def queue_declare(
    broker_id: Number,
    queue: Text,
    passive: Flag,
    durable: Flag,
    exclusive: Flag,
    auto_delete: Flag,
    arguments: Text,
) -> bool:
    """Create a queue, or with `passive` only make sure that it exists."""
    return _call(
        broker_id,
        spec.Queue.Declare,
        spec.Queue.DeclareOk,
        f'to declare queue "{queue}"',
        names={"queue": queue},
        flags={
            "passive": passive,
            "durable": durable,
            "exclusive": exclusive,
            "auto_delete": auto_delete,
        },
        arguments=arguments,
    )


def queue_bind(
    broker_id: Number, queue: Text, exchange: Text, routing_key: Text, arguments: Text
) -> bool:
    """Route messages of an exchange to a queue."""
    return _call(
        broker_id,
        spec.Queue.Bind,
        spec.Queue.BindOk,
        f'to bind queue "{queue}" to exchange "{exchange}"',
        names={"queue": queue, "exchange": exchange, "routing_key": routing_key or ""},
        arguments=arguments,
    )


def queue_unbind(
    broker_id: Number, queue: Text, exchange: Text, routing_key: Text, arguments: Text
) -> bool:
    """Undo queue_bind()."""
    return _call(
        broker_id,
        spec.Queue.Unbind,
        spec.Queue.UnbindOk,
        f'to unbind queue "{queue}" from exchange "{exchange}"',
        names={"queue": queue, "exchange": exchange, "routing_key": routing_key or ""},
        arguments=arguments,
    )


def queue_purge(broker_id: Number, queue: Text) -> bool:
    """Drop the messages of a queue that nobody has been given yet."""
    return _call(
        broker_id,
        spec.Queue.Purge,
        spec.Queue.PurgeOk,
        f'to purge queue "{queue}"',
        names={"queue": queue},
    )


def queue_delete(broker_id: Number, queue: Text, if_unused: Flag, if_empty: Flag) -> bool:
    """Delete a queue with the messages in it."""
    return _call(
        broker_id,
        spec.Queue.Delete,
        spec.Queue.DeleteOk,
        f'to delete queue "{queue}"',
        names={"queue": queue},
        flags={"if_unused": if_unused, "if_empty": if_empty},
    )


def _call(
    broker_id: Number,
    request: Any,
    reply: Any,
    what: str,
    *,
    names: dict[str, Text],
    flags: dict[str, Flag] | None = None,
    arguments: Text = None,
) -> bool:
    """Check the parameters, ask the broker; true, or what `amqp.on_failure` says."""
    try:
        frame = _frame(request, names, flags or {}, arguments)
        if settings.capture.value():
            return True

        def question(channel: PublishingChannel, deadline: float) -> None:
            limit = channel.connection.frame_max
            if len(frame) > limit:
                # The broker would close the connection for it.
                raise TooLargeError(
                    "arguments", f"{len(frame)} bytes as a frame; the limit is {limit}"
                )
            # An exchange that was seen to exist may be gone after this.
            channel.forget_exchanges()
            channel.call(frame, reply.INDEX, deadline)

        ask(required("broker_id", broker_id), what, question, of_queues=True)
    except AMQPError as error:
        if not tolerated(error):
            raise
        return False
    return True


def _frame(request: Any, names: dict[str, Text], flags: dict[str, Flag], arguments: Text) -> bytes:
    fields: dict[str, Any] = {name: bool(flag) for name, flag in flags.items()}
    try:
        for name, value in names.items():
            fields[name] = required(name, value)
            short_string(name, fields[name])
            if not value and name != "routing_key":
                raise AMQPError(f"{name} must not be empty", sqlstate=INVALID_PARAMETER)
        if arguments is None:
            return encode(request(**fields))
        table = encode_table(parse_table(arguments, "arguments"), "arguments")
        return encode_with_arguments(request(**fields), table)
    except MessageError as error:
        raise invalid_message(error) from None
