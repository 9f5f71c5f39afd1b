"""A process whose doors work until a signal says stop."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest
import structlog

from pg_amqp_daemon.runtime.health import Condition
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


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """What is done at signals is what was done before."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {one: signal.getsignal(one) for one in signals}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_doors_are_looked_after_until_a_signal_says_stop(ending: signal.Signals) -> None:
    process = Process()
    first, second = Recorder(ending), Recorder()
    process.run(first, second)
    assert process.stopping.is_set()
    assert first.asked == second.asked == ["start", "look", "look", "stop", "end"]


class Hangup(Recorder):
    """A door in whose first look the terminal hangs up; it ends some looks later."""

    def look(self) -> None:
        """Have it happen."""
        super().look()
        if self.asked.count("look") == 1:
            os.kill(os.getpid(), signal.SIGHUP)
        if self.asked.count("look") == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_hangup_ends_nothing_and_is_told() -> None:
    with structlog.testing.capture_logs() as said:
        Process().run(Hangup())
    assert [line["event"] for line in said] == [
        "nothing to reload: changed rows count within a second"
    ]


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_who_lives_may_not_be_ready(host: str, shown: str) -> None:
    process = Process()
    trouble = ["no database"]
    process.health.register("database", lambda: Condition("x", *trouble))
    with structlog.testing.capture_logs() as said:
        process.serve(host, 0)
    url = said[0]["url"].removesuffix("/metrics")
    assert url.startswith(f"http://{shown}:")

    def answer(path: str) -> int:
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(url + path) as found:
            return int(found.status)
        return 503

    assert [answer(path) for path in ("/live", "/ready", "/health")] == [200, 503, 503]
    trouble.clear()
    assert [answer(path) for path in ("/live", "/ready", "/health")] == [200, 200, 200]
