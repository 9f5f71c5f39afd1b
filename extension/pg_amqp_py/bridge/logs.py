"""What a daemon says: a line of JSON for each event on standard error, or colours on a terminal."""

from __future__ import annotations

import sys

import structlog


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
