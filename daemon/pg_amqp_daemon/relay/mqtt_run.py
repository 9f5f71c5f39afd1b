"""Retained messages that are published together: what may be written next, what became of each.

Pure: it knows neither connection nor clock. Of one topic, no two are under way at a time: the later
one must not be kept instead of an earlier one that is tried again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pg_amqp_daemon.relay.retained_message import RetainedMessage
from pg_amqp_py.wire.waves import Undelivered

_WINDOW = 50
"""Messages under way at a time."""


class MqttRun:
    """Messages that were handed over together, and what became of them."""

    def __init__(self, messages: Sequence[RetainedMessage]) -> None:
        self.delivered: list[int] = []
        self.undelivered: list[Undelivered] = []
        self.message_ids: dict[int, object] = {one.id: one.message_id for one in messages}
        self.under_way: dict[int, RetainedMessage] = {}
        """By the numbers that the connection gave them."""
        self._todo = list(reversed(messages))
        self._held: set[str] = set()
        """Topics of which a message was refused: those behind it wait."""

    def left(self, *, stopped: bool) -> bool:
        """Whether there is anything to do."""
        return bool(self.under_way) or (bool(self._todo) and not stopped)

    def next(self, suspects: Collection[tuple[int, str]]) -> RetainedMessage | None:
        """What may be written now; suspects, by id and message_id, go alone."""
        while self._todo and self._todo[-1].topic in self._held:
            self._todo.pop()
        if not self._todo or len(self.under_way) >= _WINDOW:
            return None
        message = self._todo[-1]
        if self.under_way and (message.id, message.message_id) in suspects:
            return None
        for other in self.under_way.values():
            if other.topic == message.topic or (other.id, other.message_id) in suspects:
                return None
        return message

    def wrote(self, number: int, message: RetainedMessage) -> None:
        """The first of those that are left was written."""
        self._todo.pop()
        self.under_way[number] = message

    def answered(self, number: int, refusal: str | None, busy: bool) -> None:
        """The broker has said what became of one."""
        message = self.under_way.pop(number, None)
        if message is None:
            return
        if refusal is None:
            self.delivered.append(message.id)
        else:
            self._fail(message, "busy" if busy else "refused", refusal)

    def refuse(self, message: RetainedMessage, verdict: str, text: str) -> None:
        """It was not taken, whether written or not."""
        if self._todo and self._todo[-1] is message:
            self._todo.pop()
        self.under_way = {at: one for at, one in self.under_way.items() if one is not message}
        self._fail(message, verdict, text)

    def give_up(self) -> None:
        """What is under way is not answered: it is put off."""
        for message in self.under_way.values():
            self._fail(message, "busy", "the broker has not answered it by MQTT")
        self.under_way = {}

    def _fail(self, message: RetainedMessage, verdict: str, text: str) -> None:
        self._held.add(message.topic)
        self.undelivered.append(Undelivered(message.id, verdict, text))
