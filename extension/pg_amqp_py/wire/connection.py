"""An AMQP connection with its one channel in confirm mode.

pika's BlockingConnection is not used for this: it waits in ways that PostgreSQL cannot
interrupt, resolves names in a thread (a backend must have none) and confirms one message at
a time.

One channel is enough: topology calls and publishing never overlap, and a channel that the
broker closes to refuse an operation is opened again at once.
"""

from __future__ import annotations

import time

from pg_amqp_py.wire import methods
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError
from pg_amqp_py.wire.frames import ANY, Ack, Content, FrameReader, next_unconfirmed
from pg_amqp_py.wire.methods import CHANNEL, Method
from pg_amqp_py.wire.transport import SLICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pg_amqp_py.wire.address import Address
    from pg_amqp_py.wire.confirms import Confirms
    from pg_amqp_py.wire.transport import Bytes, Transport

_CLOSING_SECONDS = 1.0
_HANDSHAKE = 5
"""Methods that a peer may say before they are asked for: those of a whole handshake."""
_GREETING = 64
_ROUNDS = range(8)
_RENEW = 1.0
"""Seconds that a channel is kept at least: a full queue refuses on every channel."""


class Returned:
    """A mandatory message that no queue took (Basic.Return)."""

    __slots__ = ("exchange", "message_id", "routing_key", "text")

    def __init__(self, exchange: str, routing_key: str, text: str, message_id: str | None) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.text = text
        """The broker's words."""
        self.message_id = message_id


class Connection:
    """An open connection. Not safe for use by two threads at once.

    Methods raise ConnectionLostError or StalledError when the connection is of no use any more
    (`usable`); it is closed by then.
    """

    def __init__(self, transport: Transport, address: Address) -> None:
        self.address = address
        self.server_product = ""
        self.server_version = ""
        self.connected_at = 0.0
        """time.time() of the moment at which the broker accepted the login."""
        self.encoder = Encoder()
        self.exchanges = {""}
        """Exchanges that this connection has seen to exist; the default exchange always does."""
        self.blocked: str | None = None
        """The broker's reason for taking no messages now (Connection.Blocked), or None."""
        self.published = 0
        """Delivery tag of the last message on the channel."""
        self.channels = 0
        """How often the channel was opened."""
        self.refusing = False
        """Whether the broker has refused a message on the channel. See renew_channel()."""
        self._opened_at = 0.0
        self.on_publisher: Callable[[Ack | Returned], None] = ignore
        """Called with every Ack, and with every Returned."""
        self.awaited: Confirms | None = None
        """Of what is being written: confirms that arrive one after the other are counted there
        all at once. Nearly all do, and each by itself would cost as much as encoding its message.
        """
        self.late: list[Confirms] = []
        """Of earlier batches, confirms that are still awaited: a queue may be slow or stuck."""
        self.unconfirmed = False
        """Whether messages were published whose confirms nobody awaited."""
        self.late_refusal: ChannelClosedError | None = None
        """How the broker refused one of those; whoever reports it sets it back to None."""
        self._transport = transport
        self.frames = FrameReader()
        self.ahead = b""
        """What was received and is taken in by the next receive()."""
        self._replies: list[Method] = []
        self._expected = 0
        """The method that is waited for."""
        self._asked = 0
        """How many answers are missing to a question that may be answered at any time."""
        self._return: Method | None = None
        """The Basic.Return whose content follows."""
        self._broken: ConnectionLostError | None = None
        self.heartbeat = 0
        """Seconds; 0 is none. See beat()."""
        self.received_at = 0.0
        """When something last came from the broker (time.monotonic()), if there are heartbeats."""
        self._sent_at = 0.0
        self._owed = b""
        """The rest of a heartbeat, which must go out before anything else."""
        self._half_sent = False
        """Whether what is waited for is room for the rest of something."""

    @property
    def usable(self) -> bool:
        """Whether the connection is open as far as this side knows."""
        return self._broken is None

    @property
    def owes_answer(self) -> bool:
        """Whether answers() has asked in vain so far."""
        return self._asked > 0

    @property
    def acknowledged(self) -> bool:
        """Whether the peer's machine has acknowledged all that was sent to it."""
        return self._transport.acknowledged

    # -- the stream ------------------------------------------------------------------

    @property
    def on_wait(self) -> Callable[[], None]:
        """Called at least every 100 ms while waiting; may raise to interrupt."""
        return self._transport.on_wait

    @on_wait.setter
    def on_wait(self, on_wait: Callable[[], None]) -> None:
        self._transport.on_wait = on_wait

    def send_some(self, data: Bytes) -> int:
        """Bytes of `data` that went out without waiting."""
        try:
            if self.heartbeat and not self._beat_is_out():
                return 0
            return self._transport.send_some(data)
        except ConnectionLostError as error:
            self.abandon(error)
            raise

    def _beat_is_out(self) -> bool:
        """Whether no half of a heartbeat stands before what is to be sent."""
        if self._owed:
            self._owed = self._owed[self._transport.send_some(self._owed) :]
        self._sent_at = time.monotonic()
        return not self._owed

    def start_heartbeats(self, seconds: int) -> None:
        """Expect heartbeats from now on, and send them."""
        self.heartbeat = seconds
        self.received_at = self._sent_at = time.monotonic()

    def beat(self) -> None:
        """Send a heartbeat if it is time to; ConnectionLostError if the broker sends none.

        To be called every second or so, also by `on_wait` (AMQP 0-9-1, section 4.2.7). Does
        nothing on a connection without heartbeats.
        """
        if not self.heartbeat or self._broken is not None:
            return
        now = time.monotonic()
        if now - self.received_at > 2 * self.heartbeat and not self._transport.arrives(0):
            lost = ConnectionLostError(f"no heartbeat within {2 * self.heartbeat} seconds")
            self.abandon(lost)
            raise lost
        if now - self._sent_at >= self.heartbeat / 2 and not self._half_sent:
            self._owed = self._owed or methods.HEARTBEAT
            try:
                self._beat_is_out()
            except ConnectionLostError as error:
                self.abandon(error)
                raise

    def wait(self, deadline: float, *, sending: bool = False) -> None:
        """Wait until there is something to receive, or room to send; StalledError at `deadline`.

        Whoever gives up sending leaves a frame half written, so the connection goes with it; so it
        does where something else than the time ends the wait. What was written whole may be
        answered later, when a queue or a blocked broker goes on: the connection stays. With
        heartbeats it stays in any case: whether the broker lives is known, and the caller may go
        on with what is half written.
        """
        if self.ahead and not sending:
            return
        self._half_sent = sending
        try:
            self._transport.wait(deadline, sending=sending)
        except BaseException as error:
            if not isinstance(error, StalledError) or (sending and not self.heartbeat):
                self.abandon(ConnectionLostError(str(error)))
            raise

    def receive(self) -> None:
        """Take in some of what has arrived, without waiting.

        Raises ChannelClosedError if the broker has closed the channel: `reopen()` is next.
        """
        if self._broken is not None:
            raise self._broken
        refusal = None
        try:
            data, self.ahead = self.ahead or self._transport.receive_some(), b""
            if data and self.heartbeat:
                self.received_at = time.monotonic()
            if self.awaited is not None and not self.late and not self.frames.partial:
                behind = next_unconfirmed(data, self.awaited.first_open) if data else 0
                if 0 < behind <= self.published + 1:
                    self.awaited.answer(Ack(True, behind - 1, True))
                    return
            for channel, frame in self.frames.feed(data):
                if isinstance(frame, Ack):
                    self._on_ack(channel, frame)
                elif isinstance(frame, Content):
                    self._on_content(frame)
                elif frame is None:
                    continue
                elif channel == 0:
                    self._on_connection_method(frame)
                elif channel == CHANNEL:
                    refusal = self._on_channel_method(frame) or refusal
                else:
                    raise ConnectionLostError("received a method on a channel that is not open")
        except ConnectionLostError as error:
            self.abandon(error)
            raise
        if refusal is not None:
            raise refusal

    def _on_ack(self, channel: int, ack: Ack) -> None:
        # Tag 0 is all that is outstanding, which only `multiple` can mean.
        if channel != CHANNEL or ack.tag > self.published or not (ack.tag or ack.multiple):
            raise ConnectionLostError("received a confirm of what was never published")
        self.refusing |= not ack.positive
        self.on_publisher(ack)
        if self.late:
            for confirms in self.late:
                confirms.answer(ack)
            self.late = [confirms for confirms in self.late if confirms.outstanding]

    def _on_channel_method(self, method: Method) -> ChannelClosedError | None:
        if method.index == methods.CHANNEL_CLOSE:
            return ChannelClosedError(*method.reply())
        if method.index == methods.BASIC_RETURN:
            self._return = method
        else:
            self._on_reply(method)
        return None

    def _on_reply(self, method: Method) -> None:
        """Keep the reply that is waited for: whoever sends anything else speaks another protocol.

        But for a peer that says at once all that the handshake asks for one after the other.
        """
        if method.index == methods.CHANNEL_FLOW_OK and self._asked:
            self._asked -= 1
            return
        opening = not self.channels and len(self._replies) < _HANDSHAKE
        if method.index != self._expected and not opening:
            raise ConnectionLostError("received a method that nobody asked for")
        self._replies.append(method)

    def quiet(self) -> bool:
        """Whether all is as it was when the connection was last used, at little cost.

        Otherwise receive() tells what has happened. Confirms that nobody awaits count as nothing.
        """
        if self.ahead or self._broken is not None:
            return False
        try:
            if not self._transport.arrives(0):
                return True
            self.ahead = self._transport.receive_some()
        except ConnectionLostError as error:
            self.abandon(error)
            return False
        if self.unconfirmed and not self.late and not self.frames.partial:
            behind = next_unconfirmed(self.ahead, ANY)
            if 0 < behind <= self.published + 1:
                self.ahead = b""
                return True
        return False

    def confirms(self, tag: int, end: int) -> int:
        """Wait for the confirms of the delivery tags from `tag` to below `end`, at little cost.

        Returns the first that is missing when the broker is silent for a moment, or says
        anything else: receive() tells what. Returns `end` if none is.
        """
        try:
            # Not for ever, because nothing interrupts it.
            for _ in _ROUNDS:
                if tag >= end or self.ahead or not self._transport.arrives(SLICE):
                    break
                data = self._transport.receive_some()
                confirmed = 0 if self.frames.partial else next_unconfirmed(data, tag)
                if 0 < confirmed <= end:
                    tag = confirmed
                else:
                    self.ahead = data
        except ConnectionLostError as error:
            self.abandon(error)
        return tag

    def _on_content(self, content: Content) -> None:
        method, self._return = self._return, None
        if method is None:
            raise ConnectionLostError("received content that was not asked for")
        code, text = method.reply()
        exchange, at = method.text(3 + method.arguments[2])
        routing_key, _ = method.text(at)
        returned = Returned(exchange, routing_key, f"{text} ({code})", content.message_id)
        # It comes before its confirm, and before the answer to anything later.
        for confirms in self.late:
            if not confirms.routed and confirms.take_return and confirms.take_return(returned):
                return
        self.on_publisher(returned)

    def _on_connection_method(self, method: Method) -> None:
        if method.index == methods.CONNECTION_CLOSE:
            code, text = method.reply()
            lost = ConnectionLostError(text, code)
            self._post(methods.CONFIRM_CLOSED_CONNECTION)
            self.abandon(lost)
            raise lost
        if method.index == methods.CONNECTION_BLOCKED:
            self.blocked = method.text(0)[0] or "no reason given"
        elif method.index == methods.CONNECTION_UNBLOCKED:
            self.blocked = None
        else:
            self._on_reply(method)

    def _post(self, frame: bytes) -> None:
        """Send a small method to which no answer is awaited; if it does not fit, never mind."""
        try:
            self._transport.send_some(frame)
        except ConnectionLostError:
            pass

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of `data`."""
        left = memoryview(data)
        while left:
            sent = self.send_some(left)
            left = left[sent:]
            if left and not sent:
                self._wait_to_the_end(deadline, sending=True)

    def _wait_to_the_end(self, deadline: float, *, sending: bool = False) -> None:
        """wait(), where giving up leaves something half done: the connection goes with it."""
        try:
            self.wait(deadline, sending=sending)
        except StalledError as error:
            self.abandon(ConnectionLostError(str(error)))
            raise

    def expect(self, index: int, deadline: float) -> Method:
        """Wait for the method with this index."""
        self._expected = index
        try:
            while True:
                for at, method in enumerate(self._replies):
                    if method.index == index:
                        del self._replies[: at + 1]
                        return method
                # A reply that comes later would be taken for that to a later request.
                self._wait_to_the_end(deadline)
                self.receive()
        finally:
            self._expected = 0

    # -- the channel -------------------------------------------------------------------

    def open_channel(self, deadline: float) -> None:
        """Open the channel, and have it confirm what is published."""
        self.send(methods.OPEN_CHANNEL, deadline)
        self.expect(methods.CHANNEL_OPEN_OK, deadline)
        self.send(methods.SELECT_CONFIRMS, deadline)
        self.expect(methods.CONFIRM_SELECT_OK, deadline)
        self.published = 0
        self.channels += 1
        self.refusing = False
        self._opened_at = time.monotonic()

    def reopen(self, deadline: float) -> None:
        """Open the channel again after a ChannelClosedError; delivery tags begin anew."""
        self._replies.clear()
        self._asked = 0
        self.late.clear()
        self.send(methods.CONFIRM_CLOSED_CHANNEL, deadline)
        self.open_channel(deadline)

    def renew_channel(self, deadline: float) -> None:
        """Open the channel anew if the broker has refused messages on it.

        In RabbitMQ 3.10 a channel that first meets a quorum queue between two leaders goes on
        asking the dead one, and refuses all that is published there for as long as it is open.
        """
        if not self.refusing or self.late or self.blocked is not None:
            return
        if time.monotonic() < self._opened_at + _RENEW:
            return
        self.settle_unconfirmed(deadline)
        try:
            self.send(methods.CLOSE_CHANNEL, deadline)
            self.expect(methods.CHANNEL_CLOSE_OK, deadline)
        except ChannelClosedError:
            self.reopen(deadline)
        else:
            self.open_channel(deadline)

    def call(self, request: bytes, reply: int, deadline: float) -> None:
        """Send the frame of a method on the channel, and wait for the reply with this index.

        Raises ChannelClosedError if the broker refuses; the channel is open again then.
        """
        self.settle_unconfirmed(deadline)
        self._call(request, reply, deadline)

    def _call(self, request: bytes, reply: int, deadline: float) -> None:
        try:
            self.send(request, deadline)
            self.expect(reply, deadline)
        except ChannelClosedError:
            self.reopen(deadline)
            raise

    def settle_unconfirmed(self, deadline: float, *, wait: bool = True) -> None:
        """Notice a refusal of messages whose confirms nobody awaited, before anything else is said.

        It must not be taken for a refusal of what comes next. Without `wait` only what has
        arrived already is noticed. The refusal is kept in `late_refusal`.
        """
        if not self.unconfirmed and not self.late:
            return
        if not wait:
            try:
                self.receive()
            except ChannelClosedError as refusal:
                self._refused_late(refusal, deadline)
            return
        self.unconfirmed = False
        self.round_trip(deadline)

    def require_exchange(self, exchange: str, deadline: float) -> None:
        """Make sure, once a connection, that an exchange exists. Raises ChannelClosedError."""
        if exchange not in self.exchanges:
            question = methods.require_exchange(exchange)
            self.call(question, methods.EXCHANGE_DECLARE_OK, deadline)
            self.exchanges.add(exchange)

    def forget_exchanges(self) -> None:
        """Make sure of every exchange again before it is next used."""
        self.exchanges = {""}

    def round_trip(self, deadline: float) -> None:
        """Ask the broker for an answer that changes nothing."""
        if not self.answers(deadline):
            silent = StalledError("no answer in time")
            self.abandon(ConnectionLostError(str(silent)))
            raise silent

    def answers(self, deadline: float) -> bool:
        """Whether the broker answers within the time, though confirms of messages are missing.

        This tells a queue that is slow or stuck from a peer that is gone. If not, the answer may
        still come, and the connection stays as it is. Raises ConnectionLostError.
        """
        try:
            self.send(methods.RESUME_FLOW, deadline)
            self._asked += 1
            while self._asked:
                self.wait(deadline)
                self.receive()
        except StalledError:
            return False
        except ChannelClosedError as refusal:
            self._refused_late(refusal, deadline)
            return True
        for confirms in self.late:
            confirms.routed = True
        return True

    def _refused_late(self, refusal: ChannelClosedError, deadline: float) -> None:
        self.reopen(deadline)
        self.late_refusal = refusal
        self.forget_exchanges()

    def close(self) -> None:
        """Say goodbye and wait at most a second for the answer."""
        if self._broken is None:
            try:
                deadline = time.monotonic() + _CLOSING_SECONDS
                self.send(methods.CLOSE_CONNECTION, deadline)
                self.expect(methods.CONNECTION_CLOSE_OK, deadline)
            except (ConnectionLostError, StalledError, ChannelClosedError):
                pass
        self.abandon(ConnectionLostError("closed"))

    def leave(self) -> None:
        """Say goodbye without waiting for anything: the process is about to end."""
        if self._broken is None:
            self._post(methods.CLOSE_CONNECTION)
        self.abandon(ConnectionLostError("closed"))

    def abandon(self, reason: ConnectionLostError) -> None:
        """Close the socket; every later use raises `reason`.

        What is held for this connection goes with it, however long somebody may keep hold of it.
        """
        if self._broken is None:
            # Without its traceback, whose frames hold whatever they were busy with.
            self._broken = reason.with_traceback(None)
        self._transport.close()
        self.on_publisher = ignore
        self.awaited = None
        self.late.clear()
        self._replies.clear()
        self._return = None
        self.ahead = b""
        # Whoever looks for the reason of a failed handshake reads the beginning.
        del self.frames.partial[_GREETING:]


def ignore(answer: Ack | Returned) -> None:
    """No batch is being written: what arrives is an answer to an unconfirmed older one."""
