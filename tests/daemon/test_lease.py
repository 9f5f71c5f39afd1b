"""The proof that a session still holds its lock."""

from __future__ import annotations

import time

from pg_amqp_daemon.runtime.database import Database
from pg_amqp_daemon.runtime.lease import LEASE, Lease


def test_a_lease_counts_from_the_question() -> None:
    lease = Lease()
    lease.prove(time.monotonic())
    assert lease.valid
    lease.prove(time.monotonic() - LEASE)
    assert not lease.valid


def test_what_a_session_answers_proves_nothing_before_it_has_a_lock() -> None:
    lease = Lease()
    lease.answered(time.monotonic())
    assert not lease.valid
    lease.take()
    assert not lease.valid
    lease.answered(time.monotonic())
    assert lease.valid


def test_it_ends_before_somebody_else_can_have_the_lock() -> None:
    lease = Lease()
    lease.take()
    lease.answered(time.monotonic() - LEASE + 0.9)
    assert not lease.valid
    lease.answered(time.monotonic() - LEASE / 3)
    assert lease.valid


def test_it_ends_with_its_session(database: str) -> None:
    session = Database(database, "test")
    with session.connected():
        session.lease.take()
        session.prove()
        assert session.lease.valid
    assert not session.lease.valid
    with session.connected():
        # Another session, which has no lock yet.
        session.prove()
        assert not session.lease.valid


def test_it_counts_from_when_the_session_was_asked(database: str) -> None:
    """Whoever answers late may have been gone in between."""
    session = Database(database, "test")
    with session.connected():
        session.lease.take()
        session.ask("SELECT pg_sleep(2.5)")
        assert not session.lease.valid
        session.prove()
        assert session.lease.valid
