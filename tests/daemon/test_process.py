"""A process whose doors work until a signal says stop."""

from __future__ import annotations

import os
import signal

import pytest

from pg_amqp_daemon.runtime.process import Process


class Recorder:
    """A door that takes down what is asked of it, and has a signal sent at the second look."""

    def __init__(self, ending: signal.Signals | None = None) -> None:
        self.asked: list[str] = []
        self._ending = ending

    def start(self) -> None:
        """Take it down."""
        self.asked.append("start")

    def look(self) -> None:
        """Take it down."""
        self.asked.append("look")
        if self._ending is not None and self.asked.count("look") == 2:
            os.kill(os.getpid(), self._ending)

    def stop(self) -> None:
        """Take it down."""
        self.asked.append("stop")

    def end(self) -> None:
        """Take it down."""
        self.asked.append("end")


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_doors_are_looked_after_until_a_signal_says_stop(ending: signal.Signals) -> None:
    process = Process()
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    first, second = Recorder(ending), Recorder()
    try:
        process.run(first, second)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert process.stopping.is_set()
    assert first.asked == second.asked == ["start", "look", "look", "stop", "end"]
