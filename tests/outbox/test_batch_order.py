"""amqp.publish_outbox_batch(): messages of its own transaction, and the order of a key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.messages import Inbox
from support.outbox import in_outbox, put, settle
from support.sessions import Session, open_session

PROJECT = Path(__file__).parents[2]
BATCH = "SELECT amqp.publish_outbox_batch()"


@pytest.fixture
def batch(database: str) -> Iterator[Session]:
    """A session whose transaction is to deliver; it has looked at something first."""
    with open_session(database, autocommit=False) as batch:
        yield batch


def begin(batch: Session) -> None:
    """Begin its transaction, with a transaction id."""
    batch.execute("SELECT pg_current_xact_id()")


def delivered(batch: Session, inbox: Inbox, session: Session) -> list[str]:
    """What a batch of the transaction that is open delivers, and then all others."""
    batch.execute(BATCH)
    first = inbox.texts()
    batch.commit()
    session.execute(BATCH)
    return first + inbox.texts()


def test_the_first_of_a_key_committed_with_a_later_transaction_id(
    database: str, session: Session, batch: Session, inbox: Inbox
) -> None:
    with open_session(database, autocommit=False) as later:
        later.execute("SELECT pg_current_xact_id()")
        begin(batch)
        with open_session(database, autocommit=False) as earlier:
            put(earlier, "first", ordering_key="k")
        put(later, "second", ordering_key="k")
        later.commit()
    assert delivered(batch, inbox, session) == ["first", "second"]


def test_the_first_of_a_key_was_published_in_a_savepoint(
    database: str, session: Session, batch: Session, inbox: Inbox
) -> None:
    with open_session(database, autocommit=False) as other:
        other.execute("SELECT pg_current_xact_id()")
        begin(batch)
        other.execute("SAVEPOINT s")
        put(other, "first", ordering_key="k")
        other.execute("RELEASE s")
        put(other, "second", ordering_key="k")
        other.commit()
    assert delivered(batch, inbox, session) == ["first", "second"]


def test_the_first_of_a_key_was_put_back(
    database: str, session: Session, batch: Session, inbox: Inbox
) -> None:
    first = put(session, "first", ordering_key="k")
    put(session, "second", ordering_key="k")
    settle(session, refused=[(first, "invalid", "no")])
    begin(batch)
    session.execute("SELECT amqp.retry_dead_letters()")
    assert delivered(batch, inbox, session) == ["first", "second"]


@pytest.mark.parametrize("deliver_at", [None, "2020-01-01+00"])
def test_its_own_hold_back_their_key_and_nothing_else(
    session: Session, batch: Session, inbox: Inbox, deliver_at: str | None
) -> None:
    put(session, "before", ordering_key="k")
    put(batch, "own", ordering_key="k", deliver_at=deliver_at)
    batch.execute("SAVEPOINT s")
    put(batch, "own of a savepoint", ordering_key="l")
    put(session, "behind", ordering_key="k")
    put(session, "behind that of the savepoint", ordering_key="l")
    put(session, "another", ordering_key="m")
    put(session, "without")
    batch.execute(BATCH)
    assert inbox.texts() == ["before", "another", "without"]
    batch.commit()
    session.execute(BATCH)
    assert inbox.texts() == [
        "own",
        "own of a savepoint",
        "behind",
        "behind that of the savepoint",
    ]


def test_its_own_that_was_put_back_is_not_delivered(
    session: Session, batch: Session, inbox: Inbox
) -> None:
    first = put(session, "first", ordering_key="k")
    put(session, "second", ordering_key="k")
    settle(session, refused=[(first, "invalid", "no")])
    batch.execute("SELECT amqp.retry_dead_letters()")
    batch.execute(BATCH)
    assert inbox.texts() == []
    batch.rollback()
    session.execute(BATCH)
    assert inbox.texts() == []
    assert in_outbox(session) == [(2,)]


def test_no_transaction_id_wraps_around() -> None:
    for path in (PROJECT / "sql").rglob("*.sql"):
        assert not re.search(r"\bage\(|\bxmin\b", path.read_text()), path


def test_messages_of_an_earlier_version_or_another_cluster_are_due(
    session: Session, inbox: Inbox
) -> None:
    put(session, "one")
    put(session, "two")
    session.execute("UPDATE amqp.outbox SET transaction_id = NULL WHERE id = 1")
    session.execute("UPDATE amqp.outbox SET transaction_id = '9000000000' WHERE id = 2")
    session.execute("VACUUM (FREEZE) amqp.outbox")
    session.execute(BATCH)
    assert inbox.texts() == ["one", "two"]
