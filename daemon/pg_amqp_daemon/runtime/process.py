"""A process of pg-amqp: its doors work side by side until a signal says stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Protocol

import structlog

from pg_amqp_daemon.runtime.health import Health
from pg_amqp_daemon.runtime.metrics import Metrics, serve

_LOOK = 0.5
"""Seconds between looks at what workers wait for."""


class Door(Protocol):
    """Carries messages one way."""

    def start(self) -> None:
        """Begin to work."""

    def look(self) -> None:
        """Give up whatever does not answer. Called twice a second."""

    def stop(self) -> None:
        """Have all finish what is under way."""

    def end(self) -> None:
        """Wait until all have, in bounded time."""


class Process:
    """What the doors of a process share."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.health = Health()
        self.stopping = threading.Event()
        """Whether a signal has said stop."""
        self.served = False
        """Whether somebody can ask for metrics."""
        self._hangups = threading.Event()
        self._log = structlog.get_logger()

    def serve(self, host: str, port: int) -> None:
        """Answer /metrics, /live, /ready and /health. Raises OSError."""
        port = serve(host, port, self.metrics, self.health)
        self.served = True
        shown = f"[{host}]" if ":" in host else host
        self._log.info("metrics", url=f"http://{shown}:{port}/metrics")

    def heed_signals(self) -> None:
        """Let SIGTERM and SIGINT say stop, and SIGHUP nothing."""
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        self.stopping.set()

    def _on_hangup(self, _signum: int, _frame: FrameType | None) -> None:
        # Not here: the thread that is interrupted may be writing to the log.
        self._hangups.set()

    def run(self, *doors: Door) -> None:
        """Work until SIGTERM or SIGINT."""
        self.heed_signals()
        for door in doors:
            door.start()
        while not self.stopping.wait(_LOOK):
            for door in doors:
                door.look()
            if self._hangups.is_set():
                self._hangups.clear()
                self._log.info("nothing to reload: changed rows count within a second")
            # The log tells of a trouble, and /health remembers it, whether or not anybody asks.
            self.health.answer()
        for door in doors:
            door.stop()
        for door in doors:
            door.end()
