"""What PostgreSQL calls at the ends of this backend's transactions, and of the backend itself.

After a commit there is nothing left to fail: the transaction is durable. So nothing raises there
for a message's sake; what did not arrive is reported by WARNING, and kept on its broker.
"""

from __future__ import annotations

import time

import plpy

from pg_amqp_py.backend import server, settings
from pg_amqp_py.backend.delivering import (
    MOST_SECONDS_FOR_KEPT,
    MOST_WARNINGS,
    collect_kept,
    deliver,
    messages,
    most_common,
    report_refused,
    write_kept,
)
from pg_amqp_py.backend.errors import (
    CONNECTION_FAILURE,
    FEATURE_NOT_SUPPORTED,
    INTERNAL_ERROR,
    UTF8,
    WARNING,
    AMQPError,
    Stage,
)
from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.errors import ConnectionLostError, StalledError
from pg_amqp_py.wire.small import write_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pg_amqp_py.backend.broker import Broker
    from pg_amqp_py.backend.buffer import Parcel
    from pg_amqp_py.backend.session import Session, Transaction
    from pg_amqp_py.wire.errors import WireError

# Nearly always the default: to compare the text costs less than a call.
_capture = settings.capture.option
_confirms = settings.publisher_confirms.option
_BARRIER = 5.0
"""Seconds after which a commit stops waiting where the whole server waits for this backend, as
DROP DATABASE makes it do (src/backend/storage/ipc/procsignal.c)."""


class _AtCommit(Stage):
    """A commit: nothing may raise there but what ends a wait, and no text can be converted."""

    _waits_since: float | None = None

    def on_wait(self) -> None:
        """Raise StalledError if the server, an administrator or the client wants it to go on."""
        if self._waits_since is None:
            self._waits_since = time.monotonic()
        if server.interrupted() or (
            server.barrier_pending() and time.monotonic() > self._waits_since + _BARRIER
        ):
            raise StalledError("the wait was ended by a cancel or a shutdown request")

    def give_warning(self, text: str, **fields: str) -> None:
        """Report it, in the client's encoding if that lacks nothing; what it lacks is an ERROR."""
        plain = UTF8 and server.client_encoding() == b"UTF8"
        (plpy.warning if plain else server.warning)(text, **fields)


class Hooks:
    """What PostgreSQL is to call for a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def install(self) -> None:
        """Have it called from here on."""
        server.register(
            commit=self._commit,
            abort=self._session.abort,
            pre_prepare=self._pre_prepare,
            abort_subtransaction=self._session.abort_subtransaction,
            leave=self._leave,
        )

    def _commit(self) -> None:
        session = self._session
        transaction = session.transaction
        if transaction is None:
            # Nearly every transaction: a session goes on to do other things.
            if not session.keeping:
                return
            transaction = session.begun()
        try:
            if transaction.buffer.starts or transaction.tolerated or session.keeping:
                _publish(session, transaction)
        finally:
            session.end()

    def _pre_prepare(self) -> None:
        transaction = self._session.transaction
        if transaction is None or not transaction.buffer.sends():
            return
        # First: a cancel request that is pending may keep the warning from being given.
        server.refuse_prepare()
        try:
            server.IN_CALL.warn(
                "a transaction with messages pending cannot be prepared",
                sqlstate=FEATURE_NOT_SUPPORTED,
                detail=f"Messages pending: {len(transaction.buffer)}. They wait for the commit,"
                " which may run in another session.",
                hint="Publish outside of two-phase transactions.",
            )
        except BaseException:
            pass

    def _leave(self) -> None:
        for broker in self._session.brokers.values():
            if broker.kept.batches:
                server.log(_fate_of_kept(broker), sqlstate=CONNECTION_FAILURE)
            for channel in broker.channel, broker.requester:
                if channel is not None:
                    channel.connection.leave()


# -- publishing ------------------------------------------------------------------------


def _publish(session: Session, transaction: Transaction) -> None:
    """Publish what a transaction has left behind, and say what went wrong in it."""
    stage = _AtCommit()
    try:
        if _capture.value == b"off" or not settings.capture.value_or_default(stage):
            if session.keeping:
                # First, so that nothing newer overtakes it.
                _retry_kept(session, stage)
            confirm = _confirms.value == b"on" or settings.publisher_confirms.value_or_default(
                stage
            )
            for parcel in transaction.buffer.parcels():
                frame_max = transaction.frame_max[parcel.destination.broker_id]
                _publish_parcel(session, parcel, frame_max, confirm, stage)
        if transaction.tolerated:
            _warn_of_the_rest(transaction.tolerated, stage)
    except BaseException as error:
        # The transaction is committed: an ERROR would be a PANIC.
        stage.warn(f"publishing at commit failed: {error!r}", sqlstate=INTERNAL_ERROR)


def _publish_parcel(
    session: Session, parcel: Parcel, frame_max: int, confirm: bool, stage: Stage
) -> None:
    """Publish at once if all is well; otherwise deliver as far as it goes, and keep the rest."""
    broker = session.brokers[parcel.destination.broker_id]
    channel = broker.channel
    try:
        if channel is None or channel.encoder.frame_max < frame_max or broker.kept.batches:
            batch: Batch | None = Batch(parcel.stream, parcel.starts, frame_max)
        else:
            batch = write_small(channel, parcel.stream, parcel.starts, confirm=confirm)
        if batch is not None:
            _finish(session, broker, batch, confirm, stage)
            return
        counters, number = broker.counters, len(parcel.starts)
        counters.published += number
        if confirm:
            counters.confirmed += number
    except Exception as error:
        _warn_of_defect(broker, error, stage)


def _finish(session: Session, broker: Broker, batch: Batch, confirm: bool, stage: Stage) -> None:
    try:
        if broker.kept.awaited:
            error = deliver(broker, batch, stage, confirm=confirm)
            report_refused(broker, batch, stage)
        else:
            # What could not be written again yet must not be overtaken.
            broker.counters.published += batch.pending
            error = ConnectionLostError(broker.last_error or "")
        if batch.pending:
            _report_pending(broker, batch, error, stage)
    finally:
        # Whatever goes wrong with delivering and reporting: what is pending must not be lost.
        if batch.pending:
            session.keep(broker, batch, confirm=confirm)


def _retry_kept(session: Session, stage: Stage) -> None:
    for broker in session.brokers.values():
        if broker.kept.batches:
            _retry(broker, stage)
    session.note_kept()


def _retry(broker: Broker, stage: Stage) -> None:
    """Try at a commit to deliver what is kept, in silence: that it is, has been reported."""
    try:
        broker.listen(stage)
        collect_kept(broker, stage)
        if not broker.kept.awaited:
            write_kept(broker, MOST_SECONDS_FOR_KEPT / len(broker.addresses), stage)
    except (AMQPError, StalledError):
        # The broker has noted it.
        pass
    except Exception as error:
        _warn_of_defect(broker, error, stage)


# -- what to say -----------------------------------------------------------------------


def _report_pending(broker: Broker, batch: Batch, error: WireError | None, stage: Stage) -> None:
    number = broker.broker_id
    blocked = broker.channel.blocked if broker.channel else None
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
    stage.warn(
        f"{messages(batch.pending)} not confirmed by broker {number}",
        sqlstate=CONNECTION_FAILURE,
        detail=f"Exchange and number of messages: {_exchanges(batch.pending_places())}."
        f" Last error: {reason}",
        hint=hint,
    )


def _warn_of_defect(broker: Broker, error: Exception, stage: Stage) -> None:
    """A defect of ours must stop neither the other brokers nor the commit."""
    stage.warn(
        f"publishing to broker {broker.broker_id} failed: {error!r}", sqlstate=INTERNAL_ERROR
    )


def _warn_of_the_rest(tolerated: dict[str, int], stage: Stage) -> None:
    """Say how many calls failed in silence: a bulk statement may make many thousands."""
    repeated = sorted(tolerated.items(), key=lambda item: item[1], reverse=True)
    for text, times in repeated[:MOST_WARNINGS]:
        if times > 1:
            stage.warn(f"{times - 1} more calls failed: {text}", sqlstate=WARNING)


def _fate_of_kept(broker: Broker) -> str:
    """What to say of the kept messages of a broker when nobody will deliver them any more."""
    fate = "written, but not known to have arrived," if broker.kept.awaited else "lost"
    return (
        f"amqp: {messages(broker.kept.messages)} not confirmed by broker {broker.broker_id} {fate}"
        " at the end of the session; exchange and number of messages:"
        f" {_exchanges(broker.kept.places())}; last error: {broker.last_error}"
    )


def _exchanges(places: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f'"{name}" ({n})' for name, n in most_common(name for name, _ in places))
