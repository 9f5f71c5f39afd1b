"""The account of a batch: one stream of encoded messages, each settled exactly once. No waiting.

A batch outlives connections: whatever is still pending after one broke or after the broker
refused something is written again, and nothing else is. States of a message:

    pending -> confirmed    the broker answered Basic.Ack
            -> refused      Basic.Nack, or the broker closed the channel because of it
            -> accepted     the broker closed the channel because of a LATER message: a channel
                            works in order, so this one was routed before; its confirm was cut
                            off, and writing it again would deliver it twice

The broker does not say which message it closed the channel for, but its text names the
cause (an exchange, a size, a user id), and the first pending message of that cause is the one. All
others of the same cause share its fate. Where the text is not understood, the batch goes on in
steps of one message until the culprit is plain; then messages before it may arrive twice.

What is pending is written in attempts (wire.pump). One may be left: all is written, and confirms
are missing that may still come.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import chain, islice

from pg_amqp_py.wire.confirms import Confirms
from pg_amqp_py.wire.encode import decode_messages, place_of
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, MessageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pg_amqp_py.wire.cause import Cause
    from pg_amqp_py.wire.confirms import Opening, Returned
    from pg_amqp_py.wire.encode import Encoder
    from pg_amqp_py.wire.message import Message
    from pg_amqp_py.wire.transport import Bytes

_PENDING, _CONFIRMED, _REFUSED, _ACCEPTED = b"p", b"c", b"r", b"a"
_TAKEN = _CONFIRMED + _ACCEPTED
_NACK = "the broker refused it (basic.nack)"


class Batch:
    """Messages on their way to one broker.

    `stream` is the frames of all messages, none larger than `frame_max`; `starts` is the offset of
    each message in it. With `rewrite`, only what is confirmed counts: what was accepted before a
    refused message is written again, since a queue may yet have rejected it, and may arrive twice.
    """

    def __init__(
        self,
        stream: Bytes,
        starts: Sequence[int],
        frame_max: int,
        *,
        rewrite: bool = False,
    ) -> None:
        self.rewrite = rewrite
        self._stream = stream
        self._starts = starts
        self._frame_max = frame_max
        self._states = bytearray(_PENDING) * len(starts)
        self._stepping = False
        self._attempt: Attempt | None = None
        """What is being written, or was written and may still be answered."""
        self.returned: list[Returned] = []
        """Unroutable messages (mandatory) that the broker handed back; it confirms them, too."""
        self.refused: list[Cause] = []
        """Why messages were refused, one for each, as far as nobody has reported them."""
        self.causes: dict[int, Cause] = {}
        """Why, by the position of each."""

    # -- what has become of it -----------------------------------------------------------

    @property
    def pending(self) -> int:
        """Number of messages that are not settled yet."""
        return self._states.count(_PENDING)

    @property
    def confirmed(self) -> int:
        """Number of messages that the broker has confirmed."""
        return self._states.count(_CONFIRMED)

    def delivered(self) -> list[int]:
        """Positions of the messages that the broker has taken."""
        return [at for at, state in enumerate(self._states) if state in _TAKEN]

    @property
    def unanswered(self) -> int:
        """Number of messages that were written, or are to be, and may still be answered."""
        attempt = self._attempt
        return 0 if attempt is None or not attempt.lives else attempt.confirms.outstanding

    @property
    def awaited(self) -> bool:
        """Whether all that is pending is written whole and may still be answered."""
        attempt = self._attempt
        return attempt is not None and not attempt.unwritten.left and self.unanswered > 0

    def pending_places(self) -> list[tuple[str, str]]:
        """Exchange and routing key of each message that is not settled yet."""
        return [place_of(self._part(range(at, at + 1))) for at in self._pending_positions()]

    def collect(self) -> None:
        """Settle what has been answered by now, without waiting."""
        if self._attempt is not None:
            self._settle(self._attempt)

    def stop_writing(self) -> list[int]:
        """Write nothing more but the rest of what is half written.

        Returns the positions of what may still be answered on its connection.
        """
        attempt = self._attempt
        if attempt is None or not attempt.lives:
            return []
        attempt.cut()
        written = list(attempt.positions())
        return [written[position] for position in attempt.confirms.unanswered()]

    def forget_reported(self) -> None:
        """Somebody has reported what was refused and what came back."""
        self.returned.clear()
        self.refused.clear()

    # -- an attempt ----------------------------------------------------------------------

    def fit(self, encoder: Encoder) -> None:
        """Encode anew if the broker's largest frame is smaller than that used so far.

        What does not fit it cannot be had by this broker.
        """
        if encoder.frame_max >= self._frame_max:
            return
        stream, starts = bytearray(), list[int]()
        for at, message in enumerate(decode_messages(self._stream)):
            starts.append(len(stream))
            try:
                encoder.append(stream, tuple(message.envelope), message.body)
            except MessageError as error:
                if self._is_pending(at):
                    text = f"frames have at most {encoder.frame_max} bytes ({error.field}: {error})"
                    self._refuse([(at, message)], text)
        self._stream, self._starts, self._frame_max = stream, starts, encoder.frame_max

    def next(self) -> list[range]:
        """Which messages to write next, as ranges of neighbours; none if nothing is pending."""
        if self._stepping:
            first = self._states.find(_PENDING)
            return [] if first < 0 else [range(first, first + 1)]
        # Here, because a session's first publish() shall not wait for it: a small transaction
        # never comes here.
        import re

        return [range(*found.span()) for found in re.finditer(_PENDING + b"+", self._states)]

    def begin(self, opening: Opening, ranges: list[range], first_tag: int) -> Attempt:
        """Begin to write these messages, with delivery tags from this one on."""
        confirms = Confirms(first_tag, sum(map(len, ranges)))
        unwritten = Unwritten((self._starts[part[0]], self._part(part)) for part in ranges)
        self._attempt = Attempt(opening, ranges, self._starts, confirms, unwritten)
        return self._attempt

    def go_on(self, opening: Opening, first_tag: int, sent: int, unconfirmed: int) -> None:
        """Take over where `sent` bytes are written, and all below the tag `unconfirmed` confirmed.

        This is left as an attempt that may be gone on with.
        """
        ranges = [range(len(self._starts))]
        confirms = Confirms(first_tag, len(self._starts))
        if unconfirmed > first_tag:
            confirms.confirm(unconfirmed)
        rest = memoryview(self._stream)[sent:]
        unwritten = Unwritten([(sent, rest)] if rest else [])
        self._attempt = Attempt(opening, ranges, self._starts, confirms, unwritten)

    def left(self) -> Attempt | None:
        """The attempt that was left to be answered, if there is one."""
        return self._attempt

    def end(self, *, settle: bool) -> None:
        """The attempt is over: no answers will be taken into account any more."""
        if self._attempt is not None:
            if settle:
                self.collect()
            self._attempt = None

    def accept(self) -> None:
        """The broker has taken all of the attempt that is pending."""
        assert self._attempt is not None
        for at in self._attempt.positions():
            if self._is_pending(at):
                self._mark(at, _ACCEPTED)

    def _settle(self, attempt: Attempt) -> None:
        confirms, ranges = attempt.confirms, attempt.ranges
        refused = set(confirms.refused())
        if not confirms.outstanding and not refused and len(ranges) == 1:
            part = ranges[0][: confirms.count]
            self._states[part.start : part.stop] = _CONFIRMED * len(part)
            return
        unanswered = set(confirms.unanswered())
        for position, at in enumerate(attempt.positions()):
            if position in refused:
                if self._is_pending(at):
                    self._refuse([(at, self._message(at))], _NACK, nacked=True)
            elif position not in unanswered:
                self._mark(at, _CONFIRMED)

    # -- whose fault it was --------------------------------------------------------------

    def blame(self, refusal: ChannelClosedError, attempt: Attempt) -> None:
        """Settle the messages that a closed channel was closed for."""
        # Here, because hardly ever is anything refused.
        from pg_amqp_py.wire.cause import blamed_by

        text = refusal.reply
        if self._stepping:
            self._refuse_first(attempt, text)
            self._stepping = False
            return
        matches, topic = blamed_by(str(refusal))
        culprits = [(at, m) for at, m in self._pending_messages() if matches(m)]
        if not culprits:
            self._stepping = True
            return
        first = culprits[0][0]
        if not self.rewrite:
            self._states[:first] = self._states[:first].replace(_PENDING, _ACCEPTED)
        self._refuse(culprits, text, topic=topic)

    def blame_connection(self, lost: ConnectionLostError, attempt: Attempt) -> None:
        """Do not write a message again that makes the broker close connection after connection."""
        if not lost.refuses:
            return
        if self._stepping:
            self._refuse_first(attempt, lost.reply)
        self._stepping = not self._stepping

    def take_return(self, returned: Returned) -> bool:
        """Keep a message that the broker handed back if it is one of these, and not yet had."""
        place = (returned.exchange, returned.routing_key, returned.message_id)
        ours = sum(
            m.envelope.mandatory
            and (m.envelope.exchange, m.envelope.routing_key, m.envelope.message_id) == place
            for _, m in self._pending_messages()
        )
        had = sum((r.exchange, r.routing_key, r.message_id) == place for r in self.returned)
        if ours > had:
            self.returned.append(returned)
        return ours > had

    def _refuse_first(self, attempt: Attempt, text: str) -> None:
        at = attempt.ranges[0].start
        self._refuse([(at, self._message(at))], text)

    def _refuse(
        self,
        culprits: list[tuple[int, Message]],
        text: str,
        *,
        topic: bool = False,
        nacked: bool = False,
    ) -> None:
        # As in blame().
        from pg_amqp_py.wire.cause import Cause

        for at, message in culprits:
            self._mark(at, _REFUSED)
            key = message.envelope.routing_key if topic else None
            self.causes[at] = Cause(message.envelope.exchange, key, text, nacked=nacked)
            self.refused.append(self.causes[at])

    # -- the messages --------------------------------------------------------------------

    def _is_pending(self, at: int) -> bool:
        return self._states[at] in _PENDING

    def _mark(self, at: int, state: bytes) -> None:
        self._states[at : at + 1] = state

    def _pending_positions(self) -> Iterator[int]:
        return (at for at, state in enumerate(self._states) if state in _PENDING)

    def _pending_messages(self) -> Iterator[tuple[int, Message]]:
        return ((at, self._message(at)) for at in self._pending_positions())

    def _message(self, at: int) -> Message:
        return next(decode_messages(self._part(range(at, at + 1))))

    def _part(self, part: range) -> memoryview:
        """The bytes of neighbouring messages."""
        end = self._starts[part.stop] if part.stop < len(self._starts) else len(self._stream)
        return memoryview(self._stream)[self._starts[part.start] : end]


class Attempt:
    """One writing of what is pending of a batch, in one opening of a channel."""

    def __init__(
        self,
        opening: Opening,
        ranges: list[range],
        starts: Sequence[int],
        confirms: Confirms,
        unwritten: Unwritten,
    ) -> None:
        self.opening = opening
        self.ranges = ranges
        """Which messages, as ranges of neighbours."""
        self.confirms = confirms
        self.unwritten = unwritten
        self.excess = 0
        """Delivery tags of messages that will not be written after all."""
        self._starts = starts

    @property
    def lives(self) -> bool:
        """Whether answers can still come."""
        return self.opening.lives

    @property
    def written(self) -> int:
        """How many of its messages stand before the one that is being written."""
        return self._before(self.unwritten.at(self._starts))

    def positions(self) -> Iterator[int]:
        """Positions in the batch of the messages for which confirms are counted."""
        return islice(chain.from_iterable(self.ranges), self.confirms.count)

    def cut(self) -> None:
        """Write no more than the message that is being written."""
        if self.unwritten.left:
            written = self._before(self.stop_at_message_end())
            self.excess += self.confirms.count - written
            self.confirms.cut(written)

    def stop_at_message_end(self) -> int:
        """Forget the bytes behind the message that is being written; return its successor."""
        return self.unwritten.stop_at_message_end(self._starts)

    def _before(self, behind: int) -> int:
        parts = (part for part in self.ranges if part.start < behind)
        return sum(min(part.stop, behind) - part.start for part in parts)


class Unwritten:
    """The bytes still to be written, a range of neighbouring messages at a time."""

    def __init__(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        self._parts = iter(parts)
        self._at = 0
        self._part = memoryview(b"")
        self._advance()

    @property
    def left(self) -> bool:
        """Whether there are any."""
        return bool(self._part)

    def send(self, send_some: Callable[[memoryview], int]) -> int:
        """How many bytes of the next ones went out."""
        sent = send_some(self._part)
        self._at += sent
        self._part = self._part[sent:]
        if not self._part:
            self._advance()
        return sent

    def at(self, starts: Sequence[int]) -> int:
        """The message that is being written."""
        return bisect_right(starts, self._at) - 1

    def stop_at_message_end(self, starts: Sequence[int]) -> int:
        """Forget everything behind the message that is being written; return its successor."""
        self._parts = iter(())
        end = bisect_left(starts, self._at)
        if end < len(starts):
            self._part = self._part[: starts[end] - self._at]
        return end

    def _advance(self) -> None:
        self._at, self._part = next(self._parts, (0, memoryview(b"")))
