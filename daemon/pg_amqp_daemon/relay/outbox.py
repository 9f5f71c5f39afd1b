"""A broker's outbox as the database offers it: the SQL that reads, settles and looks after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg.types.numeric import Int4, Int8

from pg_amqp_daemon.relay.retained_message import RetainedMessage
from pg_amqp_daemon.runtime.database import Database
from pg_amqp_py.wire.fields import FIELDS
from pg_amqp_py.wire.waves import Entry, Undelivered

_SETTINGS = {
    # See amqp_inner.outbox_due().
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "jit": "off",
    # Room for what outbox_due() looks at.
    "work_mem": "64MB",
    "plan_cache_mode": "force_generic_plan",
}
# NOT IN is hashed; with NOT EXISTS, PostgreSQL compares each row with each id.
_LATE = """
SELECT DISTINCT o.ordering_key FROM amqp.outbox AS o
WHERE o.broker_id = %s AND o.id BETWEEN %s AND %s AND o.next_attempt_at IS NULL
  AND o.retain IS NOT TRUE AND o.ordering_key IS NOT NULL
  AND o.id NOT IN (SELECT u.id FROM unnest(%s::int8[]) AS u (id))
"""
# A commit with synchronous_commit = off is seen before it is on disk. One of our own that waits for
# the disk takes it along. Where all is flushed, this writes nothing. A row of its own, since
# somebody may have locked another one.
_FLUSH = """
INSERT INTO amqp.outbox_progress AS p (broker_id, second, messages)
SELECT %s, clock_timestamp(), 0
WHERE pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()
  AND set_config('synchronous_commit',
                 COALESCE(NULLIF(current_setting('synchronous_commit'), 'off'), 'on'), true) <> ''
ON CONFLICT DO NOTHING
"""
FREED = 10_000
"""How many messages free() frees at once, at most."""
_FREE = f"""
UPDATE amqp.outbox SET next_attempt_at = clock_timestamp()
WHERE id = ANY (ARRAY(
    SELECT o.id FROM amqp.outbox AS o
    WHERE o.broker_id = %s AND o.next_attempt_at > clock_timestamp()
      AND o.last_error = ANY (%s::text[]) AND o.retain IS NOT TRUE
    ORDER BY o.next_attempt_at LIMIT {FREED} FOR UPDATE SKIP LOCKED))
RETURNING 1
"""
_DUE = f"""
SELECT id, ordering_key, body, {", ".join(f'"{name}"' for name in FIELDS)}
FROM amqp_inner.outbox_due(%s, %s::int8, %s, %s, %s)
"""

_RETAINED = """
SELECT id, is_due, routing_key, content_type, correlation_id, headers, expiration, message_id, body
FROM amqp_inner.outbox_retained(%s, %s::int8, %s, %s)
"""
# Whether any is due is asked of the first ones alone.
_HOLDS_RETAINED = """
SELECT count(*) > 0, COALESCE(bool_or(r.is_due), false)
FROM (SELECT (o.next_attempt_at <= statement_timestamp()) IS NOT FALSE AS is_due
      FROM amqp.outbox AS o WHERE o.broker_id = %s AND o.retain
      ORDER BY o.broker_id, o.id LIMIT 100) AS r
"""


class Status(NamedTuple):
    """A line of amqp.outbox_status()."""

    broker_id: int
    pending: int
    waiting: int
    """Of the pending messages, those that wait for a time or another attempt."""
    oldest: float
    """Age of the oldest one in seconds."""
    dead: int
    relay: str | None
    """Who works it."""
    trouble: str | None
    retained: int
    """Of the pending messages, those that go by MQTT."""


def relay_database(dsn: str, part: str = "") -> Database:
    """A relay's session, in which the outbox can be read."""
    return Database(dsn, "relay", part, _SETTINGS)


def outbox_status(database: Database) -> list[Status]:
    """What is in the outbox, for every broker. Raises psycopg.Error."""
    return [
        Status(*row)
        for row in database.ask(
            "SELECT broker_id, pending, waiting,"
            " COALESCE(date_part('epoch', oldest_age), 0)::float8, dead, relay, trouble,"
            " retained"
            " FROM amqp.outbox_status()"
        )
    ]


class Outbox:
    """One broker's outbox, in one session. Raises psycopg.Error."""

    def __init__(self, database: Database, broker_id: int) -> None:
        self._database = database
        self._broker_id = Int4(broker_id)

    def lock(self) -> bool:
        """Try to become the one that works it; the session's lease says for how long it is so."""
        ((locked,),) = self._database.ask("SELECT amqp_inner.outbox_lock(%s)", self._broker_id)
        if locked:
            self._database.lease.take()
            # What would fail afterwards shall fail before anything is sent.
            self.settle([], [], [], [])
        return bool(locked)

    def due(self, after: int | None, settled_id: int, rows: int, size: int) -> list[Entry]:
        """What is to be delivered next: see amqp_inner.outbox_due()."""
        found = self._database.ask(
            _DUE,
            self._broker_id,
            None if after is None else Int8(after),
            Int8(settled_id),
            Int4(rows),
            Int8(size),
        )
        if found:
            # What a crash of the server could still take back must not be sent.
            self._database.ask(_FLUSH, self._broker_id)
        return [Entry(number, key, tuple(fields), body) for number, key, body, *fields in found]

    def first_due(self, after: int | None, settled_id: int) -> tuple[int, str] | None:
        """The id and message_id of the message that `due` would give first."""
        found = self._database.ask(
            "SELECT id, message_id FROM amqp_inner.outbox_due(%s, %s::int8, %s, 1, 1)",
            self._broker_id,
            None if after is None else Int8(after),
            Int8(settled_id),
        )
        return (found[0][0], found[0][1]) if found else None

    def holds_retained(self) -> tuple[bool, bool]:
        """Whether there are retained messages, and whether any of the first ones is due."""
        ((found, is_due),) = self._database.ask(_HOLDS_RETAINED, self._broker_id)
        return found, is_due

    def retained(self, after: int | None, rows: int, size: int) -> list[RetainedMessage]:
        """Retained messages, those that wait as well: see amqp_inner.outbox_retained()."""
        found = self._database.ask(
            _RETAINED,
            self._broker_id,
            None if after is None else Int8(after),
            Int4(rows),
            Int8(size),
        )
        if found:
            self._database.ask(_FLUSH, self._broker_id)
        return [RetainedMessage(*row) for row in found]

    def first_retained(self, after: int | None) -> tuple[int, str] | None:
        """The id and message_id of the message that `retained` would give first."""
        found = self._database.ask(
            "SELECT id, message_id FROM amqp_inner.outbox_retained(%s, %s::int8, 1, 1)",
            self._broker_id,
            None if after is None else Int8(after),
        )
        return (found[0][0], found[0][1]) if found else None

    def wake(self) -> int:
        """Let what waited and is due be read in order of id; how many.

        See amqp_inner.outbox_wake().
        """
        ((woken,),) = self._database.ask("SELECT amqp_inner.outbox_wake(%s)", self._broker_id)
        return int(woken)

    def late_keys(self, under_way: Sequence[int], last: int) -> set[str]:
        """Ordering keys of messages that became visible among those under way, or behind them.

        That is, up to the id `last`, and ready to be delivered.
        """
        found = self._database.ask(
            _LATE, self._broker_id, Int8(under_way[0]), Int8(last), list(under_way)
        )
        return {key for (key,) in found}

    def settle(
        self,
        delivered: Sequence[int],
        delivered_message_ids: Sequence[object],
        refused: Sequence[Undelivered],
        refused_message_ids: Sequence[object],
    ) -> list[int]:
        """Report what became of messages: see amqp_inner.outbox_settle().

        Returns the ids of those that somebody has locked.
        """
        ((locked,),) = self._database.ask(
            "SELECT amqp_inner.outbox_settle(%s, %s::int8[], %s::text[], %s::int8[], %s::text[],"
            " %s::text[], %s::text[])",
            self._broker_id,
            list(delivered),
            list(delivered_message_ids),
            [refusal.id for refusal in refused],
            list(refused_message_ids),
            [refusal.verdict for refusal in refused],
            [self._database.storable(refusal.text) for refusal in refused],
        )
        return list(locked)

    def free(self, errors: Sequence[str]) -> int:
        """Let those try again at once that wait because of these errors; how many there were.

        FREED at most; and not what somebody has locked, which comes when its time has come.
        """
        texts = [self._database.storable(error) for error in errors]
        return len(self._database.ask(_FREE, self._broker_id, texts))

    def note(self, error: str | None) -> None:
        """Remember for amqp.outbox_status() what keeps messages from being delivered, or that
        nothing does any more.
        """
        text = None if error is None else self._database.storable(error)
        self._database.ask("SELECT amqp_inner.outbox_note(%s, %s::text)", self._broker_id, text)

    def note_mqtt(self, error: str | None) -> None:
        """As `note`, of retained messages."""
        text = None if error is None else self._database.storable(error)
        self._database.ask(
            "SELECT amqp_inner.outbox_note_mqtt(%s, %s::text)", self._broker_id, text
        )

    def compact(self) -> bool:
        """Give back the space of a table that is large and nearly empty; whether it was.

        With FREEZE, what is put back is visible to snapshots that are older, of a pg_dump for
        instance; TRUNCATE alone would let them see an empty table.
        """
        with self._database.asking() as connection, connection.transaction():
            cursor = connection.cursor(binary=True)
            cursor.execute("SELECT amqp_inner.outbox_lock_to_compact()")
            if cursor.fetchone() != (True,):
                return False
            with cursor.copy("COPY amqp.outbox TO STDOUT (FORMAT binary)") as taken:
                alive = [bytes(part) for part in taken]
            cursor.execute("TRUNCATE amqp.outbox")
            with cursor.copy("COPY amqp.outbox FROM STDIN (FORMAT binary, FREEZE)") as given:
                for part in alive:
                    given.write(part)
        return True
