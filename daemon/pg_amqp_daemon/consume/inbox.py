"""A consumer's place in the inbox: who works it, how far it is, what was set aside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb
from psycopg.types.numeric import Int8

from pg_amqp_daemon.consume.batch import Batch, new_batch, offset_of
from pg_amqp_daemon.consume.fault import Fault
from pg_amqp_daemon.consume.plan import Plan
from pg_amqp_daemon.runtime.database import Database
from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.consume.headers import readable_headers_as_json
from pg_amqp_py.wire.consume.properties import Properties, split_properties
from pg_amqp_py.wire.errors import MalformedError

_HELD_BY = """
SELECT a.application_name
FROM amqp.inbox_state AS s JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.worker_pid
WHERE s.consumer = %s
"""
_PLACE = """
SELECT o.next_offset, pg_catalog.date_part('epoch', o.start_at)::int8, o.rewinds
FROM amqp.inbox_offset AS o WHERE o.consumer = %s AND o.queue = %s
"""
_ADVANCE = """
INSERT INTO amqp.inbox_offset AS o (consumer, queue, next_offset) VALUES (%s, %s, %s)
ON CONFLICT (consumer, queue) DO UPDATE
SET next_offset = EXCLUDED.next_offset, start_at = NULL, changed_at = pg_catalog.now()
WHERE o.rewinds = %s AND (o.next_offset IS NULL OR o.next_offset <= %s)
RETURNING 1
"""
_COUNT = """
UPDATE amqp.inbox_state
SET stored = stored + %s, duplicates = duplicates + %s, skipped = skipped + %s,
    without_id = without_id + %s, batch_id = %s
WHERE consumer = %s AND worker_pid = pg_catalog.pg_backend_pid()
RETURNING 1
"""
_REPORT = """
UPDATE amqp.inbox_state AS s
SET received = n.received, unacked = n.unacked, ready = n.ready, oldest_unstored = n.oldest,
    rate = n.rate, last_error = COALESCE(n.error, s.last_error),
    last_error_at = CASE WHEN n.error IS NULL THEN s.last_error_at ELSE n.now END,
    ended_at = CASE WHEN n.error IS NULL THEN COALESCE(s.ended_at, n.now) END
FROM (SELECT %s AS received, %s::int4 AS unacked, %s::int8 AS ready,
             pg_catalog.to_timestamp(%s::float8) AS oldest, %s::float4 AS rate, %s::text AS error,
             pg_catalog.clock_timestamp() AS now) AS n
WHERE s.consumer = %s AND s.worker_pid = pg_catalog.pg_backend_pid()
"""
_COLUMNS = (
    "broker_id",
    "queue",
    "exchange",
    "routing_key",
    "redelivered",
    *Properties._fields,
    "body",
    "stream_offset",
)
_SET_ASIDE = f"""
INSERT INTO amqp.inbox_dead (consumer, sqlstate, error, raw_place, raw_properties, received_at,
    {", ".join(f'"{name}"' for name in _COLUMNS)})
VALUES (%s, %s, %s, %s, %s, pg_catalog.to_timestamp(%s::float8),
    {", ".join(["%s"] * len(_COLUMNS))})
"""
_STILL_DEAD = """
UPDATE amqp.inbox_dead SET retry = false, attempts = attempts + 1, sqlstate = %s, error = %s
WHERE id = %s
"""
_ALIVE_AGAIN = "DELETE FROM amqp.inbox_dead WHERE id = ANY (%s::int8[])"
_ASKED_FOR = """
SELECT id, redelivered, raw_place, raw_properties, body, pg_catalog.date_part('epoch', received_at)
FROM (
    SELECT d.*, pg_catalog.sum(pg_catalog.octet_length(d.body)) OVER (ORDER BY d.id) AS bytes
    FROM amqp.inbox_dead AS d WHERE d.consumer = %s AND d.retry ORDER BY d.id LIMIT %s
) AS d
WHERE bytes - pg_catalog.octet_length(body) < %s
ORDER BY id
"""
_STILL_ASKED_FOR = """
SELECT id FROM amqp.inbox_dead WHERE id = ANY (%s::int8[]) AND retry ORDER BY id FOR UPDATE
"""
_MOST_BYTES = 16 << 20
"""Bytes of dead messages that are tried again at once, unless it is one."""
_NOBODYS = -1
"""The number of no subscription: no broker waits for what becomes of them."""
_REMEMBER = """
INSERT INTO amqp.inbox_seen (consumer, message_id) VALUES (%s, %s)
ON CONFLICT DO NOTHING RETURNING 1
"""
_REPLY = """
INSERT INTO amqp.outbox (broker_id, exchange, routing_key, body, correlation_id, content_type)
VALUES (%s, '', %s, pg_catalog.convert_to(%s::text, 'UTF8'), %s, 'application/json')
"""


class Place(NamedTuple):
    """Where a consumer is in its stream."""

    next_offset: int | None
    start_at: int | None
    """Instead, the time to begin at, in seconds since 1970."""
    rewinds: int


class Report(NamedTuple):
    """What is known of a consumer beside what it has stored."""

    received: int
    unacked: int
    ready: int | None
    oldest: float | None
    rate: float
    trouble: str | None


class LostError(Exception):
    """Another session works the consumer."""


class RewoundError(Exception):
    """The stream is to be read from another place: what was read before does not count any more."""


class Inbox:
    """Of one consumer, in one session. Raises psycopg.Error."""

    def __init__(self, database: Database, consumer: str) -> None:
        self._database = database
        self._consumer = consumer

    # -- who works it --------------------------------------------------------------------

    def take(self) -> bool:
        """Try to become the one that works it, until the session ends."""
        ((taken,),) = self._database.ask("SELECT amqp_inner.inbox_take(%s)", self._consumer)
        return bool(taken)

    def held_by_us(self) -> bool:
        """Whether a session of this program has it, which the server may not know to be gone."""
        found = self._database.ask(_HELD_BY, self._consumer)
        name = self._database.name[:63]
        return not found or found[0][0] == name

    def last_batch(self) -> UUID | None:
        """The id of the last batch that was stored."""
        found = self._database.ask(
            "SELECT batch_id FROM amqp.inbox_state WHERE consumer = %s", self._consumer
        )
        return found[0][0] if found else None

    def report(self, report: Report) -> None:
        """Let amqp.inbox_status() show this."""
        error = None if report.trouble is None else self._database.storable(report.trouble)
        self._database.ask(
            _REPORT,
            Int8(report.received),
            report.unacked,
            report.ready,
            report.oldest,
            report.rate,
            error,
            self._consumer,
        )

    # -- how far it is -------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done within, or nothing."""
        self._database.ask("BEGIN")
        try:
            yield
            self._database.ask("COMMIT")
        except BaseException:
            # Where the session is gone, so is the transaction.
            with suppress(psycopg.Error):
                self._database.ask("ROLLBACK")
            raise

    def place(self, stream: str) -> Place | None:
        """Where it is in a stream; None if it was not in it yet."""
        found = self._database.ask(_PLACE, self._consumer, stream)
        return Place(*found[0]) if found else None

    def advance(self, stream: str, batch: Batch, rewinds: int) -> None:
        """In a transaction: go on behind what it stores, if all before is stored.

        Raises RewoundError if it is not what comes next.
        """
        following, first = batch.next_offset, batch.offset
        if following is None:
            return
        done = self._database.ask(
            _ADVANCE,
            self._consumer,
            stream,
            Int8(following),
            Int8(rewinds),
            Int8(following if first is None else first),
        )
        if not done:
            raise RewoundError

    def count(
        self, stored: int, duplicates: int, skipped: int, without_id: int, batch: UUID
    ) -> None:
        """In a transaction: add what becomes of messages. Raises LostError."""
        done = self._database.ask(
            _COUNT, stored, duplicates, skipped, without_id, batch, self._consumer
        )
        if not done:
            raise LostError

    def forget(self, older_than: str, most: int) -> int:
        """Forget so many messages at most that were seen longer ago; how many there were."""
        ((gone,),) = self._database.ask(
            "SELECT amqp_inner.inbox_forget(%s, %s::interval, %s::int4)",
            self._consumer,
            older_than,
            most,
        )
        return int(gone)

    # -- what was set aside --------------------------------------------------------------

    def is_new(self, delivery: Delivery) -> bool:
        """In a transaction: whether the ledger lacks its message_id, which it has from now on.

        What has no id that is a text is new.
        """
        try:
            message_id = (split_properties(delivery.properties).message_id or b"").decode()
        except (MalformedError, UnicodeDecodeError):
            return True
        if (
            not message_id
            or "\0" in message_id
            or message_id != self._database.storable(message_id)
        ):
            return True
        return bool(self._database.ask(_REMEMBER, self._consumer, message_id))

    def set_aside(self, plan: Plan, delivery: Delivery, received: float, fault: Fault) -> None:
        """In a transaction: keep a message that cannot be stored, whole."""
        try:
            properties = split_properties(delivery.properties)
        except MalformedError:
            properties = Properties()
        self._database.ask(
            _SET_ASIDE,
            self._consumer,
            fault.sqlstate,
            self._database.storable(fault.text),
            _short_string(delivery.exchange) + _short_string(delivery.routing_key),
            delivery.properties,
            received,
            plan.broker_id,
            plan.queue,
            self._readable(delivery.exchange),
            self._readable(delivery.routing_key),
            delivery.redelivered,
            *map(self._property, Properties._fields, properties),
            delivery.body,
            offset_of(delivery) if plan.is_stream else None,
        )

    def set_aside_again(self, dead_id: int, fault: Fault) -> None:
        """In a transaction: one that was tried again is still dead."""
        self._database.ask(
            _STILL_DEAD, fault.sqlstate, self._database.storable(fault.text), Int8(dead_id)
        )

    def still_asked_for(self, batch: Batch) -> Batch:
        """In a transaction: those of dead messages that nobody has discarded meanwhile."""
        assert batch.dead is not None
        left = {found for (found,) in self._database.ask(_STILL_ASKED_FOR, batch.dead)}
        return batch.only([at for at, number in enumerate(batch.dead) if number in left])

    def revive(self, dead_ids: Sequence[int]) -> None:
        """In a transaction: these are stored."""
        self._database.ask(_ALIVE_AGAIN, list(dead_ids))

    def asked_for(self, most: int) -> Batch | None:
        """Dead messages that are to be tried again; None if there are none."""
        found = self._database.ask(_ASKED_FOR, self._consumer, most, _MOST_BYTES)
        if not found:
            return None
        deliveries = [
            Delivery(0, redelivered, *_split_place(place), properties, body)
            for _, redelivered, place, properties, body, _ in found
        ]
        return new_batch(_NOBODYS, deliveries, [row[5] for row in found], [row[0] for row in found])

    def reply_error(self, broker_id: int, delivery: Delivery, fault: Fault) -> None:
        """In a transaction: tell who asked for a reply what is wrong."""
        properties = split_properties(delivery.properties)
        if properties.reply_to:
            text = json.dumps({"error": fault.text, "sqlstate": fault.sqlstate})
            correlation_id = properties.correlation_id
            self._database.ask(
                _REPLY,
                broker_id,
                self._readable(properties.reply_to),
                text,
                None if correlation_id is None else self._readable(correlation_id),
            )

    def _property(self, name: str, value: bytes | int | None) -> object:
        if isinstance(value, int):
            return _moment(value) if name == "timestamp" else value
        if value is None:
            return None
        if name != "headers":
            return self._readable(value)
        try:
            text = readable_headers_as_json(value).decode()
        except MalformedError:
            return None
        return Jsonb(text, dumps=str)

    def _readable(self, value: bytes) -> str:
        text = value.decode(errors="backslashreplace").replace("\0", "\\x00")
        return self._database.storable(text)


def _moment(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _short_string(value: bytes) -> bytes:
    return bytes((len(value),)) + value


def _split_place(place: bytes) -> tuple[bytes, bytes]:
    behind = 1 + place[0]
    return place[1:behind], place[behind + 1 :]
