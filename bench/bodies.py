"""Larger bodies, and properties that differ for every message: shares of the broker's limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from bench.bulk import MODES, against_limit, compared, goal
from bench.clock import in_turn
from bench.finding import Cell, Finding, Goal, Table
from bench.lab import Lab, Session, Spent, transaction
from bench.limit import Stream, encoded, repeated
from pg_amqp_py.wire.message import Envelope

_GOAL = 0.85
_BODY = "x" * 100
_PUBLISH = (
    "SELECT count(amqp.publish(1, 'events', 'bench', %s::{type}, %s::int4))"
    " FROM generate_series(1, %s)"
)
# What differs is in a table, so that making it up is no part of what is measured.
_TABLE = """
CREATE TABLE bench.varied AS
SELECT jsonb_build_object('order', i, 'customer', 'c' || i) AS headers,
       'message-' || i AS message_id, 'correlation-' || i AS correlation_id,
       'order.' || i % 7 AS type,
       timestamptz '2026-01-01 00:00:00+00' + i * interval '1 second' AS at
FROM generate_series(1, {count}) AS i
"""
_PUBLISH_VARIED = """
SELECT count(amqp.publish(
    1, 'events', 'bench', %s::text, %s::int4, content_type => 'text/plain', headers => headers,
    message_id => message_id, correlation_id => correlation_id, "timestamp" => at, type => type))
FROM bench.varied
"""
_VARIED = """
SELECT headers::text, message_id, correlation_id, type, date_part('epoch', at)::int8
FROM bench.varied
"""


def measure(lab: Lab) -> Finding:
    """10 KB and 1 MB as text and as bytea, and 100 bytes with much around them."""
    rows: list[list[Cell]] = []
    goals: list[Goal] = []
    with lab.connect() as session:
        transaction(session, _PUBLISH.format(type="text"), _BODY, 1, 1_000)
        lab.purge()
        for what, contestants in _contestants(lab, session):
            lab.say(f"bodies: {what}")
            found = in_turn(lab.sizes.rounds, contestants)
            rows.append(compared(found, what))
            goals.append(goal(found, what, _GOAL))
    lab.session.execute("DROP TABLE bench.varied")
    columns = ["messages", "limit, s", "ours, s", "of it statement, s", "of it COMMIT, s"]
    table = Table(f"Medians of {lab.sizes.rounds} rounds", [*columns, "share of the limit"], rows)
    return Finding([table], goals=goals)


def _contestants(
    lab: Lab, session: Session
) -> Iterator[tuple[str, dict[str, Callable[[], Spent]]]]:
    """What is measured, one after the other: a large stream is gone before the next is made."""
    sizes = lab.sizes
    for size, label, count in (
        (10_000, "10 KB", sizes.bodies_10_kb),
        (1_000_000, "1 MB", sizes.bodies_1_mb),
    ):
        for kind, body in (("text", "x" * size), ("bytea", b"\x80" * size)):
            data = body if isinstance(body, bytes) else body.encode()
            for mode, number in MODES.items():
                publish = partial(
                    transaction, session, _PUBLISH.format(type=kind), body, number, count
                )
                what = f"{count:,} x {label} {kind}, {mode}"
                yield what, against_limit(lab, repeated(count, data, number), publish)
    lab.session.execute(_TABLE.format(count=sizes.bodies_varied).encode())
    for mode, number in MODES.items():
        publish = partial(transaction, session, _PUBLISH_VARIED, _BODY, number)
        what = f"{sizes.bodies_varied:,} x 100 B with properties, {mode}"
        yield what, against_limit(lab, _varied(session, number), publish)


def _varied(session: Session, mode: int) -> Stream:
    """What _PUBLISH_VARIED publishes, as bytes."""
    rows = session.execute(_VARIED.encode())
    return encoded(
        (
            Envelope(
                "events",
                "bench",
                delivery_mode=mode,
                content_type="text/plain",
                headers=headers,
                message_id=message_id,
                correlation_id=correlation_id,
                timestamp=epoch,
                type=kind,
            ),
            _BODY.encode(),
        )
        for headers, message_id, correlation_id, kind, epoch in rows
    )
