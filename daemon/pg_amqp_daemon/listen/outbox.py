"""The thread that puts into amqp.outbox what the broker did not take, and tells the database."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from typing import Any

import psycopg
import structlog

from pg_amqp_daemon.listen.listener import Message
from pg_amqp_daemon.listen.tally import Tally
from pg_amqp_daemon.runtime.database import Database, first_line
from pg_amqp_daemon.runtime.session_worker import SessionWorker
from pg_amqp_py.wire.fields import FIELDS

_INTERVAL = 1.0
"""Seconds between reports."""
_MOST = 1_000
_MOST_BYTES = 8 << 20
"""What is stored in a transaction, at most."""
_MOST_HELD = 100_000
_MOST_HELD_BYTES = 64 << 20
"""What may wait for it."""
_PROOF = 1.0
"""Seconds after which an idle session shows that it is there."""
_PASSING = ("08", "25", "40", "53", "55", "57", "58")
"""Classes of SQLSTATEs that are no message's fault: of connections, transactions, conflicts, short
resources, locks, a shutdown, the system."""
_NAMES = ", ".join(f'"{name}"' for name in FIELDS)
_STORE = f"""
INSERT INTO amqp.outbox (broker_id, body, {_NAMES})
SELECT m.broker_id, b.body, {", ".join(f'm."{name}"' for name in FIELDS)}
FROM jsonb_array_elements(%s::text::jsonb) WITH ORDINALITY AS j (fields, n)
JOIN unnest(%s::bytea[]) WITH ORDINALITY AS b (body, n) ON b.n = j.n
CROSS JOIN LATERAL jsonb_to_record(j.fields) AS m (
    broker_id integer, exchange text, routing_key text, delivery_mode integer, content_type text, reply_to text,
    correlation_id text, mandatory boolean, headers jsonb, content_encoding text, priority integer, expiration text,
    message_id text, "timestamp" timestamptz, type text, user_id text, app_id text)
ORDER BY j.n
"""  # noqa: E501
_REPORT = """
INSERT INTO amqp.listener_state AS s (
    listener_id, since, received, published, stored, dropped, gaps, last_error, last_error_at)
SELECT n.listener_id, n.since, COALESCE(n.received, 0), COALESCE(n.published, 0), COALESCE(n.stored, 0),
       COALESCE(n.dropped, 0), COALESCE(n.gaps, 0), n.last_error, n.last_error_at
FROM jsonb_to_recordset(%s::text::jsonb) AS n (
    listener_id integer, since timestamptz, received bigint, published bigint, stored bigint, dropped bigint, gaps bigint,
    last_error text, last_error_at timestamptz)
WHERE EXISTS (SELECT FROM amqp.listener AS l WHERE l.listener_id = n.listener_id)
ON CONFLICT (listener_id) DO UPDATE SET
    since = COALESCE(EXCLUDED.since, s.since),
    received = s.received + EXCLUDED.received,
    published = s.published + EXCLUDED.published,
    stored = s.stored + EXCLUDED.stored,
    dropped = s.dropped + EXCLUDED.dropped,
    gaps = s.gaps + EXCLUDED.gaps,
    last_error = COALESCE(EXCLUDED.last_error, s.last_error),
    last_error_at = COALESCE(EXCLUDED.last_error_at, s.last_error_at)
"""  # noqa: E501


class OutboxWriter(SessionWorker):
    """Stores what is put, and reports what the tally knows, for ever."""

    def __init__(self, dsn: str, tally: Tally) -> None:
        log = structlog.get_logger()
        super().__init__(Database(dsn, "listen", " (outbox)"), "listen", "outbox", log)
        self._tally = tally
        self._held: deque[Message] = deque()
        self._held_bytes = 0
        self._news = threading.Condition()
        self._next_report = 0.0
        self._not_stored: dict[int, str] = {}
        """Why the last message of a row was not stored."""
        self.start()

    def divert(self, messages: list[Message], why: str) -> None:
        """Store these, or drop them where their row, the role or the memory says so; never waits.

        Called by any thread.
        """
        storable: list[Message] = []
        dropped: list[Message] = []
        for message in messages:
            (storable if message.listener.may_store else dropped).append(message)
        for message in {message.listener.id: message for message in storable}.values():
            self._tally.fail(message, why)
        size = sum(len(message.body) for message in storable)
        with self._news:
            if len(self._held) < _MOST_HELD and self._held_bytes + size <= _MOST_HELD_BYTES:
                self._held += storable
                self._held_bytes += size
                storable = []
                self._news.notify()
        if dropped:
            self._tally.drop(dropped, why)
        if storable:
            self._tally.drop(storable, f"{why}; the outbox takes no more for now")

    def stop(self) -> None:
        """Store what was put, and end."""
        super().stop()
        with self._news:
            self._news.notify()

    # -- in the thread -----------------------------------------------------------------

    def work_in_session(self) -> None:
        """Store and report until the session ends."""
        while True:
            stopping = self._stopping.is_set()
            self._store()
            self._report(now=stopping)
            self._well()
            if stopping and not self._held:
                return

    def _store(self) -> None:
        """Store what comes next, if anything does within a little while."""
        with self._news:
            if not self._held and not self._stopping.is_set():
                self._news.wait(_PROOF)
            messages: list[Message] = []
            size = 0
            while self._held and len(messages) < _MOST and size < _MOST_BYTES:
                messages.append(message := self._held.popleft())
                size += message.size
        if not messages:
            self._database.prove()
            return
        parts = [messages]
        try:
            while parts:
                self._store_part(parts)
        finally:
            left = [message for part in reversed(parts) for message in part]
            settled = messages[: len(messages) - len(left)]
            with self._news:
                self._held.extendleft(reversed(left))
                self._held_bytes -= sum(len(message.body) for message in settled)

    def _store_part(self, parts: list[list[Message]]) -> None:
        """Store the last part. Where a message is at fault, halves take its place, to find it."""
        part = parts[-1]
        try:
            self._insert(part)
        except psycopg.Error as error:
            if not self._is_ours(error) or self._database.broken:
                raise
            if len(part) > 1:
                middle = len(part) // 2
                parts[-1:] = [part[middle:], part[:middle]]
                return
            self._give_up(part[0], first_line(error))
        else:
            for message in part:
                self._not_stored.pop(message.listener.id, None)
            self._tally.store(part)
        parts.pop()

    def _give_up(self, message: Message, error: str) -> None:
        if error != self._not_stored.get(message.listener.id):
            self._not_stored[message.listener.id] = error
            self._log.warning("notifications not stored", error=error)
        self._tally.drop([message], f"not stored: {error}")

    @staticmethod
    def _is_ours(error: psycopg.Error) -> bool:
        """Whether trying again would end the same way: a right, a constraint, a trigger."""
        return error.sqlstate is not None and error.sqlstate[:2] not in _PASSING

    def _insert(self, messages: list[Message]) -> None:
        # Without escapes: an SQL_ASCII database could not read them.
        text = json.dumps([_row(message) for message in messages], ensure_ascii=False)
        self._database.ask(_STORE, text, [message.body for message in messages])

    def _report(self, *, now: bool) -> None:
        if not now and time.monotonic() < self._next_report:
            return
        self._next_report = time.monotonic() + _INTERVAL
        reports = self._tally.take()
        if not reports:
            return
        try:
            told = [
                {
                    "listener_id": listener_id,
                    **report.counts,
                    # A broker says whatever it likes.
                    **{name: self._database.storable(text) for name, text in report.texts.items()},
                }
                for listener_id, report in reports.items()
            ]
            self._database.ask(_REPORT, json.dumps(told, ensure_ascii=False))
        except psycopg.Error:
            self._tally.put_back(reports)
            raise


def _row(message: Message) -> dict[str, Any]:
    """A message as the outbox has it, but for its body."""
    fields = dict(zip(FIELDS, message.fields, strict=True))
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(fields["timestamp"]))
    return {
        **fields,
        "broker_id": message.listener.broker_id,
        "headers": json.loads(fields["headers"]),
        "timestamp": moment,
    }
