"""Which of the messages just written are confirmed: no socket.

The broker answers a delivery tag with Basic.Ack or Basic.Nack, in any order, alone or `multiple`
(all tags up to it). Nearly all come in order, so a watermark says most of it, and two
small sets say the rest.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pg_amqp_py.wire.connection import Returned
    from pg_amqp_py.wire.frames import Ack


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
        self.take_return: Callable[[Returned], bool] | None = None
        """Once others are written behind them: whether a message handed back is one of these."""
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
