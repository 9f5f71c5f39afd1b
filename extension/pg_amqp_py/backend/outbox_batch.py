"""The SQL function amqp.publish_outbox_batch(): the outbox, delivered from inside the database.

For each broker: take its lock, read what is due, write it with confirms, and settle what the broker
has said, all in the transaction of the caller. What is confirmed cannot be taken back. So once
anything is settled nothing raises any more, as that would roll back the settling: trouble becomes
a WARNING.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

import plpy

from pg_amqp_py.backend import server, settings
from pg_amqp_py.backend.asking import channel, deadline, tolerated
from pg_amqp_py.backend.awaited import Awaited
from pg_amqp_py.backend.broker import Broker
from pg_amqp_py.backend.delivering import deliver, messages
from pg_amqp_py.backend.errors import (
    CONNECTION_FAILURE,
    FEATURE_NOT_SUPPORTED,
    INVALID_PARAMETER,
    LOCK_NOT_AVAILABLE,
    WRONG_STATE,
    AMQPError,
    from_server,
    required,
    showable,
)
from pg_amqp_py.backend.server import IN_CALL, Statement
from pg_amqp_py.backend.session import session
from pg_amqp_py.backend.tables import acting_as, owner_of, planning_by_index
from pg_amqp_py.wire.channel import PublishingChannel
from pg_amqp_py.wire.errors import ConnectionLostError, StalledError, WireError
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.waves import LARGEST_HEADERS, Entry, Run, Undelivered, missing_exchange

# These run with a search_path of pg_catalog, so operators need no schema. Arguments have their
# exact types: no overload that the owner of the schema may add comes before the right function.
_brokers = Statement(
    """
WITH RECURSIVE ready AS (
    (SELECT o.broker_id FROM amqp.outbox AS o
     WHERE o.next_attempt_at IS NULL AND o.retain IS NOT TRUE ORDER BY o.broker_id LIMIT 1)
    UNION ALL
    SELECT (SELECT o.broker_id FROM amqp.outbox AS o
            WHERE o.next_attempt_at IS NULL AND o.retain IS NOT TRUE AND o.broker_id > r.broker_id
            ORDER BY o.broker_id LIMIT 1)
    FROM ready AS r WHERE r.broker_id IS NOT NULL
), waiting AS (
    (SELECT o.broker_id FROM amqp.outbox AS o
     WHERE o.next_attempt_at IS NOT NULL AND o.retain IS NOT TRUE ORDER BY o.broker_id LIMIT 1)
    UNION ALL
    SELECT (SELECT o.broker_id FROM amqp.outbox AS o
            WHERE o.next_attempt_at IS NOT NULL AND o.retain IS NOT TRUE
              AND o.broker_id > w.broker_id
            ORDER BY o.broker_id LIMIT 1)
    FROM waiting AS w WHERE w.broker_id IS NOT NULL
)
SELECT r.broker_id FROM ready AS r WHERE r.broker_id IS NOT NULL
UNION
SELECT w.broker_id FROM waiting AS w
WHERE EXISTS (SELECT FROM amqp.outbox AS o
              WHERE o.broker_id = w.broker_id AND o.next_attempt_at <= statement_timestamp()
                AND o.retain IS NOT TRUE)
ORDER BY 1
"""
)
_lock = Statement("SELECT amqp_inner.outbox_lock_batch($1) AS locked", "int4")
_due = Statement(
    "SELECT * FROM amqp_inner.outbox_due($1, NULL::int8, 0::int8, $2, $3)", "int4", "int4", "int8"
)
_wake = Statement("SELECT amqp_inner.outbox_wake($1)", "int4")
_settle = Statement(
    "SELECT amqp_inner.outbox_settle($1, $2, $3, $4, $5, $6, $7) AS locked",
    *("int4", "int8[]", "text[]", "int8[]", "text[]", "text[]", "text[]"),
)
_dead = Statement(
    """
SELECT d.id, d.last_error FROM unnest($2, $3) AS r (id, message_id)
JOIN amqp.outbox_dead AS d ON d.broker_id = $1 AND d.id = r.id AND d.message_id = r.message_id
ORDER BY d.id
""",
    *("int4", "int8[]", "text[]"),
)
_note = Statement("SELECT amqp_inner.outbox_note($1, $2)", "int4", "text")
_compact = Statement("SELECT amqp_inner.outbox_compact()")
_MOST_BYTES = 16 << 20
_awaited: dict[int, Awaited] = {}
_confirmed: dict[tuple[int, int], str] = {}
"""Of a broker and an id, the message_id of what it has confirmed and could not be settled: somebody
else had locked the row. It is not sent again."""

Row = dict[str, Any]


def publish_outbox_batch(broker_id: int | None, batch_limit: int | None) -> int:
    """Deliver up to `batch_limit` messages, of one broker or of all; how many were confirmed."""
    limit = required("batch_limit", batch_limit)
    _check(limit)
    outbox = _Outbox(limit)
    failures: list[AMQPError] = []
    interrupted = False
    for number in outbox.brokers() if broker_id is None else [broker_id]:
        if not outbox.left:
            break
        try:
            outbox.deliver(number)
        except AMQPError as failure:
            failures.append(failure)
            outbox.note(number, failure)
        except plpy.SPIError as interrupt:
            failures.append(from_server(interrupt))
            interrupted = True
            break
    if outbox.left and not interrupted:
        outbox.compact()
    _report(failures, must_raise=interrupted, may_raise=not outbox.settled)
    return outbox.delivered


def _check(limit: int) -> None:
    settings.check()
    if limit < 1:
        raise AMQPError("batch_limit must be at least 1", sqlstate=INVALID_PARAMETER)
    if settings.capture.value():
        raise AMQPError(
            "cannot deliver the outbox while amqp.capture is on",
            sqlstate=WRONG_STATE,
            hint="SET amqp.capture = off;",
        )
    if not server.sees_the_present():
        raise AMQPError(
            "cannot deliver the outbox in this isolation level",
            sqlstate=FEATURE_NOT_SUPPORTED,
            detail="An old snapshot shows messages that others have delivered since.",
            hint="SET TRANSACTION ISOLATION LEVEL READ COMMITTED;",
        )


def _report(failures: list[AMQPError], *, must_raise: bool, may_raise: bool) -> None:
    """Report what went wrong; as an error only if that loses nothing."""
    if not failures:
        return
    *others, last = failures
    for failure in others:
        IN_CALL.warn_of(failure)
    if not may_raise:
        IN_CALL.warn_of(last)
    elif must_raise or not tolerated(last):
        raise last


class _Outbox:
    """The tables of the outbox, for one call."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        """How many more messages may be read."""
        self.delivered = 0
        self.settled = False
        """Whether anything was written to the tables that must not be lost."""
        self._dead: list[Row] = []
        """What became dead letters of the broker at hand."""
        self._owner = owner_of("outbox")

    def brokers(self) -> list[int]:
        """Those that have messages due."""
        return [row["broker_id"] for row in self._run(_brokers)]

    def deliver(self, broker_id: int) -> None:
        """Deliver what is due. Raises AMQPError for the broker's sake, SPIError if interrupted."""
        if not self._run(_lock, broker_id)[0]["locked"]:
            # A relay works it.
            return
        # What would fail afterwards shall fail before anything is sent.
        self._run(_settle, broker_id, [], [], [], [], [], [])
        passed_over = _PassedOver()
        self._settle_late(broker_id, passed_over)
        try:
            while self.left:
                rows = passed_over.others(
                    self._run(
                        _due,
                        broker_id,
                        self.left + len(passed_over.rows),
                        _MOST_BYTES + passed_over.bytes,
                    )
                )
                if not rows:
                    break
                self.left -= len(rows)
                self._send(broker_id, rows, passed_over)
        finally:
            passed_over.report(broker_id)
            self._report_dead(broker_id)
        self._run(_wake, broker_id)

    def _settle_late(self, broker_id: int, passed_over: _PassedOver) -> None:
        """Settle what was confirmed since the last call."""
        if broker_id not in _awaited:
            return
        # This takes in what the broker has said.
        session.begun().forget_connection(broker_id)
        channel(broker_id)
        news = _awaited[broker_id].news(session.brokers[broker_id])
        rows = [{"id": entry.id, "message_id": entry.message_id} for entry, _, _ in news]
        delivered = [entry.id for entry, verdict, _ in news if verdict is None]
        refused = [
            Undelivered(entry.id, verdict, text)
            for entry, verdict, text in news
            if verdict is not None
        ]
        self.delivered += len(delivered)
        self._settle(broker_id, rows, delivered, refused, passed_over)

    def _send(self, broker_id: int, rows: list[Row], passed_over: _PassedOver) -> None:
        """Deliver messages but for those that are delivered already, and settle all."""
        known: list[int] = []
        new: list[Row] = []
        for row in rows:
            if _confirmed.get((broker_id, row["id"])) == row["message_id"]:
                known.append(row["id"])
            else:
                new.append(row)
        if not new:
            self._settle(broker_id, rows, known, [], passed_over)
            return
        # Nothing is sent that a crash could take back.
        server.flush_wal()
        # An earlier call of this transaction may have lost it.
        session.begun().forget_connection(broker_id)
        run = _encoded(channel(broker_id), new)
        try:
            _send(broker_id, run)
        finally:
            self.delivered += len(run.delivered)
            self._settle(broker_id, rows, [*known, *run.delivered], run.undelivered, passed_over)

    def _settle(
        self,
        broker_id: int,
        rows: list[Row],
        delivered: list[int],
        refused: list[Undelivered],
        passed_over: _PassedOver,
    ) -> None:
        if not delivered and not refused:
            return
        names: dict[int, str] = {row["id"]: row["message_id"] for row in rows}
        (answer,) = self._run(
            _settle,
            broker_id,
            delivered,
            [names[one] for one in delivered],
            [refusal.id for refusal in refused],
            [names[refusal.id] for refusal in refused],
            [refusal.verdict for refusal in refused],
            [showable(refusal.text) for refusal in refused],
        )
        locked = set(answer["locked"])
        self.settled = True
        for one in delivered:
            if one in locked:
                _confirmed[broker_id, one] = names[one]
            else:
                _confirmed.pop((broker_id, one), None)
        failed = {refusal.id for refusal in refused}
        for row in rows:
            if row["id"] in locked and "body" in row:
                passed_over.add(row, delivered=row["id"] not in failed)
        if refused:
            ids = [refusal.id for refusal in refused]
            self._dead += self._run(_dead, broker_id, ids, [names[one] for one in ids])

    def _report_dead(self, broker_id: int) -> None:
        """Say what will not be tried again: the call only returns what was delivered."""
        if self._dead:
            IN_CALL.warn(
                f"{messages(len(self._dead))} to broker {broker_id} became"
                f" {'a dead letter' if len(self._dead) == 1 else 'dead letters'}",
                sqlstate=WRONG_STATE,
                detail=f"The first has id {self._dead[0]['id']}: {self._dead[0]['last_error']}",
                hint="They are in amqp.dead_letters; amqp.retry_dead_letters() puts them back,"
                " amqp.discard_dead_letters() deletes them.",
            )
            self._dead.clear()

    def note(self, broker_id: int, failure: AMQPError) -> None:
        """Remember for amqp.outbox_status() why a broker took nothing."""
        with suppress(plpy.SPIError):
            self._run(_note, broker_id, failure.in_one_line())

    def compact(self) -> None:
        """Give space back, if there is much of it; whatever may be in the way of that."""
        with suppress(plpy.SPIError):
            self._run(_compact)

    def _run(self, statement: Statement, *arguments: object) -> list[Row]:
        with acting_as(self._owner), planning_by_index():
            return list(statement(*arguments))


class _PassedOver:
    """Messages of one broker whose rows somebody else has locked: they stay due."""

    def __init__(self) -> None:
        self.rows: dict[int, bool] = {}
        """Ids, and whether they are delivered."""
        self.bytes = 0
        """How many bytes outbox_due() may count for them."""
        self._held: set[str] = set()

    def add(self, row: Row, *, delivered: bool) -> None:
        """Leave a message alone for the rest of the call."""
        self.rows[row["id"]] = delivered
        self.bytes += len(row["body"]) + LARGEST_HEADERS
        if not delivered and row["ordering_key"] is not None:
            self._held.add(row["ordering_key"])

    def others(self, rows: list[Row]) -> list[Row]:
        """What may be delivered of these: not what is behind one that was refused."""
        for row in rows:
            if row["id"] not in self.rows and row["ordering_key"] in self._held:
                self.add(row, delivered=False)
        return [row for row in rows if row["id"] not in self.rows]

    def report(self, broker_id: int) -> None:
        """Say which are delivered and not settled."""
        ids = sorted(number for number, delivered in self.rows.items() if delivered)
        if ids:
            shown = ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")
            IN_CALL.warn(
                f"delivered messages to broker {broker_id} stay in the outbox",
                sqlstate=LOCK_NOT_AVAILABLE,
                detail=f"Another session has locked their rows. Number of messages: {len(ids)},"
                f" ids: {shown}.",
                hint="This session does not send them again; another one does, with the same"
                " message_id, as long as the rows are there.",
            )


def _encoded(channel: PublishingChannel, rows: list[Row]) -> Run:
    entries = [
        Entry(
            row["id"],
            row["ordering_key"],
            tuple(row[name] for name in Envelope._fields),
            row["body"],
        )
        for row in rows
    ]
    return Run(entries, channel.encoder)


def _send(broker_id: int, run: Run) -> None:
    """Deliver a run as far as it goes. Raises AMQPError for the broker's sake."""
    broker = session.brokers[broker_id]

    def missing(exchange: str) -> str | None:
        try:
            current = channel(broker_id)
            current.connection.while_waiting(IN_CALL.on_wait)
            return missing_exchange(current, exchange, deadline())
        except ConnectionLostError as error:
            # If it was for another reason, the writing finds out, and says so.
            session.begun().forget_connection(broker_id)
            return error.reply if error.refuses else None
        except StalledError:
            return None

    awaited = _awaited.setdefault(broker_id, Awaited())
    waiting = 0
    try:
        with closing(run.batches(missing, awaited.why_not)) as batches:
            for batch in batches:
                reason = deliver(broker, batch, IN_CALL, confirm=True)
                if batch.pending and not batch.awaited:
                    session.begun().forget_connection(broker_id)
                    raise _unconfirmed(broker, batch.pending, reason)
                if batch.pending:
                    waiting += awaited.leave(run)
    finally:
        broker.counters.failed += len(run.undelivered) - waiting
    if waiting:
        IN_CALL.warn(
            f"broker {broker_id} has not confirmed messages of the outbox yet",
            sqlstate=CONNECTION_FAILURE,
            detail=f"Number of messages: {waiting}. Last error: {broker.last_error}",
            hint="They are written, and awaited while this session and its connection last; until"
            " then, they are not written again by it.",
        )


def _unconfirmed(broker: Broker, messages: int, reason: WireError | None) -> AMQPError:
    return broker.note(
        AMQPError(
            f"broker {broker.broker_id} did not confirm messages of the outbox",
            sqlstate=CONNECTION_FAILURE,
            detail=f"Number of messages: {messages}. Last error: {reason}",
            hint="They stay in amqp.outbox; some may have arrived, and will arrive again.",
        )
    )
