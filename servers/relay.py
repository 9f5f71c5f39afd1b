"""pg-amqp, as the program that administrators run."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from servers.processes import Process, ServerError, create_folder, log_tail, wait_for

PROGRAM = Path(sys.executable).parent / "pg-amqp"
"""pg-amqp, beside the Python that runs the tests."""

_LIMIT = 30.0
"""Seconds that bound what would otherwise hang."""


class DaemonProcess:
    """A command of `pg-amqp` as a child process, on the database that `dsn` says.

    `arguments` are added to its command line and `env` to its environment; without `dsn`, it is
    the environment that names the database. As a context manager it is started, and then killed
    and removed.
    """

    command = "run"

    def __init__(
        self, dsn: str | None, *arguments: str, env: Mapping[str, str] | None = None
    ) -> None:
        self._command: list[str | Path] = [PROGRAM, self.command, *arguments]
        if dsn is not None:
            self._command += ["--dsn", dsn]
        self._env = env
        self._folder = create_folder()
        self._log = self._folder / f"{self.command}.log"
        self._process: Process | None = None

    def start(self) -> None:
        """Start it; what it logs is added to what it has logged before."""
        self._process = Process(self._command, self._log, env=self._env, as_ourselves=True)

    @property
    def process(self) -> Process:
        """The process. Raises ServerError when it was not started."""
        if self._process is None:
            raise ServerError(f"{self.command} was not started")
        return self._process

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.is_running()

    def wait(self, timeout: float = _LIMIT) -> int:
        """Wait until it ends and return its exit status."""
        wait_for(lambda: not self.is_running(), timeout, f"{self.command} to end:\n{self._tail()}")
        return self.process.wait(0)

    def terminate(self, timeout: float = _LIMIT) -> int:
        """Ask it to end with SIGTERM, wait until it does, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self.process.end()

    def pause(self) -> None:
        """Let it stand still, with its connections open; it does when this returns."""
        self.process.send_signal(signal.SIGSTOP)
        # The signal takes effect at some time after it is sent.
        status = Path(f"/proc/{self.pid}/stat")
        wait_for(
            lambda: status.read_text().rpartition(")")[2].split()[0] == "T",
            _LIMIT,
            f"{self.command} to stand still",
        )

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def log_text(self) -> str:
        """Return all that it has written so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def entries(self) -> list[dict[str, Any]]:
        """Return its log line by line; every line must be an object of JSON."""
        # The last one may be half written.
        lines = self.log_text().rpartition("\n")[0].splitlines()
        entries = [json.loads(line) for line in lines]
        assert all(isinstance(entry, dict) for entry in entries), lines
        return entries

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return the log entries of this event."""
        return [entry for entry in self.entries() if entry["event"] == event]

    def wait_for_event(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until it has logged this event so many times; return the last of these entries."""
        try:
            found = wait_for(
                lambda: self.events(event)[count - 1 : count], _LIMIT, f'the event "{event}"'
            )
        except TimeoutError as error:
            raise ServerError(f"{error} of {self.command}:\n{self._tail()}") from None
        return found[0]

    def _tail(self) -> str:
        return log_tail(self._log)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self._process is not None:
            # pytest shows it beside the failure.
            print(f"the log of {self.command}:\n{self._tail()}")
        if self._process is not None:
            self._process.end()
        shutil.rmtree(self._folder, ignore_errors=True)


class RelayProcess(DaemonProcess):
    """`pg-amqp relay`."""

    command = "relay"


class ConsumeProcess(DaemonProcess):
    """`pg-amqp consume`."""

    command = "consume"


class ListenProcess(DaemonProcess):
    """`pg-amqp listen`."""

    command = "listen"
