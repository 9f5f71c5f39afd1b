"""Delivering a batch to a broker, on as many connections as it takes, and saying what failed.

After a commit there is nothing left to fail: the transaction is durable. So nothing raises there
for a message's sake; what did not arrive is reported by WARNING, and kept on its broker. What was
written whole stays awaited on its connection; what was not, or whose connection broke, is written
again before anything newer: when a transaction first needs the broker, and at every commit.
"""

from __future__ import annotations

import time
from itertools import cycle

from pg_amqp_py.backend import server, settings
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
    from pg_amqp_py.backend.buffer import Outgoing
    from pg_amqp_py.wire.address import Address
    from pg_amqp_py.wire.connection import Connection
    from pg_amqp_py.wire.errors import WireError

    Item = TypeVar("Item")

MOST_WARNINGS = 10
"""Distinct causes that are reported one by one; a bulk load may have one for every row."""
_PAUSE = 0.1
_RETRY = 1.0
"""Seconds that a transaction spends at most on what earlier ones have left: they have waited."""
_ANSWER = 2.0
"""Seconds in which a broker that lives answers a question."""
_GRACE = 0.1
"""Seconds to wait for queues that have kept others waiting in vain already."""
_BARRIER = 5.0
"""Seconds after which a commit stops waiting where the whole server waits for this backend, as
DROP DATABASE makes it do (src/backend/storage/ipc/procsignal.c)."""


class _CommitWait:
    """Called while a commit waits: nothing may raise there but what ends the wait."""

    def __init__(self) -> None:
        self._barrier_at = time.monotonic() + _BARRIER

    def __call__(self) -> None:
        """Raise StalledError if the server wants this backend to go on."""
        if self.ended:
            raise StalledError("the wait was ended by a cancel or a shutdown request")

    @property
    def ended(self) -> bool:
        """Whether an administrator, or the client, has ended the wait."""
        return server.interrupted() or (
            server.barrier_pending() and time.monotonic() > self._barrier_at
        )


def deliver_committed(outgoing: list[Outgoing], brokers: dict[int, Broker]) -> None:
    """Publish what a transaction left behind; runs inside the commit callback.

    First what is kept, so that nothing newer overtakes it.
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
        or broker.kept
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
        if all(kept.batch.awaited for kept in broker.kept):
            error = deliver(broker, batch, confirm=confirm, on_wait=_CommitWait())
            _report_refused(broker, batch)
        else:
            # What could not be written again yet must not be overtaken.
            broker.published += batch.pending
            error = ConnectionLostError(broker.last_error or "")
        if batch.pending:
            _report_pending(broker, batch, error)
    finally:
        # Whatever goes wrong with delivering and reporting: what is pending must not be lost.
        if batch.pending:
            broker.kept.append(Kept(batch, confirm=confirm))


def _retry(broker: Broker) -> None:
    """Try at a commit to deliver what is kept, in silence: that it is, has been reported."""
    wait = _CommitWait()
    try:
        broker.listen(wait)
        _collect(broker)
        if all(kept.batch.awaited for kept in broker.kept):
            return
        ready(broker, _RETRY / len(broker.addresses), wait)
    except (AMQPError, StalledError):
        # The broker has noted it.
        pass
    except Exception as error:
        warn(
            f"publishing to broker {broker.broker_id} failed: {error!r}",
            sqlstate=INTERNAL_ERROR,
        )


def ready(broker: Broker, connect_timeout: float, on_wait: Callable[[], None]) -> Connection:
    """The connection of a broker to which everything kept has been written, in order.

    What was written whole stays awaited on its connection for as long as that lives. Raises
    AMQPError if there is no connection or if something could not be written, and whatever
    `on_wait` raises.
    """
    while True:
        broker.listen(on_wait)
        _collect(broker)
        connection = broker.ready(connect_timeout, on_wait)
        again = next((kept for kept in broker.kept if not kept.batch.awaited), None)
        if again is None:
            return connection
        batch = again.batch
        confirmed = batch.confirmed
        try:
            timeout = settings.confirm_timeout.value_or_default()
            patience = min(timeout, _RETRY)
            batch.write(connection, timeout, confirm_timeout=patience, confirm=again.confirm)
        except (ConnectionLostError, StalledError) as error:
            if _awaits(broker, batch, connection):
                broker.last_error = _unconfirmed(broker)
                continue
            broker.give_up(connection, error)
            if batch.pending:
                broker.refuse_if_blocked(connection)
                raise broker.note(_still_unconfirmed(broker, error)) from None
        finally:
            _count(broker, batch, confirmed)
            _report_refused(broker, batch)


def _collect(broker: Broker) -> None:
    """Take in what has become of kept messages meanwhile."""
    for kept in broker.kept:
        confirmed = kept.batch.confirmed
        kept.batch.collect()
        _count(broker, kept.batch, confirmed)
        _report_refused(broker, kept.batch)
    if broker.kept and not all(kept.batch.pending for kept in broker.kept):
        broker.kept[:] = [kept for kept in broker.kept if kept.batch.pending]
        if not broker.kept:
            # A host that has confirmed them has made up for whatever it failed in before.
            broker.forget_failures()


def _awaits(broker: Broker, batch: Batch, connection: Connection) -> bool:
    """Whether the confirms that did not come in time may still come: the connection lives.

    An answer tells a queue that is slow or stuck from a peer that is gone. A blocked broker reads
    nothing, and has said so. One that reads nothing because queues do not take what it has read
    already (RabbitMQ's flow control) says nothing: it is given more time.
    """
    if connection.usable and connection.blocked is None:
        deadline = time.monotonic() + _ANSWER
        try:
            # If the wait was ended before its time, nobody knows.
            silent = not connection.answers(deadline) and time.monotonic() >= deadline
            if silent and connection.usable:
                broker.park(connection)
        except ConnectionLostError:
            return False
    # What has arrived meanwhile.
    batch.collect()
    return batch.awaited


def _unconfirmed(broker: Broker) -> str:
    answers = "answers, but" if broker.connection else "does not answer;"
    return f"the broker {answers} a queue has not confirmed them"


def _still_unconfirmed(broker: Broker, error: WireError) -> AMQPError:
    return AMQPError(
        f"broker {broker.broker_id} has not confirmed messages of earlier transactions",
        sqlstate=CONNECTION_FAILURE,
        detail=f"Number of messages: {broker.unconfirmed}. Last error: {error}",
        hint="They are kept, and go out before anything newer.",
    )


def lost(broker: Broker) -> str:
    """What to say of the kept messages of a broker when nobody will deliver them any more."""
    places = [place for kept in broker.kept for place in kept.batch.pending_places()]
    awaited = all(kept.batch.awaited for kept in broker.kept)
    fate = "written, but not known to have arrived," if awaited else "lost"
    return (
        f"amqp: {_messages(broker.unconfirmed)} not confirmed by broker {broker.broker_id} {fate}"
        f" at the end of the session; exchange and number of messages: {_exchanges(places)};"
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
    stuck = broker.stuck_places()
    patience = min(timeout, _GRACE) if stuck else timeout
    failure: WireError
    while True:
        connection = broker.connection
        try:
            if connection is None:
                left = max(give_up - time.monotonic(), _PAUSE) / len(broker.addresses)
                connection = broker.connect(next(hosts), left, on_wait)
            connection.on_wait = on_wait
            batch.write(connection, timeout, confirm_timeout=patience, confirm=confirm)
            return None
        except StalledError as error:
            failure = error
            if connection is None or not connection.usable:
                broker.connection = None
                break
            if patience < timeout and not stuck.issuperset(batch.pending_places()):
                # Others, which have a right to be waited for.
                patience = timeout
                continue
            awaited = _awaits(broker, batch, connection)
            if not batch.pending:
                return None
            if not connection.usable:
                broker.connection = None
            if awaited or not connection.usable:
                failure = StalledError(_unconfirmed(broker)) if awaited else failure
                break
        except ConnectionLostError as error:
            failure = error
            broker.connection = None
            if confirmed is None or batch.confirmed > confirmed:
                give_up, confirmed = time.monotonic() + timeout, batch.confirmed
            else:
                time.sleep(_PAUSE)
        except ConnectError as error:
            failure = error
            # A host that refuses does so at once: it is not asked without a pause.
            time.sleep(_PAUSE)
        if not batch.pending or time.monotonic() >= give_up:
            break
        try:
            on_wait()
        except StalledError as ended:
            failure = ended
            break
    broker.last_error = showable(str(failure))
    return failure if batch.pending else None


def _hosts(broker: Broker) -> Iterator[Address]:
    """The hosts of the broker in turn, for ever, beginning with the one last connected to."""
    addresses = broker.addresses
    current = broker.connection.address if broker.connection else None
    first = addresses.index(current) if current in addresses else 0
    return cycle(addresses[first:] + addresses[:first])


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
    if batch.awaited:
        hint = (
            "The transaction is committed. These messages are written, and their confirms are"
            " awaited; they are only written again if the connection breaks."
        )
    else:
        hint = (
            "The transaction is committed. These messages may or may not have arrived;"
            " they are kept, and tried again at the next transactions of this session."
        )
    warn(
        f"{_messages(batch.pending)} not confirmed by broker {number}",
        sqlstate=CONNECTION_FAILURE,
        detail=f"Exchange and number of messages: {_exchanges(batch.pending_places())}."
        f" Last error: {reason}",
        hint=hint,
    )


def _exchanges(places: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f'"{name}" ({n})' for name, n in _most_common(name for name, _ in places))


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
