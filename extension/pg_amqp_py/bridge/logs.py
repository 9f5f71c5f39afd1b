"""What a daemon says: a line of JSON for each event on standard error, or colours on a terminal."""

from __future__ import annotations

import sys
from contextlib import suppress

import structlog


class _Logger:
    """Prints to standard error; if nobody takes it, a full disk say, the relay goes on."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            print(message, file=sys.stderr, flush=True)

    debug = info = warning = error = exception = critical = msg


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
