"""When a session is broken off: where an answer is awaited for too long, and nowhere else."""

from __future__ import annotations

import tracemalloc

import psycopg
import pytest

from pg_amqp_daemon.runtime.database import Database


@pytest.fixture
def impatient(database: str) -> Database:
    """Gives up a query as soon as it is looked at."""
    return Database(database, "test", patience=0.0)


def test_a_query_that_is_not_answered_ends_the_session(impatient: Database) -> None:
    with impatient.connected(), impatient.asking() as connection:
        impatient.unblock()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_notifications_that_nobody_takes_are_not_kept(database: str) -> None:
    listener = Database(database, "test")
    with listener.connected():
        listener.ask("LISTEN news")
        tracemalloc.start()
        try:
            for _ in range(1000):
                listener.ask("SELECT pg_notify('news', repeat('x', 7000))")
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept < 1_000_000


def test_a_session_in_which_nothing_is_asked_stays(impatient: Database) -> None:
    with impatient.connected():
        impatient.prove()
        impatient.unblock()
        impatient.prove()
