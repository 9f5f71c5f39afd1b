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

import re
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from pg_amqp_py.wire.confirms import Confirms
from pg_amqp_py.wire.connection import Connection, ignore
from pg_amqp_py.wire.encode import Encoder, decode_messages
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError
from pg_amqp_py.wire.frames import Ack
from pg_amqp_py.wire.message import Message

_PENDING, _CONFIRMED, _REFUSED, _ACCEPTED = range(4)
_NACK = "the broker refused it (basic.nack)"
_FIRST_HARD_ERROR = 500
"""Reply codes from here on speak of what was sent, not of the broker's own state."""

Matcher = Callable[[Message], bool]


class Cause(NamedTuple):
    """Why messages did not arrive, and where they were going."""

    exchange: str
    routing_key: str | None
    """None where the cause concerns the exchange rather than one routing key."""
    text: str
    """The broker's words."""

    @property
    def place(self) -> str:
        """Exchange and routing key, for an error message."""
        key = "" if self.routing_key is None else f' with routing key "{self.routing_key}"'
        return (f'exchange "{self.exchange}"' if self.exchange else "the default exchange") + key


class Batch:
    """Messages on their way to one broker.

    `stream` is the frames of all messages; `starts` is the offset of each one in it.
    """

    def __init__(self, stream: bytes | bytearray, starts: Sequence[int]) -> None:
        self._stream = stream
        self._starts = starts
        self._states = bytearray(len(starts))
        self._stepping = False
        self.returned: Counter[Cause] = Counter()
        """Unroutable messages that the broker handed back (mandatory)."""
        self.refused: Counter[Cause] = Counter()
        """Messages that the broker would not take."""

    @property
    def pending(self) -> int:
        """Number of messages that are not settled yet."""
        return self._states.count(_PENDING)

    @property
    def confirmed(self) -> int:
        """Number of messages that the broker has confirmed."""
        return self._states.count(_CONFIRMED)

    def pending_exchanges(self) -> Counter[str]:
        """How many messages of each exchange are not settled yet."""
        return Counter(message.envelope.exchange for _, message in self._pending_messages())

    def fit(self, encoder: Encoder, frame_max: int) -> None:
        """Encode anew if the broker's largest frame is smaller than `frame_max`, used so far."""
        if encoder.frame_max >= frame_max:
            return
        stream, starts = bytearray(), array("Q")
        for message in decode_messages(self._stream):
            starts.append(len(stream))
            encoder.append(stream, tuple(message.envelope), message.body)
        self._stream, self._starts = stream, starts

    def write(self, connection: Connection, timeout: float, *, confirm: bool = True) -> None:
        """Write what is pending, and await its confirms unless `confirm` is false.

        Returns when nothing is pending. Raises ConnectionLostError or StalledError (no byte
        and no confirm moved for `timeout` seconds); what was confirmed by then is settled.
        """
        connection.settle_unconfirmed(time.monotonic() + timeout, wait=confirm)
        while (first := self._states.find(_PENDING)) >= 0:
            todo = self._todo(first)
            try:
                self._attempt(connection, todo, timeout, confirm)
            except ChannelClosedError as refusal:
                self._blame(refusal, todo)
                connection.forget_exchanges()
                connection.reopen(time.monotonic() + timeout)
            except ConnectionLostError as lost:
                self._blame_connection(lost, todo)
                raise

    def _todo(self, first: int) -> list[range]:
        """Runs of neighbouring messages to write next, from the first that is pending on."""
        if self._stepping:
            return [range(first, first + 1)]
        return [range(*run.span()) for run in re.finditer(b"\0+", self._states)]

    def _attempt(
        self, connection: Connection, todo: list[range], timeout: float, confirm: bool
    ) -> None:
        count = sum(map(len, todo))
        confirms = Confirms(connection.published + 1, count)
        connection.published += count

        def on_publisher(method: Any) -> None:
            if isinstance(method, Ack):
                confirms.answer(method)
            else:
                text = f"{method.reply_text} ({method.reply_code})"
                self.returned[Cause(method.exchange, method.routing_key, text)] += 1

        connection.on_publisher = on_publisher
        try:
            outgoing = _Outgoing((self._starts[run[0]], self._part(run)) for run in todo)
            self._pump(connection, outgoing, confirms, timeout, confirm)
        finally:
            connection.on_publisher = ignore
            connection.unconfirmed = confirms.outstanding > 0
            if confirm:
                self._settle(todo, confirms)
        if not confirm:
            self._states = bytearray([_ACCEPTED]) * len(self._states)

    def _pump(
        self,
        connection: Connection,
        outgoing: _Outgoing,
        confirms: Confirms,
        timeout: float,
        confirm: bool,
    ) -> None:
        """Write and read in both directions until all is written and answered.

        A broker that cannot deliver its answers stops reading: whoever only wrote would
        wait for it for ever.
        """
        deadline = time.monotonic() + timeout
        try:
            while outgoing.left or (confirm and confirms.outstanding):
                before = confirms.outstanding
                sent = outgoing.send(connection) if outgoing.left else 0
                if not sent:
                    connection.wait(deadline, sending=outgoing.left)
                if outgoing.left or not sent:
                    connection.receive()
                if sent or confirms.outstanding < before:
                    deadline = time.monotonic() + timeout
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

    def _settle(self, todo: list[range], confirms: Confirms) -> None:
        refused = set(confirms.refused())
        if not confirms.outstanding and not refused and len(todo) == 1:
            run = todo[0]
            self._states[run.start : run.stop] = bytearray([_CONFIRMED]) * len(run)
            return
        unanswered = set(confirms.unanswered())
        for position, at in enumerate(chain.from_iterable(todo)):
            if position in refused:
                self._refuse([(at, self._message(at))], _NACK)
            elif position not in unanswered:
                self._states[at] = _CONFIRMED

    def _blame(self, refusal: ChannelClosedError, todo: list[range]) -> None:
        """Settle the messages that a closed channel was closed for."""
        text = f"{refusal} ({refusal.code})"
        if self._stepping:
            at = todo[0].start
            self._refuse([(at, self._message(at))], text)
            self._stepping = False
            return
        matches, topic = _cause(str(refusal))
        culprits = [(at, m) for at, m in self._pending_messages() if matches(m)]
        if not culprits:
            self._stepping = True
            return
        first = culprits[0][0]
        self._states[:first] = self._states[:first].replace(b"\0", bytes([_ACCEPTED]))
        self._refuse(culprits, text, topic=topic)

    def _blame_connection(self, lost: ConnectionLostError, todo: list[range]) -> None:
        """Do not write a message again that makes the broker close connection after connection."""
        if lost.code < _FIRST_HARD_ERROR:
            return
        if self._stepping:
            at = todo[0].start
            self._refuse([(at, self._message(at))], f"{lost} ({lost.code})")
        self._stepping = not self._stepping

    def _refuse(
        self, culprits: list[tuple[int, Message]], text: str, *, topic: bool = False
    ) -> None:
        for at, message in culprits:
            self._states[at] = _REFUSED
            key = message.envelope.routing_key if topic else None
            self.refused[Cause(message.envelope.exchange, key, text)] += 1

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

    def stop_at_message_end(self, starts: Sequence[int]) -> None:
        """Forget everything behind the message that is being written."""
        self._parts = iter(())
        end = bisect_left(starts, self._at)
        if end < len(starts):
            self._run = self._run[: starts[end] - self._at]

    def _advance(self) -> None:
        self._at, self._run = next(self._parts, (0, memoryview(b"")))


def _cause(text: str) -> tuple[Matcher, bool]:
    """Which messages the broker's text speaks of, and whether it names their routing key.

    The texts are those of RabbitMQ 3.10 to 4.x; no message matches any other text.
    """
    size = re.search(r"message size \d+ is larger than (?:configured )?max size (\d+)", text)
    if size:
        limit = int(size[1])
        return (lambda m: len(m.body) > limit), False
    if "user_id property set to '" in text:
        phrase = "user_id property set to '{}' but authenticated"
        return (lambda m: _quotes(text, phrase.format(m.envelope.user_id))), False
    if "topic '" in text:
        phrase = "topic '{}' in exchange '{}' in vhost"
        return (
            lambda m: _quotes(text, phrase.format(m.envelope.routing_key, m.envelope.exchange))
        ), True
    # The default exchange has no name but this one.
    return (
        lambda m: _quotes(text, f"exchange '{m.envelope.exchange or 'amq.default'}' in vhost")
    ), False


def _quotes(text: str, phrase: str) -> bool:
    """Whether the broker says this, as far as it can be seen: it cuts its texts to 255 bytes."""
    if phrase in text:
        return True
    # Dots stand for what is missing, and the cut may be within a character.
    shown = text.removesuffix("...").rstrip("\ufffd")
    begins = shown.find(phrase[: phrase.index("'") + 1])
    return text.endswith("...") and begins >= 0 and phrase.startswith(shown[begins:])
