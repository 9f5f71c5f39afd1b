"""The settings of pg_amqp_py: read when they are used, with defaults, checked.

Until the first use in a session they are placeholders in PostgreSQL (documentation, section
"Customized Options"), so anybody may set any text; a text that makes no sense is an error where
they are first used.
"""

from __future__ import annotations

from _operator import attrgetter

from pg_amqp_py.backend import server
from pg_amqp_py.backend.errors import INVALID_PARAMETER, AMQPError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pg_amqp_py.backend.errors import Stage

_UNITS = {"us": 1e-6, "ms": 1e-3, "": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 24 * 86400.0
_LONGEST_COMMIT = 60.0
"""Seconds: at its commit a backend holds locks, and others may wait for it."""


class Setting:
    """A setting: call `value()` for its value now."""

    def __init__(
        self,
        name: str,
        default: tuple[str, Any],
        parse: Callable[[str], Any],
        *,
        description: str,
        hint: str,
    ) -> None:
        self.name = name
        text, self._default = default
        self._parse = parse
        self._hint = hint
        self._known: bytes | None = text.encode()
        """The text found last that makes sense."""
        self._value = self._default
        """What it means."""
        self.option = server.define_option(name, text, description)

    def value(self) -> Any:
        """The value in force. Raises AMQPError (22023) for a text that makes no sense."""
        raw = self.option.value
        if raw == self._known:
            return self._value
        text = (raw or b"").decode(errors="replace")
        parsed = self._parse(text) if text else self._default
        if parsed is None:
            raise AMQPError(
                f'invalid value for parameter "{self.name}": "{text}"',
                sqlstate=INVALID_PARAMETER,
                hint=self._hint,
            )
        self._known, self._value = raw, parsed
        return parsed

    def value_or_default(self, stage: Stage) -> Any:
        """The value in force, or the default where an error must not be raised: at commit."""
        try:
            return self.value()
        except AMQPError as error:
            stage.warn_of(error)
            return self._default


def _boolean(text: str) -> bool | None:
    # The spellings of PostgreSQL's parse_bool().
    word = text.strip().lower()
    if word in ("on", "1") or (word and ("true".startswith(word) or "yes".startswith(word))):
        return True
    if word in ("of", "off", "0") or (word and ("false".startswith(word) or "no".startswith(word))):
        return False
    return None


def _seconds(text: str) -> float | None:
    # Here, because most sessions never set a time.
    import re

    found = re.fullmatch(r"\s*([0-9]+(?:[.][0-9]+)?)\s*(us|ms|s|min|h|d|)\s*", text)
    if found is None:
        return None
    seconds = float(found[1]) * _UNITS[found[2]]
    return seconds if 0 < seconds <= _LONGEST else None


def _commit_seconds(text: str) -> float | None:
    seconds = _seconds(text)
    return None if seconds is None else min(seconds, _LONGEST_COMMIT)


def _word(*words: str) -> Callable[[str], str | None]:
    return lambda text: text.lower() if text.lower() in words else None


_TIME_HINT = 'A time above 0, with a unit: "us", "ms" (the default), "s", "min", "h" or "d".'

on_failure = Setting(
    "amqp.on_failure",
    ("error", "error"),
    _word("error", "warn", "outbox"),
    description="What a function of pg_amqp_py does when it fails.",
    hint='Available values: "error", "warn", "outbox".',
)
publisher_confirms = Setting(
    "amqp.publisher_confirms",
    ("on", True),
    _boolean,
    description="Whether COMMIT waits until the broker has confirmed every message.",
    hint='A Boolean value: "on" or "off".',
)
confirm_timeout = Setting(
    "amqp.confirm_timeout",
    ("5s", 5.0),
    _commit_seconds,
    description="How long after the commit, without any progress, to go on trying; at most 1min.",
    hint=_TIME_HINT,
)
connect_timeout = Setting(
    "amqp.connect_timeout",
    ("5s", 5.0),
    _seconds,
    description="How long to wait for each host of a broker, and for the answer to a request.",
    hint=_TIME_HINT,
)
synchronous_commit = Setting(
    "amqp.synchronous_commit",
    ("on", True),
    _boolean,
    description="Whether COMMIT waits for the disk where it publishes, in spite of"
    " synchronous_commit = off.",
    hint='A Boolean value: "on" or "off".',
)
capture = Setting(
    "amqp.capture",
    ("off", False),
    _boolean,
    description="Whether messages are only shown by amqp.pending(), and never sent.",
    hint='A Boolean value: "on" or "off".',
)
_all = (
    on_failure,
    publisher_confirms,
    confirm_timeout,
    connect_timeout,
    synchronous_commit,
    capture,
)
_options = [setting.option for setting in _all]
_text = attrgetter("value")
_sound: list[bytes | None] = []
"""Texts of all of them that were found to make sense."""


def check() -> None:
    """Raise AMQPError for any setting that makes no sense, while an ERROR is still useful."""
    texts = [*map(_text, _options)]
    if texts != _sound:
        for setting in _all:
            setting.value()
        _sound[:] = texts
