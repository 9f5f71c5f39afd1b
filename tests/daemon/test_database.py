"""When a session is broken off: where an answer is awaited for too long, and nowhere else."""

from __future__ import annotations

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


def test_a_session_in_which_nothing_is_asked_stays(impatient: Database) -> None:
    with impatient.connected():
        impatient.prove()
        impatient.unblock()
        impatient.prove()
