"""Delivering a batch to a broker, on as many connections as it takes, and what is kept before it.

What was written whole stays awaited on its connection; what was not, or whose connection broke, is
written again before anything newer: when a transaction first needs the broker, and at every commit.
"""

from __future__ import annotations

import time
from itertools import cycle

from pg_amqp_py.backend import settings
from pg_amqp_py.backend.errors import CONNECTION_FAILURE, WRONG_STATE, AMQPError
from pg_amqp_py.wire.errors import ConnectError, ConnectionLostError, StalledError
from pg_amqp_py.wire.pump import Patience, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeVar

    from pg_amqp_py.backend.broker import Broker
    from pg_amqp_py.backend.errors import Stage
    from pg_amqp_py.wire.address import Address
    from pg_amqp_py.wire.batch import Batch
    from pg_amqp_py.wire.cause import Cause
    from pg_amqp_py.wire.channel import PublishingChannel
    from pg_amqp_py.wire.errors import WireError

    Item = TypeVar("Item")

MOST_WARNINGS = 10
"""Distinct causes that are reported one by one; a bulk load may have one for every row."""
MOST_SECONDS_FOR_KEPT = 1.0
"""What a transaction spends at most on what earlier ones have left: they have waited."""
_PAUSE = 0.1
_ANSWER = 2.0
"""Seconds in which a broker that lives answers a question."""
_GRACE = 0.1
"""Seconds to wait for queues that have kept others waiting in vain already."""


# -- what is kept ----------------------------------------------------------------------


def write_kept(broker: Broker, connect_timeout: float, stage: Stage) -> PublishingChannel:
    """The connection of a broker to which everything kept has been written, in order.

    What was written whole stays awaited on its connection for as long as that lives. Raises
    AMQPError if there is no connection or if something could not be written, and whatever
    ends the wait.
    """
    while True:
        broker.listen(stage)
        collect_kept(broker, stage)
        channel = broker.look_after(connect_timeout, stage)
        again = broker.kept.to_be_written()
        if again is None:
            return channel
        batch = again.batch
        confirmed = batch.confirmed
        try:
            timeout = settings.confirm_timeout.value_or_default(stage)
            patience = Patience(timeout, confirming=min(timeout, MOST_SECONDS_FOR_KEPT))
            write(batch, channel, patience, confirm=again.confirm)
        except (ConnectionLostError, StalledError) as error:
            if _awaits(broker, batch, channel):
                broker.note_text(_unconfirmed(broker))
                continue
            broker.give_up(channel, error)
            if batch.pending:
                broker.refuse_if_blocked(channel.connection)
                raise broker.note(_still_unconfirmed(broker, error)) from None
        finally:
            _count(broker, batch, confirmed, stage)
            report_refused(broker, batch, stage)


def collect_kept(broker: Broker, stage: Stage) -> None:
    """Take in what has become of kept messages meanwhile."""
    if not broker.kept.batches:
        return
    for kept in broker.kept.batches:
        confirmed = kept.batch.confirmed
        kept.batch.collect()
        _count(broker, kept.batch, confirmed, stage)
        report_refused(broker, kept.batch, stage)
    if broker.kept.forget_settled():
        # A host that has confirmed them has made up for whatever it failed in before.
        broker.forget_failures()


def _awaits(broker: Broker, batch: Batch, channel: PublishingChannel) -> bool:
    """Whether the confirms that did not come in time may still come: the connection lives.

    An answer tells a queue that is slow or stuck from a peer that is gone. A blocked broker reads
    nothing, and has said so. One that reads nothing because queues do not take what it has read
    already (RabbitMQ's flow control) says nothing: it is given more time.
    """
    if channel.usable and channel.blocked is None:
        deadline = time.monotonic() + _ANSWER
        try:
            # If the wait was ended before its time, nobody knows.
            silent = not channel.answers(deadline) and time.monotonic() >= deadline
            if silent and channel.usable:
                broker.park(channel)
        except ConnectionLostError:
            return False
    # What has arrived meanwhile.
    batch.collect()
    return batch.awaited


def _unconfirmed(broker: Broker) -> str:
    answers = "answers, but" if broker.channel else "does not answer;"
    return f"the broker {answers} a queue has not confirmed them"


def _still_unconfirmed(broker: Broker, error: WireError) -> AMQPError:
    return AMQPError(
        f"broker {broker.broker_id} has not confirmed messages of earlier transactions",
        sqlstate=CONNECTION_FAILURE,
        detail=f"Number of messages: {broker.kept.messages}. Last error: {error}",
        hint="They are kept, and go out before anything newer.",
    )


# -- a batch ---------------------------------------------------------------------------


def deliver(broker: Broker, batch: Batch, stage: Stage, *, confirm: bool) -> WireError | None:
    """Write a batch until nothing of it is pending, connecting again where needed.

    Gives up amqp.confirm_timeout after the last progress and returns why; None otherwise.
    """
    timeout = settings.confirm_timeout.value_or_default(stage)
    broker.counters.published += batch.pending
    confirmed = batch.confirmed
    try:
        return _deliver(broker, batch, timeout, confirm, stage)
    finally:
        _count(broker, batch, confirmed, stage)


def _deliver(
    broker: Broker, batch: Batch, timeout: float, confirm: bool, stage: Stage
) -> WireError | None:
    hosts = _hosts(broker)
    # Until when to go on without progress. While bytes and confirms move, write() sees to it.
    give_up = time.monotonic() + timeout
    confirmed = None
    stuck = broker.kept.stuck_places()
    patience = min(timeout, _GRACE) if stuck else timeout
    failure: WireError
    while True:
        channel = broker.channel
        try:
            if channel is None:
                left = max(give_up - time.monotonic(), _PAUSE) / len(broker.addresses)
                channel = broker.connect(next(hosts), left, stage)
            channel.connection.while_waiting(stage.on_wait)
            write(batch, channel, Patience(timeout, confirming=patience), confirm=confirm)
            return None
        except StalledError as error:
            failure = error
            if channel is None or not channel.usable:
                broker.drop_connection()
                break
            if patience < timeout and not stuck.issuperset(batch.pending_places()):
                # Others, which have a right to be waited for.
                patience = timeout
                continue
            awaited = _awaits(broker, batch, channel)
            if not batch.pending:
                return None
            if not channel.usable:
                broker.drop_connection()
            if awaited or not channel.usable:
                failure = StalledError(_unconfirmed(broker)) if awaited else failure
                break
        except ConnectionLostError as error:
            failure = error
            broker.drop_connection()
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
            stage.on_wait()
        except StalledError as ended:
            failure = ended
            break
    broker.note_text(str(failure))
    return failure if batch.pending else None


def _hosts(broker: Broker) -> Iterator[Address]:
    """The hosts of the broker in turn, for ever, beginning with the one last connected to."""
    addresses = broker.addresses
    current = broker.channel.connection.address if broker.channel else None
    first = addresses.index(current) if current in addresses else 0
    return cycle(addresses[first:] + addresses[:first])


def _count(broker: Broker, batch: Batch, confirmed: int, stage: Stage) -> None:
    """Count for amqp.status() what became of a batch of which so many were `confirmed` before."""
    broker.report_late_refusal(stage)
    broker.counters.confirmed += batch.confirmed - confirmed
    broker.counters.returned += len(batch.returned)


# -- what the broker would not have ----------------------------------------------------


def report_refused(broker: Broker, batch: Batch, stage: Stage) -> None:
    """Warn of what the broker would not have, and forget it: a batch that is kept comes again."""
    number = broker.broker_id
    _warn_of(broker, returned(batch), f"returned as unroutable by broker {number}", stage)
    _warn_of(broker, batch.refused, f"refused by broker {number}", stage)
    broker.counters.failed += len(batch.refused)
    batch.forget_reported()


def returned(batch: Batch) -> list[Cause]:
    """Why the broker handed messages back as unroutable, and where they were going."""
    # Here, because hardly ever does anything come back.
    from pg_amqp_py.wire.cause import Cause

    return [
        Cause(message.exchange, message.routing_key, message.text) for message in batch.returned
    ]


def _warn_of(broker: Broker, causes: list[Cause], what: str, stage: Stage) -> None:
    if not causes:
        return
    shown = most_common(causes)
    for cause, number in shown:
        broker.note_text(cause.text)
        stage.warn(
            f"{messages(number)} to {cause.place} {what}",
            sqlstate=WRONG_STATE,
            detail=f"The broker says: {cause.text}",
        )
    rest = len(causes) - sum(number for _, number in shown)
    if rest:
        stage.warn(f"{messages(rest)} more {what}", sqlstate=WRONG_STATE)


def most_common(items: Iterable[Item]) -> list[tuple[Item, int]]:
    """What there is most of, and how often."""
    # Here, because a session's first publish() shall not wait for it.
    from collections import Counter

    return Counter(items).most_common(MOST_WARNINGS)


def messages(number: int) -> str:
    """The number with its noun."""
    return "1 message" if number == 1 else f"{number} messages"
