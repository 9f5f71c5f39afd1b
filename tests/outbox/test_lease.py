"""Who holds the lock under which an outbox is worked: nobody who may not work it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from servers.processes import wait_for
from servers.relay import RelayProcess
from support.messages import Inbox
from support.outbox import put, status, wait_until_empty, worker_of
from support.patience import LIMIT
from support.sessions import Session, open_session

# Every advisory lock that anybody has or waits for in this database, as a key of two kinds.
SEEN = """
SELECT DISTINCT l.objsubid, l.classid::bigint, l.objid::bigint
FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND d.datname = current_database()
"""


class Stranger:
    """A role without any grant, that asks for every advisory lock that it sees, and keeps it.

    One session tries, so that it holds what is free; the others wait in the queue for what is not.
    """

    def __init__(self, database: str) -> None:
        self.held = 0
        self._database = database
        self._ending = threading.Event()
        self._waiting: list[Session] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _connect(self) -> Session:
        return open_session(make_conninfo(self._database, user="stranger"))

    def _work(self) -> None:
        done: set[tuple[object, ...]] = set()
        with self._connect() as session:
            while not self._ending.wait(0.01):
                for kind, high, low in session.execute(SEEN).fetchall():
                    if (kind, high, low) not in done:
                        done.add((kind, high, low))
                        self._take(session, kind, high, low)
                        self.held += 1

    def _take(self, session: Session, kind: int, high: int, low: int) -> None:
        key = f"(({high}::bigint << 32) | {low}::bigint)"
        if kind == 2:
            key = f"{high - (high >> 31 << 32)}, {low - (low >> 31 << 32)}"
        for mode in "", "_shared":
            session.execute(f"SELECT pg_try_advisory_lock{mode}({key})".encode())
            waiting = self._connect()
            self._waiting.append(waiting)
            waiting.pgconn.send_query(f"SELECT pg_advisory_lock{mode}({key})".encode())

    def stop(self) -> None:
        """Let all go."""
        self._ending.set()
        self._thread.join(LIMIT)
        for session in self._waiting:
            session.close()


@contextmanager
def stranger(session: Session, database: str) -> Iterator[Stranger]:
    session.execute("CREATE ROLE stranger LOGIN")
    try:
        attack = Stranger(database)
        try:
            yield attack
        finally:
            attack.stop()
    finally:
        session.execute("DROP ROLE stranger")


def deliver(session: Session, text: str) -> None:
    put(session, text)
    wait_until_empty(session)


def test_a_stranger_does_not_stop_a_relay(database: str, session: Session, inbox: Inbox) -> None:
    with stranger(session, database) as attack:
        with RelayProcess(database) as relay:
            deliver(session, "one")
            wait_for(lambda: attack.held, LIMIT, "the stranger to hold a lock")
            deliver(session, "two")
            name = status(session)["relay"]
            assert name is not None
            assert str(relay.pid) in name
            relay.kill()
        # The queue behind the lock of the one that was killed gets it.
        with RelayProcess(database) as relay:
            wait_for(lambda: worker_of(session) == relay.pid, LIMIT, "the next relay")
            deliver(session, "three")
    assert inbox.texts() == ["one", "two", "three"]


def test_a_stranger_does_not_stop_a_batch(database: str, session: Session, inbox: Inbox) -> None:
    with stranger(session, database) as attack:
        for number in range(5):
            put(session, number)
            before = attack.held
            with session.transaction():
                assert session.execute("SELECT amqp.publish_outbox_batch()").fetchone() == (1,)
                wait_for(lambda: attack.held > before, LIMIT, "the stranger to wait")  # noqa: B023
    assert inbox.texts() == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("mode", ["", "_shared"])
def test_a_stranger_who_was_first_is_no_relay(session: Session, database: str, mode: str) -> None:
    put(session)
    assert session.execute("SELECT amqp_inner.outbox_lock_batch(1)").fetchone() == (True,)
    (key,) = session.execute("SELECT lock_key FROM amqp.outbox_lease").fetchone() or ()
    session.execute("CREATE ROLE stranger LOGIN")
    with (
        psycopg.connect(database, user="stranger", autocommit=True) as other,
        open_session(database) as relay,
        open_session(database) as second,
    ):
        other.execute(f"SELECT pg_advisory_lock{mode}({key})".encode())
        assert status(session)["relay"] is None
        assert relay.execute("SELECT amqp_inner.outbox_lock(1)").fetchone() == (True,)
        assert second.execute("SELECT amqp_inner.outbox_lock(1)").fetchone() == (False,)
        assert second.execute("SELECT amqp_inner.outbox_lock_batch(1)").fetchone() == (False,)
    session.execute("DROP ROLE stranger")


def test_a_prepared_transaction_of_a_stranger(session: Session, database: str) -> None:
    assert session.execute("SELECT amqp_inner.outbox_lock_batch(1)").fetchone() == (True,)
    (key,) = session.execute("SELECT lock_key FROM amqp.outbox_lease").fetchone() or ()
    session.execute("CREATE ROLE stranger LOGIN")
    with psycopg.connect(database, user="stranger", autocommit=True) as other:
        other.execute("BEGIN")
        other.execute(f"SELECT pg_advisory_xact_lock({key})".encode())
        other.execute("PREPARE TRANSACTION 'attack'")
    assert session.execute("SELECT amqp_inner.outbox_lock(1)").fetchone() == (True,)
    session.execute("ROLLBACK PREPARED 'attack'")
    session.execute("DROP ROLE stranger")


def test_a_member_of_a_role_that_may_work_it_is_respected(session: Session, database: str) -> None:
    session.execute(
        """CREATE ROLE works; GRANT USAGE ON SCHEMA amqp TO works;
           GRANT SELECT, DELETE ON amqp.outbox TO works;
           GRANT SELECT, INSERT, UPDATE ON amqp.outbox_lease TO works;
           CREATE ROLE relay LOGIN NOINHERIT IN ROLE works"""
    )
    with psycopg.connect(database, user="relay", autocommit=True) as relay:
        relay.execute("SET ROLE works")
        assert relay.execute("SELECT amqp_inner.outbox_lock(1)").fetchone() == (True,)
        assert session.execute("SELECT amqp_inner.outbox_lock(1)").fetchone() == (False,)
        assert session.execute("SELECT amqp_inner.outbox_lock_batch(1)").fetchone() == (False,)
    session.execute("DROP OWNED BY works; DROP ROLE relay; DROP ROLE works")
