"""What a daemon says: a line of JSON for each event on standard error, or colours on a terminal."""

from __future__ import annotations

import sys
from contextlib import suppress

import structlog


class _Logger:
    """Prints to standard error; if nobody takes it, a full disk say, the program goes on."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            # In one piece: print() would write the newline apart, and another thread between them.
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()

    debug = info = warning = error = exception = critical = msg


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
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *([console] if terminal else [traceback, structlog.processors.JSONRenderer()]),
        ],
        logger_factory=_Logger,
        cache_logger_on_first_use=True,
    )
