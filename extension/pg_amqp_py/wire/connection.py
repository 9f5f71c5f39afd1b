"""An AMQP connection: its stream, replies to what was asked, heartbeats, whether it is blocked.

What belongs to the channel goes to whoever has the role of it: a publisher (wire.channel), a
consumer (wire.consume) or a requester (wire.request). Roles do not share a connection, as a blocked
publisher would block a consumer. So there is one channel: questions and publishing never overlap,
and one that the broker closes to refuse an operation is opened again at once.

pika's BlockingConnection is not used for this: it waits in ways that PostgreSQL cannot
interrupt, resolves names in a thread (a backend must have none) and confirms one message at
a time.
"""

from __future__ import annotations

import time

from pg_amqp_py.wire import methods
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError
from pg_amqp_py.wire.frames import Ack, Content, FrameReader
from pg_amqp_py.wire.methods import CHANNEL, FRAME_MAX, Method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pg_amqp_py.wire.address import Address
    from pg_amqp_py.wire.frames import Frame
    from pg_amqp_py.wire.transport import Bytes, Transport

    class Channel(Protocol):
        """A role on the channel of a connection."""

        @property
        def capabilities(self) -> tuple[str, ...]:
            """What the broker shall know that the client understands."""
            ...

        def open(self, deadline: float) -> None:
            """Open the channel, and say what the role needs of it."""

        def takes(self, data: bytes) -> bool:
            """Take in received bytes that begin with a frame, if they are what comes all the time.

            Otherwise they are cut into frames.
            """

        def on_frame(self, frame: Frame) -> ChannelClosedError | None:
            """Take in a frame; the refusal with which the broker has closed the channel, if so."""

        def on_blocked(self) -> None:
            """The broker has begun, or ended, to take no messages: see Connection.blocked."""

        def on_lost(self) -> None:
            """The connection is gone: forget what was held for it."""


_CLOSING_SECONDS = 1.0
_HANDSHAKE = 5
"""Methods that a peer may say before they are asked for: those of a whole handshake."""
_GREETING = 64


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
        """time.time() of the moment at which the broker accepted the login; 0.0 before."""
        self.frame_max = FRAME_MAX
        """Bytes of the largest frame that was agreed upon."""
        self.blocked: str | None = None
        """The broker's reason for taking no messages now (Connection.Blocked), or None."""
        self._channel: Channel = _NO_ROLE
        self._transport = transport
        self._frames = FrameReader()
        self.partial = self._frames.partial
        """What of a frame was received: what arrives next is the rest of it."""
        self._ahead = b""
        """What was put back, and the next receive() takes in."""
        self._replies: list[Method] = []
        self._expected = 0
        """The method that is waited for."""
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

    # -- opening it ------------------------------------------------------------------

    def attach(self, channel: Channel) -> None:
        """Give what belongs to the channel to this role."""
        self._channel = channel

    def cut_by(self, frames: FrameReader) -> None:
        """Have a role's own reader cut the stream, before anything of it was received."""
        self._frames = frames
        self.partial = frames.partial

    def introduce(self, product: str, version: str) -> None:
        """Remember what the broker says of itself."""
        self.server_product, self.server_version = product, version

    def tune(self, frame_max: int, heartbeat: int) -> None:
        """Keep to what was agreed upon; without heartbeats, TCP keepalive watches."""
        self.frame_max = frame_max
        self._frames.limit(frame_max)
        if heartbeat:
            self.heartbeat = heartbeat
            self.received_at = self._sent_at = time.monotonic()

    def complete(self) -> None:
        """From now on, accept replies to what was asked alone."""
        self.connected_at = time.time()

    @property
    def greeting(self) -> bytes:
        """The beginning of what a peer has said that is no AMQP."""
        return bytes(self.partial)

    # -- the stream ------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether the connection is open as far as this side knows."""
        return self._broken is None

    @property
    def acknowledged(self) -> bool:
        """Whether the peer's machine has acknowledged all that was sent to it."""
        return self._transport.acknowledged

    def while_waiting(self, on_wait: Callable[[], None]) -> None:
        """Have this called at least every 100 ms while waiting; it may raise to interrupt."""
        self._transport.on_wait = on_wait

    def fileno(self) -> int:
        """The socket's file descriptor, for an event loop that waits in the place of wait()."""
        return self._transport.fileno()

    def heed(self, descriptor: int) -> None:
        """From now on, wait() also ends when there is something to read from this descriptor.

        So another thread can have its owner do something else. Waiting for a reply goes on.
        """
        self._transport.heed(descriptor)

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

    def beat(self) -> None:
        """Send a heartbeat if it is time to; ConnectionLostError if the broker sends none.

        To be called every second or so, also by while_waiting() (AMQP 0-9-1, section 4.2.7). Does
        nothing on a connection without heartbeats.
        """
        if not self.heartbeat or self._broken is not None:
            return
        now = time.monotonic()
        if now - self.received_at > 2 * self.heartbeat and not self._transport.arrived:
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
        if self._ahead and not sending:
            return
        self._half_sent = sending
        try:
            self._transport.wait(deadline, sending=sending)
        except BaseException as error:
            if not isinstance(error, StalledError) or (sending and not self.heartbeat):
                self.abandon(ConnectionLostError(str(error)))
            raise

    def read(self, seconds: float) -> bytes:
        """What arrives within `seconds`, at most a tenth of one, as nothing interrupts it.

        The caller takes it in, or puts it back for receive().
        """
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        try:
            return self._transport.receive_within(seconds)
        except ConnectionLostError as error:
            self.abandon(error)
            raise

    def put_back(self, data: bytes) -> None:
        """Leave to receive() what read() has returned."""
        self._ahead = data

    def receive(self) -> None:
        """Take in some of what has arrived, without waiting.

        Raises ChannelClosedError if the broker has closed the channel: the role reopens it.
        """
        if self._broken is not None:
            raise self._broken
        refusal = None
        try:
            data, self._ahead = self._ahead or self._transport.receive_some(), b""
            if not data:
                return
            if self.heartbeat:
                self.received_at = time.monotonic()
            if not self.partial and self._channel.takes(data):
                return
            for number, frame in self._frames.feed(data):
                if number == CHANNEL:
                    refusal = self._channel.on_frame(frame) or refusal
                elif frame is not None:
                    self._on_frame(number, frame)
        except ConnectionLostError as error:
            self.abandon(error)
            raise
        if refusal is not None:
            raise refusal

    def _on_frame(self, number: int, frame: Frame) -> None:
        """Take in what does not belong to the channel."""
        if isinstance(frame, Ack):
            raise ConnectionLostError("received a confirm of what was never published")
        if isinstance(frame, Content):
            raise ConnectionLostError("received content that was not asked for")
        if number != 0 or frame is None:
            raise ConnectionLostError("received a method on a channel that is not open")
        if frame.index == methods.CONNECTION_CLOSE:
            code, text = frame.reply()
            lost = ConnectionLostError(text, code)
            self._post(methods.CONFIRM_CLOSED_CONNECTION)
            self.abandon(lost)
            raise lost
        if frame.index == methods.CONNECTION_BLOCKED:
            self._block(frame.text(0)[0] or "no reason given")
        elif frame.index == methods.CONNECTION_UNBLOCKED:
            self._block(None)
        else:
            self.on_reply(frame)

    def _block(self, reason: str | None) -> None:
        self.blocked = reason
        self._channel.on_blocked()

    # -- questions -------------------------------------------------------------------

    def on_reply(self, method: Method) -> None:
        """Keep the reply that is waited for: whoever sends anything else speaks another protocol.

        But for a peer that says at once all that the handshake asks for one after the other.
        """
        opening = not self.connected_at and len(self._replies) < _HANDSHAKE
        if method.index != self._expected and not opening:
            raise ConnectionLostError("received a method that nobody asked for")
        self._replies.append(method)

    def forget_replies(self) -> None:
        """What was asked on the channel that the broker has closed is not answered any more."""
        self._replies.clear()

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
        self._transport.heeds(False)
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
            self._transport.heeds(True)

    # -- its end ---------------------------------------------------------------------

    def _post(self, frame: bytes) -> None:
        """Send a small method to which no answer is awaited; if it does not fit, never mind."""
        try:
            self._transport.send_some(frame)
        except ConnectionLostError:
            pass

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

    def detach(self) -> int:
        """Give the socket away, as a file descriptor: whoever takes it speaks AMQP on it.

        The broker is not told, so to it the connection is open as before.
        """
        self._broken = ConnectionLostError("given away")
        descriptor = self._transport.detach()
        self._forget()
        return descriptor

    def abandon(self, reason: ConnectionLostError) -> None:
        """Close the socket; every later use raises `reason`.

        What is held for this connection goes with it, however long somebody may keep hold of it.
        """
        if self._broken is None:
            # Without its traceback, whose frames hold whatever they were busy with.
            self._broken = reason.with_traceback(None)
        self._transport.close()
        self._forget()

    def _forget(self) -> None:
        channel, self._channel = self._channel, _NO_ROLE
        channel.on_lost()
        self._replies.clear()
        self._ahead = b""
        # Whoever looks for the reason of a failed handshake reads the beginning.
        del self.partial[_GREETING:]


class _NoRole:
    """Nobody has the channel yet, or any more."""

    capabilities = ()

    def open(self, deadline: float) -> None:
        raise NotImplementedError

    def takes(self, data: bytes) -> bool:
        return False

    def on_frame(self, frame: Frame) -> ChannelClosedError | None:
        raise ConnectionLostError("received a method on a channel that is not open")

    def on_blocked(self) -> None: ...

    def on_lost(self) -> None: ...


_NO_ROLE = _NoRole()
