"""Whether all is well with a process: asks whatever says that it can be asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple


class Condition(NamedTuple):
    """How one part of a process is."""

    shown: object
    """What /health shows of it, as JSON."""
    trouble: str | None = None
    """What is wrong with it; None if it is well."""


class Health:
    """The parts of a process, and the last trouble that any of them has had."""

    def __init__(self) -> None:
        self._questions: dict[str, list[Callable[[], Condition]]] = {}
        self._last_error: str | None = None
        self._asking = threading.Lock()

    def register(self, part: str, question: Callable[[], Condition]) -> None:
        """Ask this of a part from now on. Of several troubles, the first part's is told.

        Several doors may know something of one part: what is in trouble is told.
        """
        self._questions.setdefault(part, []).append(question)

    def answer(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and what is not."""
        with self._asking:
            found = {part: _worst(questions) for part, questions in self._questions.items()}
            troubles = [condition.trouble for condition in found.values() if condition.trouble]
            self._last_error = next(iter(troubles), self._last_error)
            answer: dict[str, Any] = {"healthy": not troubles}
            answer.update((part, condition.shown) for part, condition in found.items())
            if self._last_error is not None:
                answer["last_error"] = self._last_error
            return not troubles, answer


def _worst(questions: list[Callable[[], Condition]]) -> Condition:
    conditions = [question() for question in questions]
    return next((one for one in conditions if one.trouble), conditions[0])
