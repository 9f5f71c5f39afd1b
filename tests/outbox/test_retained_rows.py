"""Retained messages in the outbox: what reads them, and what must not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.outbox import put, put_many, settle, status
from support.sessions import Session, open_session

MANY = """
INSERT INTO amqp.outbox (broker_id, routing_key, body, retain, next_attempt_at)
SELECT 1, 't.' || n, 'x', true, CASE WHEN n % 2 = 0 THEN '2020-01-01'::timestamptz END
FROM generate_series(1, 20000) AS n
"""
READ = "SELECT * FROM amqp_inner.outbox_due(1, %s::int8, %s, 1000, 1000000)"


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    """A session that plans as a relay does."""
    with open_session(database) as session:
        for setting in (
            "enable_seqscan = off",
            "enable_bitmapscan = off",
            "enable_sort = off",
            "plan_cache_mode = force_generic_plan",
            "jit = off",
        ):
            session.run(f"SET {setting}")
        yield session


def keep(session: Session, topic: str, text: str = "x") -> int:
    """Publish a message that is to be retained; its id."""
    query = "SELECT amqp.publish_outbox_mqtt(1, %s, %s, retain => true)"
    number: int = session.value(query, topic, text)
    return number


def pages(session: Session, query: str, *values: object) -> int:
    """How many pages a query reads."""
    ((lines,),) = session.run(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", *values)
    plan = lines[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def retained(
    session: Session, after: int | None = None, rows: int = 100, size: int = 1 << 20
) -> list[tuple[int, bool]]:
    query = "SELECT id, is_due FROM amqp_inner.outbox_retained(%s, %s::int8, %s, %s)"
    return [(number, due) for number, due in session.run(query, 1, after, rows, size)]


def test_what_goes_by_amqp_does_not_read_what_is_retained(session: Session) -> None:
    put_many(session, 10)
    session.run("UPDATE amqp.outbox SET next_attempt_at = '2020-01-01' WHERE id % 2 = 0")
    before = pages(session, READ, None, -1)
    session.run(MANY)
    # More levels of the indexes, and nothing for each row.
    assert pages(session, READ, None, -1) < before + 100
    found = session.run("SELECT id FROM amqp_inner.outbox_due(1, NULL, -1, 1000, 1000000)")
    assert [number for (number,) in found] == list(range(1, 11))


def test_waking_and_looking_pass_over_what_is_retained(session: Session) -> None:
    session.run(MANY)
    for query in (
        "SELECT amqp_inner.outbox_wake(1)",
        """SELECT amqp_inner.outbox_settle(1, '{}', '{}', '{}', '{}', '{}', '{}')""",
    ):
        # The first time, it reads the catalogs.
        session.run(query)
        assert pages(session, query) < 200


def test_what_is_retained_is_read_in_order_with_what_waits(session: Session) -> None:
    put(session)
    first = keep(session, "a")
    waits = keep(session, "b", "y" * 100)
    last = keep(session, "a")
    put(session, ordering_key="k")
    session.run("UPDATE amqp.outbox SET next_attempt_at = '2090-01-01' WHERE id = %s", waits)
    assert retained(session) == [(first, True), (waits, False), (last, True)]
    assert retained(session, first) == [(waits, False), (last, True)]
    assert retained(session, rows=1) == [(first, True)]
    assert retained(session, last) == []
    assert session.run("SELECT body IS NULL FROM amqp_inner.outbox_retained(1, NULL, 9, 999)") == [
        (False,),
        (True,),
        (False,),
    ]
    assert session.run("SELECT id FROM amqp_inner.outbox_retained(2, NULL, 9, 999)") == []


def test_bytes_are_limited_but_for_the_first(session: Session) -> None:
    ids = [keep(session, "a", "x" * size) for size in (1000, 10, 10, 1000, 10)]
    assert [one for one, _ in retained(session, size=1)] == ids[:1]
    assert [one for one, _ in retained(session, size=1001)] == ids[:2]
    assert [one for one, _ in retained(session, size=1021)] == ids[:4]


def test_a_page_is_read_by_its_index(session: Session) -> None:
    put_many(session, 20_000)
    session.run(MANY)
    query = "SELECT * FROM amqp_inner.outbox_retained(1, %s::int8, 100, 1000000)"
    for after in (None, 30_000):
        assert pages(session, query, after) < 1000


def test_what_becomes_of_it_is_settled_like_the_others(session: Session) -> None:
    delivered, refused, dead = (keep(session, topic) for topic in "abc")
    assert settle(session, [delivered], [(refused, "refused", "no"), (dead, "invalid", "no")]) == []
    assert session.run("SELECT id, retain, attempts FROM amqp.outbox") == [(refused, True, 1)]
    assert session.run("SELECT id, retain FROM amqp.dead_letters") == [(dead, True)]
    found = status(session)
    assert (found["pending"], found["waiting"], found["retained"]) == (1, 1, 1)


def test_each_kind_has_a_trouble_of_its_own(session: Session) -> None:
    session.run("INSERT INTO amqp.broker (broker_id, host) VALUES (1, 'localhost')")

    def trouble() -> object:
        return status(session)["trouble"]

    session.run("SELECT amqp_inner.outbox_note_mqtt(1, 'no MQTT')")
    assert trouble() == "no MQTT"
    assert status(session)["last_error"] == "no MQTT"
    settle(session, [put(session)])
    assert trouble() == "no MQTT"
    session.run("SELECT amqp_inner.outbox_note(1, 'no AMQP')")
    assert trouble() == "no AMQP"
    session.run("SELECT amqp_inner.outbox_note_mqtt(1, 'still no MQTT')")
    assert trouble() == "no AMQP"
    session.run("SELECT amqp_inner.outbox_note(1, NULL)")
    assert trouble() == "still no MQTT"
    session.run("SELECT amqp_inner.outbox_note_mqtt(1, NULL)")
    assert trouble() is None
    assert status(session)["last_error"] == "no AMQP"
