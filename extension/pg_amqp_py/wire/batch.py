"""Delivering a batch: one stream of encoded messages, each settled exactly once.

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
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from itertools import chain, islice

from pg_amqp_py.wire.cause import Cause, Fault, cause
from pg_amqp_py.wire.confirms import Confirms
from pg_amqp_py.wire.connection import ignore
from pg_amqp_py.wire.encode import decode_messages, place_of
from pg_amqp_py.wire.errors import (
    ChannelClosedError,
    ConnectionLostError,
    MessageError,
    StalledError,
)
from pg_amqp_py.wire.frames import Ack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pg_amqp_py.wire.connection import Connection, Returned
    from pg_amqp_py.wire.encode import Encoder
    from pg_amqp_py.wire.message import Message

_PENDING, _CONFIRMED, _REFUSED, _ACCEPTED = range(4)
_NACK = "the broker refused it (basic.nack)"
_NOT_WRITTEN = "received a confirm of what was not written yet"
_SMALL = 1 << 14
"""Bytes of a stream that goes out with one call: less than a socket's buffer holds."""


def _never() -> bool:
    return False


class Batch:
    """Messages on their way to one broker.

    `stream` is the frames of all messages, none larger than `frame_max`; `starts` is the offset of
    each message in it. With `rewrite`, only what is confirmed counts: what was accepted before a
    refused message is written again, since a queue may yet have rejected it, and may arrive twice.
    """

    def __init__(
        self,
        stream: bytes | bytearray,
        starts: Sequence[int],
        frame_max: int,
        *,
        rewrite: bool = False,
    ) -> None:
        self._rewrite = rewrite
        self._stream = stream
        self._starts = starts
        self._frame_max = frame_max
        self._states = bytearray(len(starts))
        self._stepping = False
        self._attempt: _Attempt | None = None
        """What was written and may still be answered."""
        self._current: _Attempt | None = None
        """What is being written."""
        self.returned: list[Returned] = []
        """Unroutable messages (mandatory) that the broker handed back; it confirms them, too."""
        self.faults: dict[int, Fault] = {}
        """Messages that the broker would not take, by their position."""
        self.refused: list[Cause] = []
        """Why, one for each of these."""

    @property
    def pending(self) -> int:
        """Number of messages that are not settled yet."""
        return self._states.count(_PENDING)

    @property
    def confirmed(self) -> int:
        """Number of messages that the broker has confirmed."""
        return self._states.count(_CONFIRMED)

    def settled(self) -> list[int]:
        """Positions of the messages that the broker has taken."""
        return [at for at, state in enumerate(self._states) if state in (_CONFIRMED, _ACCEPTED)]

    @property
    def unanswered(self) -> int:
        """Number of messages that were written, or are to be, and may still be answered."""
        attempt = self._attempt
        return 0 if attempt is None or not attempt.lives else attempt.confirms.outstanding

    @property
    def awaited(self) -> bool:
        """Whether all that is pending is written whole and may still be answered."""
        attempt = self._attempt
        return attempt is not None and not attempt.outgoing.left and self.unanswered > 0

    def pending_places(self) -> list[tuple[str, str]]:
        """Exchange and routing key of each message that is not settled yet."""
        return [
            place_of(self._part(range(at, at + 1)))
            for at, state in enumerate(self._states)
            if state == _PENDING
        ]

    def look(self) -> None:
        """Settle what is answered by now, while write() waits for the rest."""
        if self._current is not None:
            self._settle(self._current.todo, self._current.confirms)

    def stop_writing(self) -> list[int]:
        """Write nothing more but the rest of what is half written.

        Returns the positions of what may still be answered on its connection.
        """
        attempt = self._attempt
        if attempt is None or not attempt.lives:
            return []
        if attempt.outgoing.left:
            self._cut(attempt)
        written = list(islice(chain.from_iterable(attempt.todo), attempt.confirms.count))
        return [written[position] for position in attempt.confirms.unanswered()]

    def collect(self) -> None:
        """Settle what has been answered since the wait was given up, without waiting."""
        attempt = self._attempt
        if attempt is not None:
            self._settle(attempt.todo, attempt.confirms)
            if not attempt.confirms.outstanding:
                self._attempt = None

    def _fit(self, encoder: Encoder) -> None:
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
                if self._states[at] == _PENDING:
                    text = f"frames have at most {encoder.frame_max} bytes ({error.field}: {error})"
                    self._refuse([(at, message)], Fault(text, nacked=False))
        self._stream, self._starts, self._frame_max = stream, starts, encoder.frame_max

    def write(
        self,
        connection: Connection,
        timeout: float,
        *,
        confirm_timeout: float | None = None,
        confirm: bool = True,
        patient: bool = False,
        stop: Callable[[], bool] = _never,
    ) -> None:
        """Write what is pending, and await its confirms unless `confirm` is false.

        Returns when nothing is pending, or, once `stop` returns true, when what was written by
        then is answered. Raises ConnectionLostError or StalledError (no byte and no confirm
        moved for `timeout` seconds, or for `confirm_timeout` once all is written; a broker that has
        said that it is blocked is waited for without end if `patient`); what was confirmed by then
        is settled. If the connection is still usable after a StalledError, all is written, and the
        answers that are missing may come at any time: collect() looks for them, and so does the
        next call.
        """
        attempt = self._resume(connection)
        if attempt is None:
            self._fit(connection.encoder)
            if connection.blocked is None:
                connection.settle_unconfirmed(time.monotonic() + timeout, wait=confirm)
        while attempt or ((first := self._states.find(_PENDING)) >= 0 and not stop()):
            if attempt is None:
                connection.renew_channel(time.monotonic() + timeout)
                attempt = self._begin(connection, self._todo(first))
            try:
                self._pump(
                    attempt,
                    timeout,
                    timeout if confirm_timeout is None else confirm_timeout,
                    confirm=confirm,
                    patient=patient,
                    stop=stop,
                )
            except ChannelClosedError as refusal:
                self._end(attempt, confirm)
                self._blame(refusal, attempt.todo)
                connection.forget_exchanges()
                connection.reopen(time.monotonic() + timeout)
            except ConnectionLostError as lost:
                self._end(attempt, confirm)
                self._blame_connection(lost, attempt.todo)
                raise
            except BaseException:
                self._end(attempt, confirm)
                if connection.usable:
                    self._leave(attempt)
                raise
            else:
                self._end(attempt, confirm)
                if not confirm:
                    self._states = bytearray([_ACCEPTED]) * len(self._states)
            attempt = None

    def take_over(self, connection: Connection, sent: int, confirmed: int) -> None:
        """Go on where `sent` bytes were written and the first `confirmed` messages confirmed."""
        confirms = Confirms(connection.published + 1, len(self._starts))
        if confirmed:
            confirms.answer(Ack(True, connection.published + confirmed, True))
        connection.published += confirms.count
        rest = memoryview(self._stream)[sent:]
        outgoing = _Outgoing([(sent, rest)] if rest else [])
        todo = [range(len(self._starts))]
        self._attempt = _Attempt(connection, todo, confirms, outgoing)

    def _todo(self, first: int) -> list[range]:
        """Runs of neighbouring messages to write next, from the first that is pending on."""
        if self._stepping:
            return [range(first, first + 1)]
        # Here, because a session's first publish() shall not wait for it: a small transaction
        # never comes here.
        import re

        return [range(*run.span()) for run in re.finditer(b"\0+", self._states)]

    def _begin(self, connection: Connection, todo: list[range]) -> _Attempt:
        count = sum(map(len, todo))
        confirms = Confirms(connection.published + 1, count)
        connection.published += count
        outgoing = _Outgoing((self._starts[run[0]], self._part(run)) for run in todo)
        return _Attempt(connection, todo, confirms, outgoing)

    def _resume(self, connection: Connection) -> _Attempt | None:
        """The attempt that was left waiting for answers, if they can still come."""
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return None
        if attempt.confirms in attempt.connection.late:
            attempt.connection.late.remove(attempt.confirms)
        if attempt.connection is not connection:
            # What was answered after the wait was given up and before that connection went.
            self._settle(attempt.todo, attempt.confirms)
            return None
        if attempt.channel == connection.channels:
            return attempt
        # Somebody else has noticed that the broker has closed the channel: for one of these
        # messages, or for a later one.
        self._end(attempt, confirm=True)
        if attempt.confirms.routed and not self._rewrite:
            # For a later one.
            for run in attempt.todo:
                for at in run:
                    if self._states[at] == _PENDING:
                        self._states[at] = _ACCEPTED
        elif connection.late_refusal is not None:
            self._blame(connection.late_refusal, attempt.todo)
            connection.late_refusal = None
        return None

    def _leave(self, attempt: _Attempt) -> None:
        """Let the answers that are missing come whenever they will, beside those to others."""
        connection = attempt.connection
        attempt.confirms.take_return = self._take_return
        connection.late.append(attempt.confirms)
        connection.on_publisher = ignore
        connection.unconfirmed = False
        self._attempt = attempt

    def _take_return(self, returned: Returned) -> bool:
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

    def _pump(
        self,
        attempt: _Attempt,
        timeout: float,
        confirm_timeout: float,
        *,
        confirm: bool,
        patient: bool,
        stop: Callable[[], bool],
    ) -> None:
        """Write and read in both directions until all is written and answered.

        A broker that cannot deliver its answers stops reading: whoever only wrote would
        wait for it for ever.
        """
        connection, confirms, outgoing = attempt.connection, attempt.confirms, attempt.outgoing
        returnable = len(self.returned) + confirms.count

        def on_publisher(answer: Ack | Returned) -> None:
            if isinstance(answer, Ack):
                confirms.answer(answer)
            elif len(self.returned) < returnable:
                self.returned.append(answer)
            else:
                raise ConnectionLostError("received more messages than were published")

        connection.on_publisher = on_publisher
        connection.awaited = confirms
        self._current = attempt
        deadline = time.monotonic() + (timeout if outgoing.left else confirm_timeout)
        try:
            while outgoing.left or (confirm and confirms.outstanding):
                if connection.ahead:
                    connection.receive()
                    continue
                if outgoing.left and stop():
                    self._cut(attempt)
                before = confirms.outstanding
                blocked = patient and connection.blocked is not None
                sent = outgoing.send(connection) if outgoing.left else 0
                if not sent:
                    connection.wait(math.inf if blocked else deadline, sending=outgoing.left)
                if outgoing.left or not sent:
                    connection.receive()
                if outgoing.left and confirms.answered > attempt.written(outgoing.at(self._starts)):
                    # Whoever lies once is believed nothing.
                    confirms.cut(0)
                    connection.abandon(lost := ConnectionLostError(_NOT_WRITTEN))
                    raise lost
                if sent or confirms.outstanding < before or blocked:
                    deadline = time.monotonic() + (timeout if outgoing.left else confirm_timeout)
        except ChannelClosedError:
            # The rest of a half-written frame must follow before anything else may be said.
            outgoing.stop_at_message_end(self._starts)
            try:
                while outgoing.left:
                    if not outgoing.send(connection):
                        connection.wait(deadline, sending=True)
            except (ConnectionLostError, StalledError):
                # Whatever becomes of the connection, the refusal says which messages are settled.
                pass
            raise

    def _cut(self, attempt: _Attempt) -> None:
        """Write no more than the message that is being written."""
        written = attempt.written(attempt.outgoing.stop_at_message_end(self._starts))
        attempt.connection.published -= attempt.confirms.count - written
        attempt.confirms.cut(written)

    def _end(self, attempt: _Attempt, confirm: bool) -> None:
        """Settle what is answered."""
        self._current = None
        connection, confirms = attempt.connection, attempt.confirms
        connection.unconfirmed = confirms.outstanding > 0
        connection.awaited = None
        if not connection.unconfirmed:
            connection.on_publisher = ignore
        if confirm:
            self._settle(attempt.todo, confirms)

    def _settle(self, todo: list[range], confirms: Confirms) -> None:
        refused = set(confirms.refused())
        if not confirms.outstanding and not refused and len(todo) == 1:
            run = todo[0][: confirms.count]
            self._states[run.start : run.stop] = bytearray([_CONFIRMED]) * len(run)
            return
        unanswered = set(confirms.unanswered())
        written = islice(chain.from_iterable(todo), confirms.count)
        for position, at in enumerate(written):
            if position in refused:
                if self._states[at] == _PENDING:
                    self._refuse([(at, self._message(at))], Fault(_NACK, nacked=True))
            elif position not in unanswered:
                self._states[at] = _CONFIRMED

    def _blame(self, refusal: ChannelClosedError, todo: list[range]) -> None:
        """Settle the messages that a closed channel was closed for."""
        text = refusal.reply
        if self._stepping:
            at = todo[0].start
            self._refuse([(at, self._message(at))], Fault(text, nacked=False))
            self._stepping = False
            return
        matches, topic = cause(str(refusal))
        culprits = [(at, m) for at, m in self._pending_messages() if matches(m)]
        if not culprits:
            self._stepping = True
            return
        first = culprits[0][0]
        if not self._rewrite:
            self._states[:first] = self._states[:first].replace(b"\0", bytes([_ACCEPTED]))
        self._refuse(culprits, Fault(text, nacked=False), topic=topic)

    def _blame_connection(self, lost: ConnectionLostError, todo: list[range]) -> None:
        """Do not write a message again that makes the broker close connection after connection."""
        if not lost.hard:
            return
        if self._stepping:
            at = todo[0].start
            self._refuse([(at, self._message(at))], Fault(lost.reply, nacked=False))
        self._stepping = not self._stepping

    def _refuse(
        self, culprits: list[tuple[int, Message]], fault: Fault, *, topic: bool = False
    ) -> None:
        for at, message in culprits:
            self._states[at] = _REFUSED
            self.faults[at] = fault
            key = message.envelope.routing_key if topic else None
            self.refused.append(Cause(message.envelope.exchange, key, fault.text))

    def _pending_messages(self) -> Iterator[tuple[int, Message]]:
        for at, state in enumerate(self._states):
            if state == _PENDING:
                yield at, self._message(at)

    def _message(self, at: int) -> Message:
        return next(decode_messages(self._part(range(at, at + 1))))

    def _part(self, run: range) -> memoryview:
        """The bytes of neighbouring messages."""
        end = self._starts[run.stop] if run.stop < len(self._starts) else len(self._stream)
        return memoryview(self._stream)[self._starts[run.start] : end]


def write_small(
    connection: Connection, stream: bytes | bytearray, starts: Sequence[int], *, confirm: bool
) -> Batch | None:
    """Write messages in the simplest case: few enough to go out at once, and all goes well.

    Returns None if they are confirmed (written, without `confirm`), else the batch to go on with.
    Nearly every transaction is of this kind, and a Batch would cost it more than all the rest.
    """
    if (
        len(stream) > _SMALL
        or connection.late
        or connection.refusing
        or (connection.unconfirmed and (confirm or not connection.quiet()))
    ):
        return Batch(stream, starts, connection.encoder.frame_max)
    first = unconfirmed = connection.published + 1
    end = first + len(starts)
    try:
        sent = connection.send_some(stream)
    except ConnectionLostError:
        sent = 0
    if sent == len(stream):
        if confirm:
            unconfirmed = connection.confirms(first, end)
        else:
            connection.unconfirmed = True
        if unconfirmed == end or not confirm:
            connection.published = end - 1
            return None
    batch = Batch(stream, starts, connection.encoder.frame_max)
    batch.take_over(connection, sent, unconfirmed - first)
    return batch


class _Attempt:
    """One writing of what is pending."""

    def __init__(
        self, connection: Connection, todo: list[range], confirms: Confirms, outgoing: _Outgoing
    ) -> None:
        self.connection = connection
        self.channel = connection.channels
        """Connection.channels at its beginning: another one, and no answers can come any more."""
        self.todo = todo
        self.confirms = confirms
        self.outgoing = outgoing

    @property
    def lives(self) -> bool:
        """Whether answers can still come."""
        return self.connection.usable and self.channel == self.connection.channels

    def written(self, behind: int) -> int:
        """How many of its messages stand before the batch's message `behind`."""
        return sum(min(run.stop, behind) - run.start for run in self.todo if run.start < behind)


class _Outgoing:
    """The bytes still to be written, as a run of neighbouring messages at a time."""

    def __init__(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        self._parts = iter(parts)
        self._at = 0
        self._run = memoryview(b"")
        self._advance()

    @property
    def left(self) -> bool:
        return bool(self._run)

    def send(self, connection: Connection) -> int:
        sent = connection.send_some(self._run)
        self._at += sent
        self._run = self._run[sent:]
        if not self._run:
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
            self._run = self._run[: starts[end] - self._at]
        return end

    def _advance(self) -> None:
        self._at, self._run = next(self._parts, (0, memoryview(b"")))
