"""Workers that begin anew when they die, and end in bounded time."""

from __future__ import annotations

import threading
import time

from pg_amqp_daemon.runtime.supervisor import Supervisor


class Sleeper:
    """A worker that does nothing until it is told to end; a stubborn one only when aborted."""

    def __init__(self, key: str) -> None:
        self.unblocked = 0
        self.aborted = False
        self._stubborn = key.startswith("stubborn")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._ending.wait, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread works."""
        return self._thread.is_alive()

    @property
    def ended(self) -> bool:
        """Whether its thread has ended."""
        return not self.alive

    def unblock(self) -> None:
        """Count."""
        self.unblocked += 1

    def stop(self) -> None:
        """End, unless stubborn."""
        if not self._stubborn:
            self._ending.set()

    def abort(self) -> None:
        """End."""
        self.aborted = True
        self._ending.set()

    def join(self, timeout: float) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout)


def test_there_is_a_worker_for_whatever_is_wanted_and_for_nothing_else() -> None:
    supervisor = Supervisor(Sleeper)
    supervisor.keep({"a", "b"})
    first = dict(supervisor.workers)
    assert first.keys() == {"a", "b"}
    supervisor.keep({"b", "c"})
    assert supervisor.workers.keys() == {"b", "c"}
    assert supervisor.workers["b"] is first["b"]
    first["a"].join(10)
    assert first["a"].ended
    supervisor.end()


def test_a_worker_whose_thread_has_died_begins_anew() -> None:
    supervisor = Supervisor(Sleeper)
    supervisor.keep({"a"})
    dead = supervisor.workers["a"]
    dead.stop()
    dead.join(10)
    supervisor.keep({"a"})
    assert supervisor.workers["a"] is not dead
    assert supervisor.workers["a"].alive
    supervisor.end()


def test_who_does_not_stop_is_aborted_when_the_grace_is_over() -> None:
    supervisor = Supervisor(Sleeper)
    supervisor.keep({"a", "stubborn 1", "stubborn 2"})
    started = time.monotonic()
    supervisor.end()
    # The grace is for all of them together.
    assert 3.4 < time.monotonic() - started < 6
    assert all(worker.ended for worker in supervisor.workers.values())
    assert [key for key, worker in supervisor.workers.items() if worker.aborted] == [
        key for key in supervisor.workers if key != "a"
    ]


def test_databases_that_do_not_answer_are_given_up() -> None:
    supervisor = Supervisor(Sleeper)
    supervisor.keep({"a", "b"})
    supervisor.unblock()
    supervisor.unblock()
    assert [worker.unblocked for worker in supervisor.workers.values()] == [2, 2]
    supervisor.end()
