"""Timestamps as AMQP has them: seconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pg_amqp_py.backend import server
from pg_amqp_py.backend.errors import invalid_message
from pg_amqp_py.backend.server import Statement
from pg_amqp_py.wire.errors import RangeError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
# A timestamptz in a DateStyle other than ISO ends in a time zone's abbreviation, and those mean
# different zones to input and output (CST, IST). What the session itself wrote is the local time of
# its time zone, give or take the hour that summer time repeats: what gives the same text is it.
_to_epoch = Statement(
    """
SELECT EXTRACT(epoch FROM pg_catalog.date_trunc('second', c.t))::pg_catalog.int8 AS epoch
FROM (SELECT CASE WHEN $1 OPERATOR(pg_catalog.~) '[ 0-9][+-][0-9:]+$'
             THEN $1::pg_catalog.timestamptz
             ELSE pg_catalog.timezone(
                 pg_catalog.current_setting('TimeZone'),
                 pg_catalog.regexp_replace($1, ' [^ ]+$', '')::pg_catalog.timestamp)
             END AS t) AS l,
     pg_catalog.unnest('{0,-60,60,-30,30}'::pg_catalog.int4[]) AS m,
     LATERAL (SELECT l.t OPERATOR(pg_catalog.+) pg_catalog.make_interval(mins => m) AS t) AS c
WHERE c.t::pg_catalog.text OPERATOR(pg_catalog.=) $1 AND pg_catalog.isfinite(c.t)
LIMIT 1
""",
    "text",
)


def epoch(timestamp: str) -> int:
    """Seconds since 1970 of a timestamptz in its text form, which depends on DateStyle."""
    seconds: int | None
    try:
        # In integers: a float has no microseconds in the far future, and would round up.
        seconds = (datetime.fromisoformat(timestamp) - _EPOCH) // _SECOND
    except ValueError:
        server.refuse_parallel_mode()
        found = _to_epoch(timestamp)
        seconds = found[0]["epoch"] if len(found) else None
    if seconds is None or seconds < 0:
        raise invalid_message(RangeError("timestamp", timestamp))
    return seconds
