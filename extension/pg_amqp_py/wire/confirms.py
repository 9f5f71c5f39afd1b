"""What the broker answers to messages: which are confirmed, and which come back. No socket.

The broker answers a delivery tag with Basic.Ack or Basic.Nack, in any order, alone or `multiple`
(all tags up to it). Nearly all come in order, so a watermark says most of it, and two
small sets say the rest. A tag counts from the opening of the channel.
"""

from __future__ import annotations

from pg_amqp_py.wire.frames import Ack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pg_amqp_py.wire.methods import Method


class Opening:
    """One opening of a channel. When it ends, no answers to what was written in it can come."""

    __slots__ = ("channel", "lives")

    def __init__(self, channel: object) -> None:
        self.channel = channel
        """Whose: known by its identity alone."""
        self.lives = True


class Returned:
    """A mandatory message that no queue took (Basic.Return)."""

    __slots__ = ("exchange", "message_id", "routing_key", "text")

    def __init__(self, exchange: str, routing_key: str, text: str, message_id: str | None) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.text = text
        """The broker's words."""
        self.message_id = message_id


def read_return(method: Method, message_id: str | None) -> Returned:
    """What Basic.Return and the message-id of the content behind it say."""
    code, text = method.reply()
    exchange, at = method.text(3 + method.arguments[2])
    routing_key, _ = method.text(at)
    return Returned(exchange, routing_key, f"{text} ({code})", message_id)


class Confirms:
    """The confirms of `count` messages with the tags first, first + 1, ..."""

    def __init__(self, first: int, count: int) -> None:
        self._next = first
        """All tags below it are answered."""
        self._end = first + count
        self._first = first
        self._early: set[int] = set()
        """Answered tags above the watermark."""
        self._refused: set[int] = set()
        self._last = first - 1
        self.routed = False
        """Whether the broker is known to have taken all of them: it has answered something later,
        and a channel works in order. What is missing is a queue's word."""

    @property
    def first_open(self) -> int:
        """The first tag that is not answered yet."""
        return self._next

    @property
    def answered(self) -> int:
        """How many messages there are up to the last one that is answered."""
        return self._last + 1 - self._first

    @property
    def count(self) -> int:
        """How many messages there are."""
        return self._end - self._first

    def cut(self, count: int) -> None:
        """Expect only the first `count`: the others were not written after all."""
        self._end = self._first + count

    @property
    def outstanding(self) -> int:
        """How many messages are not answered yet."""
        return self._end - self._next - len(self._early)

    @property
    def confirmed(self) -> int:
        """How many messages the broker has accepted."""
        return self._end - self._first - self.outstanding - len(self._refused)

    def confirm(self, behind: int) -> None:
        """Take it that the broker has accepted all tags below this one."""
        self.answer(Ack(True, behind - 1, True))

    def answer(self, ack: Ack) -> None:
        """Take one answer of the broker; answers to older and newer messages are none of ours."""
        tag = ack.tag
        if ack.multiple and (tag >= self._end or not tag):
            tag = self._end - 1
        if not self._next <= tag < self._end:
            return
        if tag > self._last:
            self._last = tag
        if not ack.positive:
            tags = range(self._next, tag + 1) if ack.multiple else (tag,)
            self._refused.update(t for t in tags if t not in self._early)
        if ack.multiple:
            if self._early:
                self._early.difference_update(range(self._next, tag + 1))
            self._next = tag + 1
        elif tag == self._next:
            self._next += 1
        else:
            self._early.add(tag)
        while self._next in self._early:
            self._early.remove(self._next)
            self._next += 1

    def refused(self) -> list[int]:
        """Positions (0 for the first message) that the broker refused with Basic.Nack."""
        return sorted(tag - self._first for tag in self._refused)

    def unanswered(self) -> Iterator[int]:
        """Positions (0 for the first message) that have no answer yet, in order."""
        for tag in range(self._next, self._end):
            if tag not in self._early:
                yield tag - self._first


class LateConfirms:
    """Confirms of batches that wait no longer, for as long as these may come."""

    def __init__(self) -> None:
        self._expected: dict[Confirms, Callable[[Returned], bool]] = {}

    def __bool__(self) -> bool:
        return bool(self._expected)

    @property
    def outstanding(self) -> int:
        """How many messages are not answered yet."""
        return sum(confirms.outstanding for confirms in self._expected)

    def add(self, confirms: Confirms, take_return: Callable[[Returned], bool]) -> None:
        """Expect these as well; `take_return` says whether a returned message is one of theirs."""
        self._expected[confirms] = take_return

    def remove(self, confirms: Confirms) -> None:
        """Their batch waits for them again, or they can come no more."""
        self._expected.pop(confirms, None)

    def clear(self) -> None:
        """None of them can come any more."""
        self._expected.clear()

    def answer(self, ack: Ack) -> None:
        """Take one answer of the broker."""
        for confirms in list(self._expected):
            confirms.answer(ack)
            if not confirms.outstanding:
                self.remove(confirms)

    def take_return(self, returned: Returned) -> bool:
        """Whether a message that comes back belongs to any of these batches, which keeps it then.

        It comes before its confirm, and before the answer to anything later.
        """
        return any(
            take_return(returned)
            for confirms, take_return in self._expected.items()
            if not confirms.routed
        )

    def mark_routed(self) -> None:
        """The broker has answered something that was said later."""
        for confirms in self._expected:
            confirms.routed = True
