"""The processes of a gateway: as many as were asked for, whatever becomes of any of them."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import structlog

ENDING = (signal.SIGTERM, signal.SIGINT)
"""Signals; in a new process they are blocked until its work unblocks them."""
_LOOK = 0.2
_PAUSE = 1.0
"""Seconds between two beginnings in one place, at least."""
_GRACE = 20.0
"""Seconds for the answers that are under way, at the end."""

Work = Callable[[int, int], None]


class Processes:
    """Runs `work`, told the place of the process and what is readable when it has no parent."""

    def __init__(self, count: int, work: Work, ended: Callable[[int], object]) -> None:
        self._work = work
        self._ended = ended
        """Called with the id of a process that is no more."""
        self._pids: dict[int, int] = {}
        """By place."""
        self._began = [0.0] * count
        self._signals = 0
        self._log = structlog.get_logger()
        # Nobody writes: whoever reads sees its end when this process is gone.
        self._alive, self._life = os.pipe()
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        os.set_blocking(self._woken, False)

    def run(self, stop_listening: Callable[[], object]) -> None:
        """Work until SIGTERM or SIGINT, then answer what is under way; a second signal ends it."""
        for number in ENDING:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        while not self._signals:
            self._begin_missing()
            self._wait()
            self._reap()
        self._log.info("gateway stops")
        stop_listening()
        self._tell(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE
        while self._pids and self._signals < 2 and time.monotonic() < deadline:
            self._wait()
            self._reap()
        self._tell(signal.SIGKILL)
        while self._pids:
            self._wait()
            self._reap()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    def _begin_missing(self) -> None:
        now = time.monotonic()
        for place, began in enumerate(self._began):
            if place not in self._pids and now - began >= _PAUSE:
                self._began[place] = now
                self._begin(place)

    def _begin(self, place: int) -> None:
        # One that comes before the new process listens for it must wait until it does.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        pid = os.fork()
        if pid:
            self._pids[place] = pid
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (*ENDING, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            for descriptor in (self._life, self._woken, self._waker):
                os.close(descriptor)
            self._work(place, self._alive)
            status = 0
        finally:
            # Whatever threads wait for.
            os._exit(status)

    def _wait(self) -> None:
        select.select([self._woken], [], [], _LOOK)
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _reap(self) -> None:
        for place, pid in list(self._pids.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            del self._pids[place]
            self._ended(pid)
            if not self._signals:
                code = os.waitstatus_to_exitcode(status)
                self._log.error("process ended", pid=pid, status=code)

    def _tell(self, number: signal.Signals) -> None:
        for pid in self._pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
