"""The lookout wakes whoever has something to do, and nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from pg_amqp_daemon.relay import lookout as lookout_module
from pg_amqp_daemon.relay.lookout import Lookout
from servers.processes import wait_for
from support.outbox import LIMIT, put
from support.sessions import Session, open_session, wait_for_event

READY = "SELECT amqp.publish_outbox({}, 'e', 'k', 'm')"
DUE = "SELECT amqp.publish_outbox({}, 'e', 'k', 'm', deliver_at => now() + interval '0.3 s')"
RETAINED = "SELECT amqp.publish_outbox_mqtt({}, 't', 'm', retain => true)"
LATER = "SELECT amqp.publish_outbox({}, 'e', 'k', 'm', deliver_at => now() + interval '1 day')"


@pytest.fixture
def lookout(database: str) -> Iterator[Lookout]:
    """One that looks."""
    lookout = Lookout(database)
    lookout.start()
    yield lookout
    lookout.stop()
    lookout.join(LIMIT)


def watch(lookout: Lookout, broker_id: int) -> threading.Event:
    """Wait until it watches a broker; the event says that it has seen something."""
    woken = threading.Event()
    wait_for(lambda: lookout.watches(broker_id, 0, woken.set), LIMIT, "the lookout")
    return woken


@pytest.mark.parametrize("statement", [READY, DUE, RETAINED])
def test_what_comes_wakes_its_broker_alone(
    session: Session, lookout: Lookout, statement: str
) -> None:
    first, second = watch(lookout, 1), watch(lookout, 2)
    session.run(statement.format(2))
    assert second.wait(LIMIT)
    assert not first.is_set()


def test_what_is_not_due_wakes_nobody(session: Session, lookout: Lookout) -> None:
    first, second = watch(lookout, 1), watch(lookout, 2)
    session.run(LATER.format(1))
    session.run(READY.format(2))
    assert second.wait(LIMIT)
    assert not first.is_set()


def test_a_transaction_that_commits_late_wakes_its_broker(
    database: str, session: Session, lookout: Lookout
) -> None:
    with open_session(database) as late:
        late.run("BEGIN")
        put(late)
        first, second = watch(lookout, 1), watch(lookout, 2)
        put(session, broker_id=2)
        assert second.wait(LIMIT)
        assert not first.is_set()
        late.run("COMMIT")
    assert first.wait(LIMIT)


def test_whom_it_has_woken_it_does_not_watch_for_a_while(
    session: Session, lookout: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is there may have to wait for something else, and would wake him without end.
    monkeypatch.setattr(lookout_module, "_AWAKE", 1000.0)
    woken = watch(lookout, 1)
    put(session)
    assert woken.wait(LIMIT)
    watch(lookout, 2)
    assert not lookout.watches(1, 0, woken.set)


def test_without_a_session_it_watches_nobody(session: Session, lookout: Lookout) -> None:
    woken = watch(lookout, 1)
    session.run(
        "ALTER FUNCTION amqp_inner.outbox_await RENAME TO away;"
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE '%(lookout)'"
    )
    assert woken.wait(LIMIT)
    wait_for(lambda: lookout.session_trouble, LIMIT, "another session to fail")
    assert not lookout.watches(1, 0, woken.set)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    """Have it done in a thread that nobody waits for."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_whoever_wants_the_table_need_not_wait_for_the_end_of_a_round(
    database: str, session: Session
) -> None:
    found: list[list[int]] = []
    with open_session(database) as waiting:
        thread = in_thread(
            lambda: found.append(
                waiting.value("SELECT amqp_inner.outbox_await('{1,2}', '{0,0}', 1000)")
            )
        )
        wait_for_event(session, waiting.pid, "PgSleep")
        # If it held a lock, this would never get its own.
        session.run("SET lock_timeout = '60s'; BEGIN; LOCK TABLE amqp.outbox")
        assert thread.is_alive()
        put(session, broker_id=2)
        session.run("COMMIT")
        thread.join(LIMIT)
    assert found == [[2]]
