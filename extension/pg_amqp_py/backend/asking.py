"""One call of a SQL function: who may make it, the broker's answer, `amqp.on_failure`."""

from __future__ import annotations

import time

from pg_amqp_py.backend import server, settings
from pg_amqp_py.backend.broker import Broker
from pg_amqp_py.backend.delivering import write_kept
from pg_amqp_py.backend.errors import (
    INSUFFICIENT_PRIVILEGE,
    UNDEFINED_OBJECT,
    WRONG_STATE,
    AMQPError,
    broker_says,
    from_wire,
)
from pg_amqp_py.backend.server import IN_CALL, Statement
from pg_amqp_py.backend.session import session
from pg_amqp_py.backend.tables import read_addresses
from pg_amqp_py.wire.errors import (
    NOT_FOUND,
    ChannelClosedError,
    ConnectionLostError,
    MessageError,
    WireError,
)
from pg_amqp_py.wire.properties import short_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pg_amqp_py.wire.channel import PublishingChannel

    Result = TypeVar("Result")

# Names and operators are qualified: the caller's search_path means nothing here.
_find_schema = Statement("""
SELECT n.nspname OPERATOR(pg_catalog.=) 'amqp' AS named,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS usable
FROM pg_catalog.pg_extension AS e
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
WHERE e.extname OPERATOR(pg_catalog.=) 'pg_amqp_py'
""")


def require_usage() -> None:
    """Raise AMQPError unless the current user may use the functions.

    That is whoever has USAGE on schema amqp, whatever way a call comes by. PostgreSQL looks at it
    where a name is looked up: not in a plan that another role of the same session has made, and
    not for the functions of schema amqp_inner, which everybody may call.
    """
    if session.permitted.get(server.current_user()) != server.catalog_version():
        check_usage()


def check_usage() -> None:
    """Raise AMQPError unless the current user has USAGE on the extension's schema.

    It costs as much as several messages, so the session remembers who has it, until the next
    change to a catalog.
    """
    server.refuse_parallel_mode()
    version = server.catalog_version()
    found = _find_schema()
    # Not what an owner of the schema has put in its place: see docs/explanation/rights.md.
    if not len(found) or not found[0]["named"]:
        raise AMQPError(
            'the schema of extension "pg_amqp_py" is no longer named "amqp"', sqlstate=WRONG_STATE
        )
    if not found[0]["usable"]:
        raise AMQPError("permission denied for schema amqp", sqlstate=INSUFFICIENT_PRIVILEGE)
    session.permit(server.current_user(), version, dated=not server.sees_the_present())


def tolerated(error: AMQPError) -> bool:
    """Whether `amqp.on_failure` asks for a WARNING instead of the error; then it is given.

    The same one is only counted for the rest of a transaction.
    """
    if settings.on_failure.value() != "warn":
        return False
    if session.begun().count_tolerated(str(error)) == 1:
        IN_CALL.warn_of(error)
    return True


def broker(broker_id: int) -> Broker:
    """The broker with the row that it has now. Raises AMQPError (42704) if it has none.

    The row is only read again when it may have changed: a trigger on the table announces
    every change like one of the catalogs. Reading it costs as much as all the rest of a publish().
    """
    version = server.catalog_version()
    known = session.brokers.get(broker_id)
    if known is not None and known.read_at == version:
        return known
    addresses = read_addresses(broker_id)
    if not addresses:
        if known is not None:
            known.close(IN_CALL)
        raise AMQPError(
            f"broker {broker_id} does not exist",
            sqlstate=UNDEFINED_OBJECT,
            detail=f'Table "amqp.broker" has no row with broker_id {broker_id}.',
            hint="Add one: SELECT amqp.add_broker('amqp://user:password@host/vhost');",
        )
    if known is None:
        known = session.brokers[broker_id] = Broker(broker_id)
    # What an old snapshot shows may have changed since: good for this transaction only.
    known.configure(addresses, version if server.sees_the_present() else None, IN_CALL)
    return known


def channel(broker_id: int) -> PublishingChannel:
    """The connection of a broker, looked after once in every transaction."""
    transaction = session.transaction
    found = None if transaction is None else transaction.usable.get(broker_id)
    if found is None:
        settings.check()
        timeout = settings.connect_timeout.value()
        found = write_kept(broker(broker_id), timeout, IN_CALL)
        session.begun().usable[broker_id] = found
    return found


def deadline() -> float:
    """time.monotonic() until which a broker may take to answer a question."""
    timeout: float = settings.connect_timeout.value()
    return time.monotonic() + timeout


def ask(
    broker_id: int,
    what: str,
    question: Callable[[PublishingChannel, float], Result],
    *,
    writes: bool = True,
    of_queues: bool = False,
) -> Result:
    """Ask the broker something, on a new connection if the idle one turns out to be dead.

    `question` gets the channel and a deadline. Unless it `writes`, what is kept for the broker
    is not written before it; if it is `of_queues`, nothing is awaited on the connection that could
    be lost with it. Raises AMQPError.
    """
    for last_try in (False, True):
        if of_queues:
            _set_aside(broker_id)
        current = channel(broker_id) if writes else _reach(broker_id)
        current.connection.while_waiting(IN_CALL.on_wait)
        known = session.brokers[broker_id]
        try:
            return question(current, deadline())
        except MessageError as error:
            # No fault of the broker's.
            raise from_wire(error, broker_id, what) from None
        except WireError as error:
            if not isinstance(error, ChannelClosedError):
                session.begun().forget_connection(broker_id)
            broken = isinstance(error, ConnectionLostError) and not error.refuses
            if last_try or not broken:
                raise known.note(from_wire(error, broker_id, what)) from None
        finally:
            known.report_late_refusal(IN_CALL)
    raise AssertionError("unreachable")


def _set_aside(broker_id: int) -> None:
    """Ask on another connection than the one on which confirms are awaited."""
    known = session.brokers.get(broker_id)
    if known is not None and known.kept.batches:
        channel(broker_id)
        known.set_aside()
        session.begun().forget_connection(broker_id)


def _reach(broker_id: int) -> PublishingChannel:
    """The connection of a broker for a question that nothing kept must go before."""
    settings.check()
    return broker(broker_id).look_after(settings.connect_timeout.value(), IN_CALL)


def channel_with(broker_id: int, exchange: str, routing_key: str) -> PublishingChannel:
    """The connection to publish on, to an exchange that exists. Raises AMQPError."""

    def look(current: PublishingChannel, deadline: float) -> PublishingChannel:
        short_string("exchange", exchange)
        try:
            current.require_exchange(exchange, deadline)
        except ChannelClosedError as error:
            if error.code != NOT_FOUND:
                raise
            raise session.brokers[broker_id].note(
                AMQPError(
                    f'exchange "{exchange}" does not exist on broker {broker_id}',
                    sqlstate=UNDEFINED_OBJECT,
                    detail=broker_says(error),
                    hint="The exchange comes before the template of routing keys."
                    if "{" in exchange
                    else "Declare it: SELECT amqp.exchange_declare("
                    f"{broker_id}, {_literal(exchange)}, 'topic');",
                )
            ) from None
        return current

    found = ask(broker_id, f'exchange "{exchange}"', look)
    session.brokers[broker_id].refuse_if_stuck(exchange, routing_key)
    return found


def _literal(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
