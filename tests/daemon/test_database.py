"""When a session is broken off: where an answer is awaited for too long, and nowhere else."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

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


def connect_timeout_of(database: Database) -> str:
    """What libpq has been told, in one way or another."""
    with database.connected(), database.asking() as connection:
        options = connection.pgconn.info
        (timeout,) = (option.val for option in options if option.keyword == b"connect_timeout")
    return "" if timeout is None else timeout.decode()


def test_whoever_says_how_long_connecting_may_take_is_heard(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGCONNECT_TIMEOUT", "PGSERVICE", "PGSERVICEFILE"):
        monkeypatch.delenv(name, raising=False)
    assert connect_timeout_of(Database(database, "test")) == "5"
    services = tmp_path / "services.conf"
    services.write_text("[patient]\nconnect_timeout=33\n[hasty]\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    patient = make_conninfo(database, service="patient")
    assert connect_timeout_of(Database(patient, "test")) == "33"
    assert connect_timeout_of(Database(make_conninfo(database, service="hasty"), "test")) == "5"
    monkeypatch.setenv("PGSERVICE", "patient")
    assert connect_timeout_of(Database(database, "test")) == "33"
    monkeypatch.delenv("PGSERVICE")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "44")
    assert connect_timeout_of(Database(database, "test")) == "44"
    assert connect_timeout_of(Database(make_conninfo(database, connect_timeout=7), "test")) == "7"
