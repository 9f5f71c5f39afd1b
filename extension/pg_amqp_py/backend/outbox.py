"""The SQL function amqp.publish_outbox_batch(): the outbox, delivered from inside the database.

For each broker: take its lock, read what is due, write it with confirms, and settle what the broker
has said, all in the transaction of the caller. What is confirmed cannot be taken back. So once
anything is settled nothing raises any more, as that would roll back the settling: trouble becomes
a WARNING.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress
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
    invalid_message,
    showable,
)
from pg_amqp_py.backend.operation import required, tolerated
from pg_amqp_py.backend.tables import owner_of
from pg_amqp_py.wire.delivery import Batch
from pg_amqp_py.wire.errors import MessageError
from pg_amqp_py.wire.message import Envelope

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
_SETTLE = "SELECT amqp.outbox_settle($1, $2, $3, $4, $5)"
_NOTE = "SELECT amqp.outbox_note($1, $2)"
_COMPACT = "SELECT amqp.outbox_compact()"
_TYPES = {
    _BROKERS: [],
    _LOCK: ["pg_catalog.int4"],
    _DUE: ["pg_catalog.int4", "pg_catalog.int4"],
    _SETTLE: [
        "pg_catalog.int4",
        "pg_catalog.int8[]",
        "pg_catalog.int8[]",
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
        self._run(_SETTLE, broker_id, [], [], [], [])
        while self.left:
            rows = self._run(_DUE, broker_id, self.left)
            if not rows:
                return
            self.left -= len(rows)
            results = _Results()
            try:
                _send(broker_id, rows, results)
            finally:
                self._settle(broker_id, results)

    def _settle(self, broker_id: int, results: _Results) -> None:
        if results.delivered or results.refused:
            columns = [list(column) for column in zip(*results.refused, strict=True)]
            self._run(_SETTLE, broker_id, results.delivered, *(columns or [[], [], []]))
            self.delivered += len(results.delivered)
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


class _Results:
    """What became of messages, as amqp.outbox_settle() wants to know it."""

    def __init__(self) -> None:
        self.delivered: list[int] = []
        self.refused: list[tuple[int, str, str]] = []
        """Id, verdict and error."""
        self.held: set[str] = set()
        """Ordering keys of which a message was not delivered: the later ones must wait."""

    def refuse(self, row: Row, verdict: str, error: str) -> None:
        """Take note of a message that is not delivered."""
        self.refused.append((row["id"], verdict, showable(error)))
        if row["ordering_key"] is not None:
            self.held.add(row["ordering_key"])

    def take(self, rows: list[Row], batch: Batch) -> None:
        """Take over what the broker said of a batch."""
        returned: dict[tuple[str | None, ...], list[str]] = {}
        for exchange, routing_key, text, message_id in batch.returned:
            returned.setdefault((exchange, routing_key, message_id), []).append(text)
        for at in batch.settled():
            row = rows[at]
            texts = returned.get((row["exchange"], row["routing_key"], row["message_id"]))
            if row["mandatory"] and texts:
                self.refuse(row, "refused", texts.pop())
            else:
                self.delivered.append(row["id"])
        for at, fault in batch.faults.items():
            self.refuse(rows[at], "busy" if fault.nacked else "refused", fault.text)


def _send(broker_id: int, rows: list[Row], results: _Results) -> None:
    session.connection(broker_id)
    broker = session.brokers[broker_id]
    for wave in _waves(rows):
        _write(broker, [row for row in wave if row["ordering_key"] not in results.held], results)


def _waves(rows: list[Row]) -> Iterator[list[Row]]:
    """The messages in parts that have no two of one ordering key."""
    wave: list[Row] = []
    keys: set[str] = set()
    for row in rows:
        key = row["ordering_key"]
        if key is not None and key in keys:
            yield wave
            wave, keys = [], set()
        if key is not None:
            keys.add(key)
        wave.append(row)
    yield wave


def _write(broker: Broker, rows: list[Row], results: _Results) -> None:
    assert broker.connection is not None
    encoder = broker.connection.encoder
    stream, starts, encoded = bytearray(), array("Q"), []
    for row in rows:
        start = len(stream)
        try:
            encoder.append(stream, tuple(row[name] for name in Envelope._fields), row["body"])
        except MessageError as error:
            results.refuse(row, "invalid", str(invalid_message(error)))
        else:
            starts.append(start)
            encoded.append(row)
    batch = Batch(stream, starts)
    try:
        reason = deliver(broker, batch, confirm=True, on_wait=server.check_interrupts)
    finally:
        results.take(encoded, batch)
        broker.failed += len(batch.faults)
    if batch.pending:
        session.forget_connection(broker.broker_id)
        raise broker.note(
            AMQPError(
                f"broker {broker.broker_id} did not confirm messages of the outbox",
                sqlstate=CONNECTION_FAILURE,
                detail=f"Number of messages: {batch.pending}. Last error: {reason}",
                hint="They stay in amqp.outbox; some may have arrived, and will arrive again.",
            )
        )
