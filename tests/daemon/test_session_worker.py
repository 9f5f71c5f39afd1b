"""A worker and a watcher in one session after the other, over a database that is only imagined."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import psycopg
import pytest
import structlog

from pg_amqp_daemon.runtime.database import Database
from pg_amqp_daemon.runtime.metrics import Metrics
from pg_amqp_daemon.runtime.session_worker import SessionWorker
from pg_amqp_daemon.runtime.watcher import Watcher
from servers.processes import wait_for

_LIMIT = 20.0


class Imagined:
    """Remembers when there was a session."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.open = 0
        self.refuses: psycopg.Error | None = None

    @contextmanager
    def connected(self) -> Iterator[None]:
        """A session, unless nobody may connect."""
        self.begun.append(time.monotonic())
        if self.refuses is not None:
            raise self.refuses
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


class Doing(SessionWorker):
    """A worker that does in each session what it is told to."""

    def __init__(self, database: Imagined, do: Callable[[Doing], None]) -> None:
        self.log = structlog.testing.CapturingLogger()
        super().__init__(cast(Database, database), "test", "doing", self.log)
        self.failures: list[psycopg.Error | None] = []
        self.end = threading.Event()
        self._do = do
        self.start()

    def work_in_session(self) -> None:
        """Do it."""
        self._do(self)

    def on_session_end(self, failure: psycopg.Error | None) -> None:
        """Remember."""
        self.failures.append(failure)

    def on_end(self) -> None:
        """Remember."""
        self.end.set()

    def wait(self) -> None:
        """Wait until somebody says stop."""
        self._stopping.wait(_LIMIT)

    def be_well(self) -> None:
        """Do as it should."""
        self._well()

    @property
    def said(self) -> list[tuple[str, str, object]]:
        """What was logged: how, which event, and which error."""
        return [(one.method_name, one.args[0], one.kwargs.get("error")) for one in self.log.calls]


@contextmanager
def doing(database: Imagined, do: Callable[[Doing], None]) -> Iterator[Doing]:
    """A worker, ended at the end."""
    worker = Doing(database, do)
    yield worker
    worker.stop()
    worker.join(_LIMIT)
    assert worker.ended
    assert not worker.alive
    assert worker.end.is_set()
    assert database.open == 0


def test_it_works_in_a_session_until_it_is_told_to_stop() -> None:
    database = Imagined()
    with doing(database, Doing.wait) as worker:
        wait_for(lambda: database.open, _LIMIT, "a session")
        assert worker.alive
    assert len(database.begun) == 1
    assert worker.failures == [None]
    assert worker.session_trouble is None
    assert worker.said == []


def test_what_the_database_has_against_it_is_said_and_kept_until_all_is_well() -> None:
    database = Imagined()
    steps = iter(("fail", "well"))

    def do(worker: Doing) -> None:
        if next(steps) == "fail":
            raise psycopg.OperationalError("server gone\nDETAIL: far away")
        assert worker.session_trouble == "server gone"
        worker.be_well()
        worker.wait()

    with doing(database, do) as worker:
        wait_for(lambda: len(database.begun) == 2, _LIMIT, "another session")
        wait_for(lambda: worker.session_trouble is None, _LIMIT, "all to be well")
    assert [str(failure).split("\n")[0] for failure in worker.failures] == ["server gone", "None"]
    assert worker.said == [("warning", "database not usable", "server gone")]


def test_a_defect_of_ours_does_not_end_it() -> None:
    database = Imagined()

    def do(worker: Doing) -> None:
        if len(database.begun) == 1:
            raise KeyError("secret")
        worker.wait()

    with doing(database, do) as worker:
        wait_for(lambda: len(database.begun) == 2, _LIMIT, "another session")
        assert worker.session_trouble == "defect: KeyError"
    assert worker.failures[0] is None
    assert worker.said == [("exception", "test failed", "KeyError('secret')")]


def test_each_failure_makes_the_next_session_come_later_until_one_does_as_it_should() -> None:
    database = Imagined()

    def do(worker: Doing) -> None:
        if len(database.begun) == 5:
            worker.be_well()
        if len(database.begun) == 7:
            worker.wait()
        raise psycopg.OperationalError("no")

    with doing(database, do):
        wait_for(lambda: len(database.begun) == 7, _LIMIT, "seven sessions")
    pauses = [later - earlier for earlier, later in pairwise(database.begun)]
    # The jitter makes them half as long at most.
    for pause, most in zip(pauses, (0.1, 0.2, 0.4, 0.8, 0.1, 0.2), strict=True):
        assert most / 2 <= pause < most + 0.6


def test_a_pause_ends_when_it_is_told_to_stop() -> None:
    database = Imagined()
    database.refuses = psycopg.OperationalError("nobody may connect")
    with doing(database, Doing.wait) as worker:
        wait_for(lambda: len(worker.failures) == 4, _LIMIT, "a long pause")
        worker.abort()
        worker.join(0.3)
        assert worker.ended
    assert worker.session_trouble == "nobody may connect"


# ---- The watcher ----


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """What the watcher logs."""
    with structlog.testing.capture_logs() as entries:
        yield entries


def test_a_watcher_says_once_what_is_wrong_and_looks_again(log: list[Any]) -> None:
    database, metrics, stopping = Imagined(), Metrics(), threading.Event()
    looks: list[str] = []
    watcher = Watcher(
        cast(Database, database),
        lambda: looks.append("first"),
        lambda: looks.append("second"),
        stopping=stopping,
        metrics=metrics,
    )
    assert watcher.error == "not connected yet"
    database.refuses = psycopg.OperationalError("nobody may connect")
    watcher.start()
    try:
        wait_for(lambda: len(database.begun) == 2, _LIMIT, "two attempts")
        assert watcher.error == "nobody may connect"
        assert metrics.registry.get_sample_value("pg_amqp_database_up") == 0
        assert looks == []
        database.refuses = None
        wait_for(lambda: len(looks) >= 4, _LIMIT, "two looks")
        assert looks[:4] == ["first", "second"] * 2
        assert watcher.error is None
        assert metrics.registry.get_sample_value("pg_amqp_database_up") == 1
    finally:
        stopping.set()
    wait_for(lambda: database.open == 0, _LIMIT, "the end of its session")
    assert [(entry["event"], entry["error"]) for entry in log] == [
        ("database not usable", "nobody may connect")
    ]
