"""Which consumers there are, and whether anything has changed that one of them goes by.

To make a plan costs milliseconds, so it is not made to see that it is as it was: one query asks
for all consumers what their plans are made of.
"""

from __future__ import annotations

import time

import psycopg

from pg_amqp_daemon.runtime.database import Database

_CONSUMERS = "SELECT c.name FROM ONLY amqp.consumer AS c WHERE c.enabled"
# A row has another xmin when it is another one. Whoever lets an InfluxDB be written to need not let
# its password be read by everybody: of these nothing is known.
_VERSIONS = """
SELECT c.name, CASE WHEN c.influxdb IS NULL THEN encode(sha256(convert_to(ROW(
    c.xmin,
    (SELECT ROW(r.xmin, n.xmin) FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace
     WHERE r.oid = c.target_table),
    (SELECT string_agg(ROW(a.xmin, t.xmin, d.xmin)::text, '' ORDER BY a.attnum)
     FROM pg_attribute AS a
     JOIN pg_type AS t ON t.oid = a.atttypid
     LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = c.target_table AND a.attnum > 0),
    (SELECT string_agg(k.xmin::text, ',' ORDER BY k.oid) FROM pg_constraint AS k
     WHERE k.conrelid = c.target_table),
    (SELECT string_agg(g.xmin::text, ',' ORDER BY g.oid) FROM pg_trigger AS g
     WHERE g.tgrelid = c.target_table),
    (SELECT ROW(p.xmin, n.xmin) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
     WHERE p.oid = substring(c.target_function_id FROM '[0-9]+$')::oid),
    (SELECT string_agg(b.xmin::text, ',' ORDER BY b.ctid) FROM ONLY amqp.broker AS b
     WHERE b.broker_id = c.broker_id),
    (SELECT o.rewinds FROM amqp.inbox_offset AS o WHERE o.consumer = c.name AND o.queue = c.queue),
    (SELECT d.id FROM amqp.inbox_dead AS d WHERE d.consumer = c.name AND d.retry LIMIT 1)
)::text, 'UTF8')), 'hex') END
FROM ONLY amqp.consumer AS c WHERE c.enabled
"""
_AGAIN = 10.0
"""Seconds for which nothing more is asked than a role may see."""
_FRESH = 2.0
"""Seconds after which news are none: nobody may be there to ask."""


class News:
    """Of a database. Asked by one thread, read by all."""

    def __init__(self) -> None:
        self._versions: dict[str, str | None] = {}
        self._asked_at = self._not_before = 0.0

    def version(self, consumer: str) -> str | None:
        """What changes with a consumer's row, target, brokers, rewinds and dead messages.

        None: nothing is known, so it has to be looked at.
        """
        if time.monotonic() - self._asked_at > _FRESH:
            return None
        return self._versions.get(consumer)

    def ask(self, database: Database) -> set[str]:
        """Find out; the names of the consumers that are enabled. Raises psycopg.Error."""
        now = time.monotonic()
        if now >= self._not_before:
            try:
                self._versions = {row[0]: row[1] for row in database.ask(_VERSIONS)}
                self._asked_at = now
                return set(self._versions)
            except psycopg.errors.InsufficientPrivilege:
                # Each consumer that lacks a right says so itself.
                self._not_before = now + _AGAIN
        return {name for (name,) in database.ask(_CONSUMERS)}
