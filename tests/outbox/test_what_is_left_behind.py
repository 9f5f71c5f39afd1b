"""Whoever settles, or tries to get the lock, has no setting changed, and no lock, behind it."""

from __future__ import annotations

from support.outbox import put, settle
from support.sessions import Session, open_session


def test_settling_leaves_the_lock_timeout_of_its_transaction(
    session: Session, database: str
) -> None:
    for _ in range(2):
        put(session)
    with open_session(database, autocommit=False) as other:
        other.execute("SELECT FROM amqp.outbox WHERE id = 2 FOR UPDATE")
        with session.transaction():
            session.run("SET lock_timeout = '7s'")
            assert settle(session) == []
            assert session.value("SHOW lock_timeout") == "7s"
            assert settle(session, delivered=[1, 2]) == [2]
            assert session.value("SHOW lock_timeout") == "7s"


def test_who_does_not_become_the_one_that_works_keeps_no_lock(
    session: Session, database: str
) -> None:
    assert session.value("SELECT amqp_inner.outbox_lock_batch(1)")
    with open_session(database) as first, open_session(database, autocommit=False) as other:
        # As long as somebody decides by which key.
        other.execute("SELECT FROM amqp.outbox_lease FOR UPDATE")
        assert not first.value("SELECT amqp_inner.outbox_lock(1)")
        other.rollback()
        assert session.value("SELECT amqp_inner.outbox_lock(1)")
