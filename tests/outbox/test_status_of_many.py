"""amqp.outbox_status() reads a bounded number of rows, and says so of what it counts."""

from __future__ import annotations

import pytest

from support.outbox import status
from support.sessions import Session

_MOST = 10_000
KINDS = {
    "pending": "INSERT INTO amqp.outbox (broker_id) SELECT 1",
    "waiting": "INSERT INTO amqp.outbox (broker_id, next_attempt_at) SELECT 1, '2090-01-01'",
    "retained": "INSERT INTO amqp.outbox (broker_id, routing_key, exchange, retain)"
    " SELECT 1, 'k', 'amq.topic', true",
    "dead": "INSERT INTO amqp.outbox_dead"
    " (id, broker_id, exchange, routing_key, body, message_id, created_at, attempts)"
    " SELECT n, 1, '', '', '', n, now(), 1",
}


def rows_read(session: Session) -> int:
    """How many rows of the outbox outbox_status() reads."""
    read = """SELECT sum(seq_tup_read + idx_tup_fetch)::int FROM pg_stat_xact_user_tables
              WHERE relid IN ('amqp.outbox'::regclass, 'amqp.outbox_dead'::regclass)"""
    session.run("BEGIN")
    before = session.value(read)
    session.run("SELECT * FROM amqp.outbox_status()")
    after = session.value(read)
    session.run("ROLLBACK")
    assert isinstance(before, int)
    assert isinstance(after, int)
    return after - before


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_more_than_the_limit_counts_as_at_least_so_many(
    session: Session, kind: str
) -> None:
    fill = f"{KINDS[kind]} FROM generate_series(%s::int, %s) AS n"
    session.execute(fill, [1, _MOST - 1])
    assert status(session)[kind] == _MOST - 1
    session.execute(fill, [_MOST, 3 * _MOST])
    assert status(session)[kind] == _MOST
    # Beside those that are counted, whatever says which brokers there are and what is overdue.
    assert rows_read(session) <= _MOST + 50


def test_brokers_without_a_row_are_found_among_many_messages(session: Session) -> None:
    for kind, fill in KINDS.items():
        session.run(f"{fill} FROM generate_series(1, 2000) AS n")
        number = 7 + len(kind)
        one = fill.replace("SELECT 1", f"SELECT {number}").replace("SELECT n, 1", "SELECT n, 12")
        session.run(f"{one} FROM generate_series(1, 3) AS n")
    shown = dict(session.run("SELECT broker_id, pending + dead FROM amqp.outbox_status()"))
    assert shown == {1: 8000, 14: 6, 15: 3, 12: 3}
