"""One call of a SQL function that speaks with a broker: connection, errors, `amqp.on_failure`."""

from __future__ import annotations

from pg_amqp_py.backend import server, session, settings
from pg_amqp_py.backend.errors import (
    UNDEFINED_OBJECT,
    AMQPError,
    invalid_message,
    lost,
    refused,
    required,
    words,
)
from pg_amqp_py.wire.errors import (
    NOT_FOUND,
    ChannelClosedError,
    ConnectionLostError,
    MessageError,
    StalledError,
)
from pg_amqp_py.wire.properties import short_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pg_amqp_py.wire.connection import Connection

    Result = TypeVar("Result")


def tolerated(error: AMQPError) -> bool:
    """Whether `amqp.on_failure` asks for a WARNING instead of the error; then it is given."""
    if settings.on_failure.value() != "warn":
        return False
    session.warn_once(error)
    return True


def ask(
    broker_id: int | None,
    what: str,
    question: Callable[[Connection, float], Result],
    *,
    writes: bool = True,
    of_queues: bool = False,
) -> Result:
    """Ask the broker something, on a new connection if the idle one turns out to be dead.

    `question` gets the connection and a deadline. Unless it `writes`, what is kept for the broker
    is not written before it; if it is `of_queues`, nothing is awaited on the connection that could
    be lost with it. Raises AMQPError.
    """
    number = required("broker_id", broker_id)
    for last_try in (False, True):
        if of_queues:
            session.set_aside(number)
        connection = session.connection(number) if writes else session.reach(number)
        connection.on_wait = server.check_interrupts
        broker = session.brokers[number]
        try:
            return question(connection, session.deadline())
        except ChannelClosedError as error:
            raise broker.note(refused(what, error)) from None
        except (ConnectionLostError, StalledError) as error:
            session.forget_connection(number)
            if last_try or isinstance(error, StalledError):
                raise broker.note(lost(number, error)) from None
        except MessageError as error:
            raise invalid_message(error) from None
        finally:
            broker.report_late_refusal()
    raise AssertionError("unreachable")


def publisher(broker_id: int | None, exchange: str, routing_key: str) -> Connection:
    """The connection to publish on, to an exchange that exists. Raises AMQPError."""
    number = required("broker_id", broker_id)

    def look(current: Connection, deadline: float) -> Connection:
        short_string("exchange", exchange)
        try:
            current.require_exchange(exchange, deadline)
        except ChannelClosedError as error:
            if error.code != NOT_FOUND:
                raise
            raise session.brokers[number].note(
                AMQPError(
                    f'exchange "{exchange}" does not exist on broker {number}',
                    sqlstate=UNDEFINED_OBJECT,
                    detail=words(error),
                    hint=f"Declare it: SELECT amqp.exchange_declare({number}, {_literal(exchange)},"
                    " 'topic', false, true);",
                )
            ) from None
        return current

    connection = ask(number, f'exchange "{exchange}"', look)
    session.brokers[number].refuse_if_stuck(exchange, routing_key)
    return connection


def _literal(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
