"""Rows that somebody else has locked are passed over, and nothing else waits for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg import errors

from support.messages import Inbox
from support.outbox import dead, in_outbox, put, settle, status
from support.sessions import Session, open_session

BATCH = "SELECT amqp.publish_outbox_batch()"


@pytest.fixture
def other(database: str) -> Iterator[Session]:
    """Another session, in whose transaction rows are locked."""
    with open_session(database, autocommit=False) as other:
        yield other


@pytest.mark.parametrize(
    "lock",
    [
        "UPDATE amqp.outbox SET attempts = attempts WHERE id IN (1, 3)",
        "SELECT FROM amqp.outbox WHERE id IN (1, 3) FOR UPDATE",
        "SELECT FROM amqp.outbox WHERE id IN (1, 3) FOR KEY SHARE",
        "DELETE FROM amqp.outbox WHERE id IN (1, 3)",
    ],
)
def test_the_rest_is_settled(session: Session, other: Session, lock: str) -> None:
    for name in "abcdef":
        put(session, name)
    other.execute(lock.encode())
    refused = [(3, "invalid", "no"), (4, "invalid", "no"), (5, "refused", "later")]
    assert settle(session, delivered=[1, 2], refused=refused) == [1, 3]
    assert in_outbox(session, "id, attempts") == [(1, 0), (3, 0), (5, 1), (6, 0)]
    assert dead(session) == [(4,)]
    other.rollback()
    assert settle(session, delivered=[1], refused=refused[:1]) == []
    assert in_outbox(session) == [(5,), (6,)]
    assert dead(session) == [(3,), (4,)]


def test_it_does_not_wait_with_kept_messages(session: Session, other: Session) -> None:
    session.execute("SET amqp.keep_delivered = '1 day'; SET lock_timeout = '7s'")
    for name in "ab":
        put(session, name)
    other.execute("SELECT FROM amqp.outbox WHERE id = 1 FOR UPDATE")
    assert settle(session, delivered=[1, 2]) == [1]
    assert session.execute("SELECT id FROM amqp.outbox_delivered").fetchall() == [(2,)]
    assert session.execute("SHOW lock_timeout").fetchone() == ("7s",)
    # What is beside the outbox is not waited for either.
    other.execute("SELECT FROM amqp.outbox_delivered FOR UPDATE")
    session.execute("SET amqp.keep_delivered = '0'")
    assert settle(session) == []
    other.rollback()
    settle(session)
    assert session.execute("SELECT count(*) FROM amqp.outbox_delivered").fetchone() == (0,)


@pytest.mark.parametrize("table", ["outbox_progress", "outbox_trouble"])
def test_what_is_remembered_beside_it_stops_nothing(
    session: Session, other: Session, table: str
) -> None:
    put(session, "a")
    settle(session, delivered=[1], refused=[])
    put(session, "b")
    other.execute(f"LOCK amqp.{table} IN ACCESS EXCLUSIVE MODE".encode())
    assert settle(session, delivered=[2]) == []
    other.rollback()
    assert in_outbox(session) == []


def test_a_table_that_is_locked_is_waited_for(session: Session, other: Session) -> None:
    put(session)
    other.execute("LOCK amqp.outbox IN SHARE MODE")
    session.execute("SET lock_timeout = '100ms'")
    with pytest.raises(errors.LockNotAvailable):
        settle(session, delivered=[1])


def test_a_batch_goes_on_and_sends_nothing_twice(
    session: Session, other: Session, inbox: Inbox
) -> None:
    for name in "abc":
        put(session, name)
    other.execute("SELECT FROM amqp.outbox WHERE id = 2 FOR UPDATE")
    assert session.execute(BATCH).fetchone() == (3,)
    assert inbox.texts() == ["a", "b", "c"]
    (warning,) = session.warnings()
    assert warning.sqlstate == "55P03"
    assert warning.message == "amqp: delivered messages to broker 1 stay in the outbox"
    assert "ids: 2." in warning.detail
    put(session, "d")
    assert session.execute(BATCH).fetchone() == (1,)
    assert inbox.texts() == ["d"]
    assert in_outbox(session) == [(2,)]
    other.rollback()
    assert session.execute(BATCH).fetchone() == (0,)
    assert in_outbox(session) == []
    assert inbox.texts() == []
    assert len(session.warnings()) == 1


def test_a_batch_keeps_the_order_behind_what_was_refused(
    session: Session, other: Session, inbox: Inbox
) -> None:
    put(session, "bad", exchange="no-such-exchange", ordering_key="k")
    put(session, "behind", ordering_key="k")
    put(session, "another")
    other.execute("SELECT FROM amqp.outbox WHERE id = 1 FOR UPDATE")
    assert session.execute(BATCH).fetchone() == (1,)
    assert inbox.texts() == ["another"]
    assert in_outbox(session) == [(1,), (2,)]


def test_many_locked_rows_hide_nothing(session: Session, other: Session, inbox: Inbox) -> None:
    for number in range(20):
        put(session, number)
    other.execute("SELECT FROM amqp.outbox WHERE id <= 10 FOR UPDATE")
    for limit in 10, 20:
        found = session.execute("SELECT amqp.publish_outbox_batch(batch_limit => %s)", [limit])
        assert found.fetchone() == (10,)
    assert inbox.texts() == [str(number) for number in range(20)]
    assert len(in_outbox(session)) == 10


def test_waiting_messages_of_a_key_are_woken_but_for_locked_ones(
    session: Session, other: Session
) -> None:
    for key in "ab":
        put(session, ordering_key=key, deliver_at="2020-01-01+00")
    other.execute("SELECT FROM amqp.outbox WHERE id = 1 FOR UPDATE")
    session.execute("SET lock_timeout = '1s'")
    session.execute("SELECT amqp_inner.outbox_wake(1)")
    assert in_outbox(session, "id, next_attempt_at IS NULL") == [(1, False), (2, True)]


def test_trouble_lasts_until_something_is_settled(session: Session, other: Session) -> None:
    session.execute("SELECT amqp_inner.outbox_note(1, 'away')")
    assert (status(session)["trouble"], status(session)["last_error"]) == ("away", "away")
    settle(session)
    put(session)
    other.execute("SELECT FROM amqp.outbox FOR UPDATE")
    assert settle(session, delivered=[1]) == [1]
    assert status(session)["trouble"] == "away"
    other.rollback()
    settle(session, delivered=[1])
    assert (status(session)["trouble"], status(session)["last_error"]) == (None, "away")
    session.execute("SELECT amqp_inner.outbox_note(1, 'again')")
    session.execute("SELECT amqp_inner.outbox_note(1, NULL)")
    assert (status(session)["trouble"], status(session)["last_error"]) == (None, "again")
    # The error of one message is no lasting trouble.
    settle(session, refused=[(put(session), "refused", "no")])
    assert (status(session)["trouble"], status(session)["last_error"]) == (None, "no")


def test_trouble_of_messages_that_nobody_works(session: Session) -> None:
    put(session, broker_id=7)
    assert status(session, 7)["trouble"] == "the broker has no row in amqp.broker"
    put(session)
    assert status(session)["trouble"] is None
    session.execute("UPDATE amqp.outbox SET created_at = now() - interval '2 minutes'")
    assert status(session)["trouble"] == "messages are due and no relay works them"
    # Not what cannot go, nor what is not due.
    session.execute("UPDATE amqp.outbox SET next_attempt_at = now() + interval '1 hour'")
    assert status(session)["trouble"] is None
    session.execute("UPDATE amqp.outbox SET next_attempt_at = now() - interval '2 minutes'")
    assert status(session)["trouble"] == "messages are due and no relay works them"
    assert session.execute("SELECT amqp_inner.outbox_lock(1)").fetchone() == (True,)
    assert status(session)["trouble"] is None
