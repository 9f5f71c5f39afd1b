"""A message on its way to the broker, and what became of it: settled exactly once."""

from __future__ import annotations

from collections.abc import Callable

from pg_amqp_daemon.gateway.message import Message
from pg_amqp_daemon.gateway.problem import Problem, retry_after

_RETRY = 1.0


class Posted:
    """A message that somebody waits for; `told` is called once, when `settled`."""

    __slots__ = ("answer", "deadline", "end", "message", "passed", "returned", "settled", "told")

    def __init__(self, message: Message, deadline: float, told: Callable[[Posted], object]) -> None:
        self.message = message
        self.deadline = deadline
        """When nobody waits for it any more, by the loop's clock."""
        self.told = told
        self.answer: Problem | None = None
        """Why it was not published; None if the broker has confirmed it."""
        self.settled = False
        self.end = 0
        """Where in what is written to its connection it ends."""
        self.returned: str | None = None
        """The broker's words, if it has handed it back."""
        self.passed: Callable[[Posted], object] | None = None
        """Called when the broker is known to have nothing against it, before any queue has it."""

    def settle(self, answer: Problem | None) -> None:
        """Tell what became of it; what is told later does not count."""
        if not self.settled:
            self.settled = True
            self.answer = answer
            self.told(self)

    def confirm(self) -> None:
        """The broker has confirmed it, though perhaps no queue has it."""
        if self.returned is None:
            self.settle(None)
        else:
            self.settle(Problem(422, self.returned))


def unpublished(why: str, wait: float = _RETRY) -> Problem:
    """It was surely not published, and may be later."""
    return Problem(503, f"not published: {why}", headers=retry_after(wait))


def uncertain(why: str) -> Problem:
    """It was written, and nobody knows what became of it."""
    return Problem(504, f"may have been published: {why}")
