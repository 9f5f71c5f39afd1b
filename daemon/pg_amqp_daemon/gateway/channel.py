"""The gateway's role on a connection: many messages under way, each settled by itself.

Other than wire.channel, which writes one batch and waits for it, this never waits: an event loop
calls send() when there is room, and receive() when something has arrived. So a queue that
confirms late keeps nobody else waiting. And nothing is ever written a second time but what the
broker has surely not looked at, because it had closed the channel before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pg_amqp_daemon.gateway.posted import Posted, uncertain
from pg_amqp_daemon.gateway.problem import Problem
from pg_amqp_py.wire import methods
from pg_amqp_py.wire.cause import blamed_by
from pg_amqp_py.wire.channel import PublishingChannel
from pg_amqp_py.wire.confirms import read_return
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import NOT_FOUND, ChannelClosedError, ConnectionLostError
from pg_amqp_py.wire.frames import Ack, Content, Frame, next_unconfirmed
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.message import Message as Decoded
from pg_amqp_py.wire.methods import FRAME_MAX, Method

_REOPEN = methods.CONFIRM_CLOSED_CHANNEL + methods.OPEN_CHANNEL + methods.SELECT_CONFIRMS
_NACKED = "rejected by a queue (basic.nack)"
_CLOSED = "the broker closed the channel for another message: {}"
_SETTLED_LATE = "the broker closed the channel before it was confirmed: {}"


class ConfirmingChannel:
    """The channel of a connection, in confirm mode. Raises ConnectionLostError.

    When that is raised, or the connection is given up, lost() says what was not written.
    """

    capabilities = PublishingChannel.capabilities

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.encoder = Encoder()
        self.ready = False
        """Whether messages may be written now."""
        self._reopening = False
        self.flight: dict[int, Posted] = {}
        """What is written, or being written, by delivery tag, until the broker answers."""
        self.on_confirm: Callable[[Posted], object] = lambda _: None
        """Called with what the broker has confirmed, before it is settled."""
        self._tag = 0
        """The last one given away."""
        self._first = 1
        """All tags below it are answered."""
        self._stream = bytearray()
        self._sent = 0
        """Bytes that were given to TCP."""
        self._appended = 0
        self._passing: deque[Posted] = deque()
        """Those behind which answers are asked for."""
        self._return: Method | None = None

    def open(self, deadline: float) -> None:
        """Open the channel, as part of the handshake."""
        connection = self.connection
        connection.send(methods.OPEN_CHANNEL, deadline)
        connection.expect(methods.CHANNEL_OPEN_OK, deadline)
        connection.send(methods.SELECT_CONFIRMS, deadline)
        connection.expect(methods.CONFIRM_SELECT_OK, deadline)
        if connection.frame_max < FRAME_MAX:
            self.encoder = Encoder(connection.frame_max)
        self.ready = True

    @property
    def pending(self) -> int:
        """How many bytes are still to be sent."""
        return len(self._stream)

    @property
    def waits(self) -> bool:
        """Whether somebody waits for an answer."""
        return any(not posted.settled for posted in self.flight.values())

    # -- to the broker ---------------------------------------------------------------------

    def write(self, posted: Posted) -> None:
        """Append a message to what is to be sent."""
        if self.encoder.frame_max < FRAME_MAX:
            try:
                posted.message.encode(self.encoder)
            except Problem as problem:
                posted.settle(problem)
                return
        self._tag += 1
        self.flight[self._tag] = posted
        self._append(posted.message.frames)
        posted.end = self._appended
        if posted.passed is not None:
            self._passing.append(posted)
            self._append(methods.RESUME_FLOW)

    def _append(self, data: bytes | bytearray) -> None:
        self._stream += data
        self._appended += len(data)

    def send(self) -> bool:
        """Send what can be sent without waiting; whether there was room for anything."""
        stream = self._stream
        sent = self.connection.send_some(stream)
        self._sent += sent
        if sent == len(stream):
            # A new one, so that the space of a large message is given back.
            self._stream = bytearray()
        elif sent:
            del stream[:sent]
        return sent > 0

    # -- from the broker -------------------------------------------------------------------

    def receive(self) -> list[Posted]:
        """Take in what has arrived. Returns what is to be written again, in order.

        This is what the broker has surely not looked at: it came behind a message for which it has
        closed the channel.
        """
        try:
            self.connection.receive()
        except ChannelClosedError as refusal:
            return self._reopen(refusal)
        return []

    def takes(self, data: bytes) -> bool:
        """Settle messages that are confirmed one after the other, which nearly all are."""
        behind = next_unconfirmed(data, self._first)
        if not 0 < behind <= self._tag + 1:
            return False
        for tag in range(self._first, behind):
            posted = self.flight.pop(tag, None)
            if posted is not None:
                self.on_confirm(posted)
                posted.confirm()
        self._first = behind
        return True

    def on_frame(self, frame: Frame) -> ChannelClosedError | None:
        """Take in a frame; the refusal with which the broker has closed the channel, if so."""
        if isinstance(frame, Ack):
            self._on_ack(frame)
        elif isinstance(frame, Content):
            self._on_content(frame)
        elif frame is not None:
            return self._on_method(frame)
        return None

    def on_blocked(self) -> None:
        """Whoever writes looks at the connection."""

    def on_lost(self) -> None:
        """Whoever waits asks lost()."""
        self.ready = False

    def _on_ack(self, ack: Ack) -> None:
        if ack.tag > self._tag or not (ack.tag or ack.multiple):
            raise ConnectionLostError("received a confirm of what was never published")
        last = ack.tag or self._tag
        tags = [tag for tag in self.flight if tag <= last] if ack.multiple else [last]
        for tag in tags:
            posted = self.flight.pop(tag, None)
            if posted is None:
                continue
            if ack.positive:
                self.on_confirm(posted)
                posted.confirm()
            else:
                posted.settle(Problem(422, _NACKED))
        self._first = min(self.flight, default=self._tag + 1)

    def _on_method(self, method: Method) -> ChannelClosedError | None:
        if method.index == methods.CHANNEL_CLOSE:
            return ChannelClosedError(*method.reply())
        if method.index == methods.BASIC_RETURN:
            self._return = method
        elif method.index == methods.CHANNEL_FLOW_OK and self._passing:
            posted = self._passing.popleft()
            if posted.passed is not None:
                posted.passed(posted)
        elif method.index == methods.CONFIRM_SELECT_OK and self._reopening:
            self.ready, self._reopening = True, False
        elif method.index != methods.CHANNEL_OPEN_OK or not self._reopening:
            self.connection.on_reply(method)
        return None

    def _on_content(self, content: Content) -> None:
        method, self._return = self._return, None
        if method is None:
            raise ConnectionLostError("received content that was not asked for")
        returned = read_return(method, content.message_id)
        where = (returned.exchange, returned.routing_key)
        for posted in self.flight.values():
            message = posted.message
            if (
                posted.returned is None
                and message.mandatory
                and message.id == returned.message_id
                and message.place == where
            ):
                posted.returned = returned.text
                return

    # -- when something goes wrong ---------------------------------------------------------

    def lost(self) -> list[Posted]:
        """Give up the connection. Returns what was surely not published; all else is settled."""
        reason = ConnectionLostError("given up")
        self.connection.abandon(reason)
        unwritten = []
        for posted in self.flight.values():
            if posted.end > self._sent:
                unwritten.append(posted)
            else:
                posted.settle(uncertain("the connection to RabbitMQ was lost"))
        self.flight.clear()
        self._passing.clear()
        return unwritten

    def _reopen(self, refusal: ChannelClosedError) -> list[Posted]:
        """Settle those for which the channel was closed, and open it anew without waiting."""
        flight = list(self.flight.values())
        written = [posted for posted in flight if posted.end <= self._sent]
        again = self._blame(refusal, written) + flight[len(written) :]
        # What is half written must be finished before anything else can be said.
        ends = [posted.end for posted in flight]
        ends += [posted.end + len(methods.RESUME_FLOW) for posted in self._passing]
        rest = min((end for end in ends if end >= self._sent), default=self._sent) - self._sent
        del self._stream[rest:]
        self._appended = self._sent + rest
        self.ready, self._reopening = False, True
        self.flight.clear()
        self._passing.clear()
        self._tag, self._first = 0, 1
        self._append(_REOPEN)
        return again

    def _blame(self, refusal: ChannelClosedError, written: list[Posted]) -> list[Posted]:
        """Settle what was written; returns what stands behind the last one that may be at fault.

        A channel works in order: what stands before them was looked at, and its confirm cut off.
        The broker names no message, only what it has against it. If that fits one, that was it; of
        several, it may be any, so nothing is certain but of what comes behind.
        """
        matches, _ = blamed_by(str(refusal))
        fits = [at for at, posted in enumerate(written) if matches(_decoded(posted))]
        if not fits and len(written) == 1:
            fits = [0]
        answer = Problem(_status(refusal), refusal.reply)
        behind = fits[-1] + 1 if fits else len(written)
        for at, posted in enumerate(written[:behind]):
            if fits == [at]:
                posted.settle(answer)
            elif at in fits:
                posted.settle(uncertain(_SETTLED_LATE.format(refusal.reply)))
            else:
                posted.settle(uncertain(_CLOSED.format(refusal.reply)))
        return written[behind:]


def _decoded(posted: Posted) -> Decoded:
    return Decoded(Envelope(*posted.message.fields), posted.message.body)  # type: ignore[arg-type]


def _status(refusal: ChannelClosedError) -> int:
    text = str(refusal)
    if "message size" in text:
        return 413
    if refusal.code == 403 or "user_id property" in text:
        return 403
    return 404 if refusal.code == NOT_FOUND else 422
