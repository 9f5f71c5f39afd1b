"""What a daemon says: a line of JSON for each event on standard error, or colours on a terminal."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import structlog

_PATIENCE = 100
"""Milliseconds that the rest of a long line is waited for, at most."""


class _StandardError:
    """What nobody takes, because a disk or a pipe is full, is left out: the program goes on."""

    def __init__(self) -> None:
        self.aside: Callable[[], AbstractContextManager[object]] = nullcontext
        """Clears away what is drawn on the terminal, and draws it again afterwards."""
        self.left_out_line: Callable[[int], str] = "{} lines left out\n".format
        """Says, as the log says anything, how many lines nobody took."""
        self._guard = threading.Lock()
        self._left_out = 0

    def write(self, line: str) -> None:
        """Write the line in one piece, or leave it out."""
        with self._guard, suppress(OSError, ValueError):
            if self._left_out:
                line = self.left_out_line(self._left_out) + line
            with self.aside():
                if self._put(line.encode("utf-8", "backslashreplace")):
                    self._left_out = 0
                else:
                    self._left_out += 1

    def _put(self, data: bytes) -> bool:
        """Whether somebody took the beginning of it."""
        fd = sys.stderr.fileno()
        takes = select.poll()
        takes.register(fd, select.POLLOUT)
        # Where so much is ready to be taken, writing it does not wait (PIPE_BUF in pipe(7)).
        for begin in range(0, len(data), select.PIPE_BUF):
            if not takes.poll(_PATIENCE if begin else 0):
                return begin > 0
            os.write(fd, data[begin : begin + select.PIPE_BUF])
        return True


standard_error = _StandardError()
"""Of the process."""


class _Logger:
    """Prints to standard error."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def msg(self, message: str) -> None:
        standard_error.write(f"{message}\n")

    debug = info = warning = error = exception = critical = msg


def _left_out_line(processors: list[structlog.typing.Processor], lines: int) -> str:
    """An event as every other, of what could not be logged."""
    event: Any = {"event": "lines left out, because nobody took them", "lines": lines}
    for process in processors:
        event = process(None, "warning", event)
    return f"{event}\n"


def name_of(error: Exception) -> str:
    """A defect in one line; of a text that could not be encoded only why: it may be a password."""
    if isinstance(error, UnicodeError):
        return f"{type(error).__name__}: {getattr(error, 'reason', 'no text')}"
    return repr(error)


def configure() -> None:
    """Set up the log of this process."""
    terminal = sys.stderr.isatty()
    # Without the variables of its frames, which may hold passwords.
    traceback = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        *([console] if terminal else [traceback, structlog.processors.JSONRenderer()]),
    ]
    standard_error.left_out_line = partial(_left_out_line, processors)
    structlog.configure(
        processors=processors,
        logger_factory=_Logger,
        cache_logger_on_first_use=True,
    )
