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

from pg_amqp_py.backend import server, session, settings
from pg_amqp_py.backend.broker import Broker
from pg_amqp_py.backend.delivery import deliver
from pg_amqp_py.backend.errors import (
    CONNECTION_FAILURE,
    FEATURE_NOT_SUPPORTED,
    INVALID_PARAMETER,
    WRONG_STATE,
    AMQPError,
    from_server,
    showable,
)
from pg_amqp_py.backend.operation import required, tolerated
from pg_amqp_py.backend.tables import owner_of
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.errors import ConnectionLostError, StalledError, WireError
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.ordered import Entry, Run, missing_exchange

# These run with a search_path of pg_catalog, so operators need no schema. Arguments have their
# exact types: no overload that the owner of the schema may add comes before the right function.
_BROKERS = """
WITH RECURSIVE ready AS (
    (SELECT o.broker_id FROM amqp.outbox AS o
     WHERE o.next_attempt_at IS NULL ORDER BY o.broker_id LIMIT 1)
    UNION ALL
    SELECT (SELECT o.broker_id FROM amqp.outbox AS o
            WHERE o.next_attempt_at IS NULL AND o.broker_id > r.broker_id
            ORDER BY o.broker_id LIMIT 1)
    FROM ready AS r WHERE r.broker_id IS NOT NULL
), waiting AS (
    (SELECT o.broker_id FROM amqp.outbox AS o
     WHERE o.next_attempt_at IS NOT NULL ORDER BY o.broker_id LIMIT 1)
    UNION ALL
    SELECT (SELECT o.broker_id FROM amqp.outbox AS o
            WHERE o.next_attempt_at IS NOT NULL AND o.broker_id > w.broker_id
            ORDER BY o.broker_id LIMIT 1)
    FROM waiting AS w WHERE w.broker_id IS NOT NULL
)
SELECT r.broker_id FROM ready AS r WHERE r.broker_id IS NOT NULL
UNION
SELECT w.broker_id FROM waiting AS w
WHERE EXISTS (SELECT FROM amqp.outbox AS o
              WHERE o.broker_id = w.broker_id AND o.next_attempt_at <= statement_timestamp())
ORDER BY 1
"""
_LOCK = "SELECT amqp.outbox_lock_batch($1) AS locked"
_DUE = "SELECT * FROM amqp.outbox_due($1, NULL::int8, 0::int8, $2, 16777216::int8)"
_WAKE = "SELECT amqp.outbox_wake($1)"
_SETTLE = "SELECT amqp.outbox_settle($1, $2, $3, $4, $5, $6, $7)"
_NOTE = "SELECT amqp.outbox_note($1, $2)"
_COMPACT = "SELECT amqp.outbox_compact()"
_TYPES = {
    _BROKERS: [],
    _LOCK: ["pg_catalog.int4"],
    _DUE: ["pg_catalog.int4", "pg_catalog.int4"],
    _WAKE: ["pg_catalog.int4"],
    _SETTLE: [
        "pg_catalog.int4",
        "pg_catalog.int8[]",
        "pg_catalog.text[]",
        "pg_catalog.int8[]",
        "pg_catalog.text[]",
        "pg_catalog.text[]",
        "pg_catalog.text[]",
    ],
    _NOTE: ["pg_catalog.int4", "pg_catalog.text"],
    _COMPACT: [],
}
_plans: dict[str, Any] = {}

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
        failure.warn()
    if not may_raise:
        last.warn()
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
        self._owner = owner_of("outbox")

    def brokers(self) -> list[int]:
        """Those that have messages due."""
        return [row["broker_id"] for row in self._run(_BROKERS)]

    def deliver(self, broker_id: int) -> None:
        """Deliver what is due. Raises AMQPError for the broker's sake, SPIError if interrupted."""
        if not self._run(_LOCK, broker_id)[0]["locked"]:
            # A relay works it.
            return
        # What would fail afterwards shall fail before anything is sent.
        self._run(_SETTLE, broker_id, [], [], [], [], [], [])
        while self.left:
            rows = self._run(_DUE, broker_id, self.left)
            if not rows:
                break
            self.left -= len(rows)
            # An earlier call of this transaction may have lost it.
            session.forget_connection(broker_id)
            run = _encoded(session.connection(broker_id), rows)
            try:
                _send(broker_id, run)
            finally:
                self._settle(broker_id, run)
        self._run(_WAKE, broker_id)

    def _settle(self, broker_id: int, run: Run) -> None:
        if run.delivered or run.refused:
            names = {entry.id: entry.message_id for entry in run.entries}
            self._run(
                _SETTLE,
                broker_id,
                run.delivered,
                [names[one] for one in run.delivered],
                [refusal.id for refusal in run.refused],
                [names[refusal.id] for refusal in run.refused],
                [refusal.verdict for refusal in run.refused],
                [showable(refusal.text) for refusal in run.refused],
            )
            self.delivered += len(run.delivered)
            self.settled = True

    def note(self, broker_id: int, failure: AMQPError) -> None:
        """Remember for amqp.outbox_status() why a broker took nothing."""
        text = f"{failure}: {failure.detail}" if failure.detail else str(failure)
        with suppress(plpy.SPIError):
            self._run(_NOTE, broker_id, showable(text))

    def compact(self) -> None:
        """Give space back, if there is much of it; whatever may be in the way of that."""
        with suppress(plpy.SPIError):
            self._run(_COMPACT)

    def _run(self, query: str, *arguments: object) -> list[Row]:
        with server.acting_as(self._owner), server.planning_by_index():
            plan = _plans.get(query)
            if plan is None:
                plan = _plans[query] = plpy.prepare(query, _TYPES[query])
            return list(plpy.execute(plan, list(arguments)))


def _encoded(connection: Connection, rows: list[Row]) -> Run:
    entries = [
        Entry(
            row["id"],
            row["ordering_key"],
            tuple(row[name] for name in Envelope._fields),
            row["body"],
        )
        for row in rows
    ]
    return Run(entries, connection.encoder)


def _send(broker_id: int, run: Run) -> None:
    """Deliver a run as far as it goes. Raises AMQPError for the broker's sake."""
    broker = session.brokers[broker_id]

    def missing(exchange: str) -> str | None:
        try:
            connection = session.connection(broker_id)
            connection.on_wait = server.check_interrupts
            return missing_exchange(connection, exchange, session.deadline())
        except ConnectionLostError as error:
            # If it was for another reason, the writing finds out, and says so.
            session.forget_connection(broker_id)
            return error.reply if error.hard else None
        except StalledError:
            return None

    try:
        with closing(run.batches(missing)) as batches:
            for batch in batches:
                reason = deliver(broker, batch, confirm=True, on_wait=server.check_interrupts)
                if batch.pending:
                    session.forget_connection(broker_id)
                    raise _unconfirmed(broker, batch.pending, reason)
    finally:
        broker.failed += len(run.refused)


def _unconfirmed(broker: Broker, messages: int, reason: WireError | None) -> AMQPError:
    return broker.note(
        AMQPError(
            f"broker {broker.broker_id} did not confirm messages of the outbox",
            sqlstate=CONNECTION_FAILURE,
            detail=f"Number of messages: {messages}. Last error: {reason}",
            hint="They stay in amqp.outbox; some may have arrived, and will arrive again.",
        )
    )
