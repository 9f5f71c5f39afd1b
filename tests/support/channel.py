"""A broker that is a few lines of Python, as the channel that a batch is written to."""

from __future__ import annotations

import struct
from collections.abc import Callable

from pg_amqp_py.wire.channel import State
from pg_amqp_py.wire.confirms import Confirms, LateConfirms, Opening, Returned
from pg_amqp_py.wire.encode import Encoder, decode_messages
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError
from pg_amqp_py.wire.frames import Ack
from pg_amqp_py.wire.message import Message

Judge = Callable[[Message], str]


class FakeChannel:
    """Takes messages; `judge` says what becomes of each.

    ack, nack, return (and then ack), refuse (the channel is closed, for its exchange), close (it
    is, for reasons that nobody understands), lose (the connection is), or silence.
    """

    def __init__(self, judge: Judge = lambda _: "ack") -> None:
        self.encoder = Encoder()
        self.blocked: str | None = None
        self.usable = True
        self.opening = Opening(self)
        self.openings = 1
        self.published = 0
        self.late = LateConfirms()
        self.late_refusal: ChannelClosedError | None = None
        self.state = State.READY
        self.taken: list[int] = []
        """Bodies of what it has accepted."""
        self.waits: list[tuple[float, bool]] = []
        """Until when wait() was to wait, and whether for room."""
        self.most = 1 << 30
        """Bytes that it takes at once."""
        self.room = 1 << 30
        """Bytes that it takes before it stops reading."""
        self.sent = 0
        self._judge = judge
        self._tag = 0
        self._written = b""
        self._writing: Confirms | None = None
        self._on_return: Callable[[Returned], None] = lambda _: None

    def prepare(self, deadline: float, *, wait: bool) -> None: ...

    def claim(self, count: int) -> int:
        self.published += count
        return self.published - count + 1

    def give_back(self, count: int) -> None:
        self.published -= count

    def begin(self, confirms: Confirms, on_return: Callable[[Returned], None]) -> None:
        self.late.remove(confirms)
        self._writing, self._on_return = confirms, on_return

    def end(self) -> None:
        self._writing = None

    def leave_unattended(self) -> None:
        self.state = State.UNATTENDED

    def await_late(self, confirms: Confirms, take_return: Callable[[Returned], bool]) -> None:
        self.late.add(confirms, take_return)

    def take_late_refusal(self) -> ChannelClosedError | None:
        refusal, self.late_refusal = self.late_refusal, None
        return refusal

    def send_some(self, data: bytes | bytearray | memoryview) -> int:
        if not self.usable:
            raise ConnectionLostError("reset by peer")
        taken = data[: min(self.most, self.room)]
        self._written += taken
        self.room -= len(taken)
        self.sent += len(taken)
        return len(taken)

    def wait(self, deadline: float, *, sending: bool = False) -> None:
        self.waits.append((deadline, sending))
        if sending or not self._whole:
            raise StalledError("no answer in time")

    def receive(self) -> None:
        whole = self._whole
        written, self._written = self._written[:whole], self._written[whole:]
        for message in decode_messages(written):
            self._tag += 1
            self.answer(self._judge(message), self._tag, message)

    @property
    def _whole(self) -> int:
        """How many of the bytes that it has are whole messages."""
        whole = 0
        try:
            for message in decode_messages(self._written):
                stream = bytearray()
                self.encoder.append(stream, tuple(message.envelope), message.body)
                if whole + len(stream) > len(self._written):
                    break
                whole += len(stream)
        except (IndexError, ValueError, struct.error):
            # The rest has not arrived yet.
            pass
        return whole

    def quiet(self) -> bool:
        return not self._written

    def await_confirms(self, tag: int, end: int) -> int:
        confirms = Confirms(tag, end - tag)
        self.begin(confirms, lambda _: None)
        self.receive()
        self.end()
        return confirms.first_open

    def answer(self, verdict: str, tag: int, message: Message) -> None:
        """Say what becomes of a message, now or later."""
        if verdict == "silence":
            return
        if verdict == "refuse":
            text = f"NOT_FOUND - no exchange '{message.envelope.exchange}' in vhost '/'"
            raise ChannelClosedError(404, text)
        if verdict == "close":
            raise ChannelClosedError(406, "PRECONDITION_FAILED - something new")
        if verdict == "lose":
            self.abandon(lost := ConnectionLostError("reset by peer"))
            raise lost
        if verdict == "return":
            exchange, routing_key = message.envelope.exchange, message.envelope.routing_key
            returned = Returned(exchange, routing_key, "NO_ROUTE", message.envelope.message_id)
            if not self.late.take_return(returned):
                self._on_return(returned)
        elif verdict == "ack":
            self.taken.append(int(message.body))
        ack = Ack(verdict != "nack", tag, multiple=False)
        if self._writing is not None:
            self._writing.answer(ack)
        self.late.answer(ack)

    def recover(self, deadline: float) -> None:
        self.opening.lives = False
        self.late.clear()
        self.published = self._tag = 0
        # What was written behind the refused message is dropped.
        self._written = b""
        self.opening = Opening(self)
        self.openings += 1

    def abandon(self, reason: ConnectionLostError) -> None:
        self.usable = self.opening.lives = False
        self.late.clear()
