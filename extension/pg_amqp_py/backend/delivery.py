"""Delivering a batch to a broker, on as many connections as it takes, and saying what failed.

After a commit there is nothing left to fail: the transaction is durable. So nothing raises there
for a message's sake; what did not arrive is reported by WARNING, and kept on its broker. It is
tried again before anything newer: when a transaction first needs the broker, and at every commit.
"""

from __future__ import annotations

import time
from itertools import cycle

from pg_amqp_py.backend import settings
from pg_amqp_py.backend.broker import Kept
from pg_amqp_py.backend.errors import (
    CONNECTION_FAILURE,
    INTERNAL_ERROR,
    WRONG_STATE,
    AMQPError,
    showable,
    warn,
)
from pg_amqp_py.wire.delivery import Batch, write_small
from pg_amqp_py.wire.errors import ConnectError, ConnectionLostError, StalledError
from pg_amqp_py.wire.refusal import Cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    from pg_amqp_py.backend.broker import Broker
    from pg_amqp_py.backend.transaction import Outgoing
    from pg_amqp_py.wire.address import Address
    from pg_amqp_py.wire.connection import Connection
    from pg_amqp_py.wire.errors import WireError

    Item = TypeVar("Item")

MOST_WARNINGS = 10
"""Distinct causes that are reported one by one; a bulk load may have one for every row."""
_PAUSE = 0.1


def deliver_committed(outgoing: list[Outgoing], brokers: dict[int, Broker]) -> None:
    """Publish what a transaction left behind; runs inside the commit callback.

    First what is kept. Where new messages are pending nothing is: they were only taken when it had
    been delivered.
    """
    if settings.capture.value_or_default():
        return
    for broker in brokers.values():
        if broker.kept:
            _retry(broker)
    confirm = settings.publisher_confirms.value_or_default()
    for part in outgoing:
        broker = brokers[part.destination.broker_id]
        try:
            batch = _begin(broker, part, confirm)
            if batch is not None:
                _finish(broker, batch, confirm)
        except Exception as error:
            # A defect of ours, which must stop neither the others nor the commit.
            warn(
                f"publishing to broker {broker.broker_id} failed: {error!r}",
                sqlstate=INTERNAL_ERROR,
            )


def _begin(broker: Broker, part: Outgoing, confirm: bool) -> Batch | None:
    """Publish at once if all is well; otherwise return the batch that is left to be delivered."""
    connection = broker.connection
    if (
        connection is None
        or not connection.usable
        or connection.blocked is not None
        or connection.encoder.frame_max < broker.frame_max
    ):
        return Batch(part.stream, part.starts, broker.frame_max)
    batch = write_small(connection, part.stream, part.starts, confirm=confirm)
    if batch is None:
        messages = len(part.starts)
        broker.published += messages
        if confirm:
            broker.confirmed += messages
    return batch


def _finish(broker: Broker, batch: Batch, confirm: bool) -> None:
    try:
        error = deliver(broker, batch, confirm=confirm, on_wait=_go_on)
        _report_refused(broker, batch)
        if batch.pending:
            _report_pending(broker, batch, error)
    finally:
        # Whatever goes wrong with delivering and reporting: what is pending must not be lost.
        if batch.pending:
            broker.kept.append(Kept(batch, confirm=confirm))


def _retry(broker: Broker) -> None:
    """Try at a commit to deliver what is kept, in silence: that it is, has been reported."""
    timeout = settings.confirm_timeout.value_or_default() / len(broker.addresses)
    try:
        ready(broker, timeout, _go_on)
    except AMQPError:
        # The broker has noted it.
        pass
    except Exception as error:
        warn(
            f"publishing to broker {broker.broker_id} failed: {error!r}",
            sqlstate=INTERNAL_ERROR,
        )


def ready(broker: Broker, connect_timeout: float, on_wait: Callable[[], None]) -> Connection:
    """The connection of a broker to which everything kept has been delivered, in order.

    Raises AMQPError if there is none or if something remains, and whatever `on_wait` raises.
    """
    while True:
        connection = broker.ready(connect_timeout, on_wait)
        if not broker.kept:
            return connection
        batch, confirm = broker.kept[0].batch, broker.kept[0].confirm
        confirmed = batch.confirmed
        try:
            timeout = settings.confirm_timeout.value_or_default()
            batch.write(connection, timeout, confirm=confirm)
        except (ConnectionLostError, StalledError) as error:
            broker.give_up(connection, error)
            if batch.pending:
                broker.refuse_if_blocked(connection)
                raise broker.note(_still_unconfirmed(broker, error)) from None
        finally:
            _count(broker, batch, confirmed)
            _report_refused(broker, batch)
        del broker.kept[0]
        if not broker.kept:
            # A host that has confirmed them has made up for whatever it failed in before.
            broker.forget_failures()


def _still_unconfirmed(broker: Broker, error: WireError) -> AMQPError:
    return AMQPError(
        f"broker {broker.broker_id} has not confirmed messages of earlier transactions",
        sqlstate=CONNECTION_FAILURE,
        detail=f"Number of messages: {broker.unconfirmed}. Last error: {error}",
        hint="They are kept, and go out before anything newer.",
    )


def lost(broker: Broker) -> str:
    """What to say of the kept messages of a broker when nobody will deliver them any more."""
    exchanges = [name for kept in broker.kept for name, _ in kept.batch.pending_places()]
    return (
        f"amqp: {_messages(broker.unconfirmed)} not confirmed by broker {broker.broker_id} lost at"
        f" the end of the session; exchange and number of messages: {_places(exchanges)};"
        f" last error: {broker.last_error}"
    )


def _count(broker: Broker, batch: Batch, confirmed: int) -> None:
    """Count for amqp.status() what became of a batch of which so many were `confirmed` before."""
    broker.report_late_refusal()
    broker.confirmed += batch.confirmed - confirmed
    broker.returned += len(batch.returned)


def deliver(
    broker: Broker, batch: Batch, *, confirm: bool, on_wait: Callable[[], None]
) -> WireError | None:
    """Write a batch until nothing of it is pending, connecting again where needed.

    Gives up amqp.confirm_timeout after the last progress and returns why; None otherwise.
    """
    timeout = settings.confirm_timeout.value_or_default()
    broker.published += batch.pending
    confirmed = batch.confirmed
    try:
        return _deliver(broker, batch, timeout, confirm, on_wait)
    finally:
        _count(broker, batch, confirmed)


def _deliver(
    broker: Broker, batch: Batch, timeout: float, confirm: bool, on_wait: Callable[[], None]
) -> WireError | None:
    hosts = _hosts(broker)
    # Until when to go on without progress. While bytes and confirms move, write() sees to it.
    give_up = time.monotonic() + timeout
    confirmed = None
    while True:
        try:
            connection = broker.connection
            if connection is None:
                left = max(give_up - time.monotonic(), _PAUSE) / len(broker.addresses)
                connection = broker.connect(next(hosts), left, on_wait)
            connection.on_wait = on_wait
            batch.write(connection, timeout, confirm=confirm)
            return None
        except StalledError as error:
            failure: WireError = error
            if connection is None or not connection.usable:
                broker.connection = None
            break
        except ConnectionLostError as error:
            failure = error
            broker.connection = None
            if confirmed is None or batch.confirmed > confirmed:
                give_up, confirmed = time.monotonic() + timeout, batch.confirmed
            else:
                _pause(on_wait)
        except ConnectError as error:
            failure = error
            _pause(on_wait)
        if not batch.pending or time.monotonic() >= give_up:
            break
    broker.last_error = showable(str(failure))
    return failure if batch.pending else None


def _pause(on_wait: Callable[[], None]) -> None:
    """A host that refuses does so at once: it is not asked without a pause."""
    time.sleep(_PAUSE)
    on_wait()


def _hosts(broker: Broker) -> Iterator[Address]:
    """The hosts of the broker in turn, for ever, beginning with the one last connected to."""
    addresses = broker.addresses
    current = broker.connection.address if broker.connection else None
    first = addresses.index(current) if current in addresses else 0
    return cycle(addresses[first:] + addresses[:first])


def _go_on() -> None:
    """Nothing may interrupt the delivery of what is committed."""


def _report_refused(broker: Broker, batch: Batch) -> None:
    """Warn of what the broker would not have, and forget it: a batch that is kept comes again."""
    number = broker.broker_id
    _warn_of(broker, returned(batch), f"returned as unroutable by broker {number}")
    _warn_of(broker, batch.refused, f"refused by broker {number}")
    broker.failed += len(batch.refused)
    batch.returned.clear()
    batch.refused.clear()


def _report_pending(broker: Broker, batch: Batch, error: WireError | None) -> None:
    number = broker.broker_id
    blocked = broker.connection.blocked if broker.connection else None
    reason = f"the broker blocks publishers: {blocked}" if blocked else str(error)
    warn(
        f"{_messages(batch.pending)} not confirmed by broker {number}",
        sqlstate=CONNECTION_FAILURE,
        detail=f"Exchange and number of messages: {_places(name for name, _ in batch.pending_places())}."
        f" Last error: {reason}",
        hint="The transaction is committed. These messages may or may not have arrived;"
        " they are kept, and tried again at the next transactions of this session.",
    )


def _places(exchanges: Iterable[str]) -> str:
    return ", ".join(f'"{name}" ({n})' for name, n in _most_common(exchanges))


def _most_common(items: Iterable[Item]) -> list[tuple[Item, int]]:
    """What there is most of, and how often."""
    # Here, because a session's first publish() shall not wait for it.
    from collections import Counter

    return Counter(items).most_common(MOST_WARNINGS)


def returned(batch: Batch) -> list[Cause]:
    """Why the broker handed messages back as unroutable, and where they were going."""
    return [
        Cause(message.exchange, message.routing_key, message.text) for message in batch.returned
    ]


def _warn_of(broker: Broker, causes: list[Cause], what: str) -> None:
    if not causes:
        return
    shown = _most_common(causes)
    for cause, number in shown:
        broker.last_error = showable(cause.text)
        warn(
            f"{_messages(number)} to {cause.place} {what}",
            sqlstate=WRONG_STATE,
            detail=f"The broker says: {cause.text}",
        )
    rest = len(causes) - sum(number for _, number in shown)
    if rest:
        warn(f"{_messages(rest)} more {what}", sqlstate=WRONG_STATE)


def _messages(number: int) -> str:
    return "1 message" if number == 1 else f"{number} messages"
