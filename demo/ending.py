"""How a demo ends when it is told to: by way of every `with`, so that nothing is left up."""

from __future__ import annotations

import signal
import sys
from types import FrameType

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def leave_on_signals() -> None:
    """Have Ctrl-C and its like end the program, with the status that a shell expects."""
    for ending in _ENDINGS:
        signal.signal(ending, _leave)


def hold_signals() -> None:
    """Let an impatient second Ctrl-C not interrupt the clearing up."""
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)


def _leave(signum: int, frame: FrameType | None) -> None:
    hold_signals()
    sys.exit(128 + signum)
