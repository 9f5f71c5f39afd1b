"""An AMQP connection with its one channel in confirm mode.

pika's BlockingConnection is not used for this: it waits in ways that PostgreSQL cannot
interrupt, resolves names in a thread (a backend must have none) and confirms one message at
a time. What pika is asked for is the encoding of the methods.

One channel is enough: topology calls and publishing never overlap, and a channel that the
broker closes to refuse an operation is opened again at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.codec import frame, spec
from pg_amqp_py.wire.encode import CHANNEL, FRAME_MAX, Encoder
from pg_amqp_py.wire.errors import (
    ChannelClosedError,
    ConnectError,
    ConnectionLostError,
    NotAMQPError,
    RejectedError,
    StalledError,
    TLSError,
    UnreachableError,
)
from pg_amqp_py.wire.frames import Ack, Content, FrameReader, next_unconfirmed
from pg_amqp_py.wire.transport import SLICE, Bytes, Transport, open_transport

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_CAPABILITIES = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "publisher_confirms": True,
}
_ACCESS_REFUSED = 403
_CLOSING_SECONDS = 1.0

Reply = TypeVar("Reply")


class Returned(NamedTuple):
    """A mandatory message that no queue took (Basic.Return)."""

    exchange: str
    routing_key: str
    text: str
    """The broker's words."""
    message_id: str | None


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
        self.on_publisher: Callable[[Any], None] = ignore
        """Called with every Ack, and with every Returned."""
        self.unconfirmed = False
        """Whether messages were published whose confirms nobody awaited."""
        self.late_refusal: ChannelClosedError | None = None
        """How the broker refused one of those; whoever reports it sets it back to None."""
        self._transport = transport
        self._frames = FrameReader()
        self._ahead = b""
        """What was received and is taken in by the next receive()."""
        self._replies: list[Any] = []
        self._return: Any = None
        """The Basic.Return whose content follows."""
        self._broken: ConnectionLostError | None = None

    @property
    def usable(self) -> bool:
        """Whether the connection is open as far as this side knows."""
        return self._broken is None

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
            return self._transport.send_some(data)
        except ConnectionLostError as error:
            self.abandon(error)
            raise

    def wait(self, deadline: float, *, sending: bool = False) -> None:
        """Wait until there is something to receive, or room to send; StalledError at `deadline`.

        Whoever gives up waiting leaves an operation half done, so the connection goes with it.
        Only what a blocked broker has received whole may wait there: when it takes messages
        again it says so, and the connection goes on.
        """
        if self._ahead:
            return
        try:
            self._transport.wait(deadline, sending=sending)
        except BaseException as error:
            if sending or self.blocked is None or not isinstance(error, StalledError):
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
            data, self._ahead = self._ahead or self._transport.receive_some(), b""
            for channel, method in self._frames.feed(data):
                if isinstance(method, Ack):
                    self.on_publisher(method)
                elif method is None:
                    continue
                elif isinstance(method, spec.Basic.Return):
                    self._return = method
                elif isinstance(method, Content):
                    self._on_content(method)
                elif channel == 0:
                    self._on_connection_method(method)
                elif isinstance(method, spec.Channel.Close):
                    refusal = ChannelClosedError(method.reply_code, _text(method.reply_text))
                else:
                    self._replies.append(method)
        except ConnectionLostError as error:
            self.abandon(error)
            raise
        if refusal is not None:
            raise refusal

    def quiet(self) -> bool:
        """Whether all is as it was when the connection was last used, at little cost.

        Otherwise receive() tells what has happened. Confirms that nobody awaits count as nothing.
        """
        if self._ahead or self._broken is not None:
            return False
        try:
            if not self._transport.arrives(0):
                return True
            self._ahead = self._transport.receive_some()
        except ConnectionLostError as error:
            self.abandon(error)
            return False
        if self.unconfirmed and not self._frames.partial and next_unconfirmed(self._ahead, 0):
            self._ahead = b""
            return True
        return False

    def confirms(self, tag: int, end: int) -> int:
        """Wait for the confirms of the delivery tags from `tag` to below `end`, at little cost.

        Returns the first that is missing when the broker is silent for a moment, or says
        anything else: receive() tells what. Returns `end` if none is.
        """
        try:
            while tag < end and not self._ahead and self._transport.arrives(SLICE):
                data = self._transport.receive_some()
                confirmed = 0 if self._frames.partial else next_unconfirmed(data, tag)
                if confirmed:
                    tag = confirmed
                else:
                    self._ahead = data
        except ConnectionLostError as error:
            self.abandon(error)
        return tag

    def _on_content(self, content: Content) -> None:
        method, self._return = self._return, None
        if method is None:
            raise ConnectionLostError("received content that was not asked for")
        text = f"{_text(method.reply_text)} ({method.reply_code})"
        self.on_publisher(
            Returned(_text(method.exchange), _text(method.routing_key), text, content.message_id)
        )

    def _on_connection_method(self, method: Any) -> None:
        if isinstance(method, spec.Connection.Close):
            lost = ConnectionLostError(_text(method.reply_text), method.reply_code)
            self._post(spec.Connection.CloseOk(), 0)
            self.abandon(lost)
            raise lost
        if isinstance(method, spec.Connection.Blocked):
            self.blocked = _text(method.reason) or "no reason given"
        elif isinstance(method, spec.Connection.Unblocked):
            self.blocked = None
        else:
            self._replies.append(method)

    def _post(self, method: Any, channel: int) -> None:
        """Send a small method to which no answer is awaited; if it does not fit, never mind."""
        with contextlib.suppress(ConnectionLostError):
            self._transport.send_some(frame.Method(channel, method).marshal())

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of `data`."""
        left = memoryview(data)
        while left:
            sent = self.send_some(left)
            left = left[sent:]
            if left and not sent:
                self.wait(deadline, sending=True)

    def expect(self, reply: Callable[..., Reply], deadline: float) -> Reply:
        """Wait for the method `reply` (a class of pika.spec)."""
        while True:
            for at, method in enumerate(self._replies):
                if isinstance(method, reply):  # type: ignore[arg-type]
                    del self._replies[: at + 1]
                    found: Reply = method
                    return found
            try:
                self.wait(deadline)
            except StalledError as error:
                # A reply that comes later would be taken for that to a later request.
                self.abandon(ConnectionLostError(str(error)))
                raise
            self.receive()

    # -- opening and closing -----------------------------------------------------------

    def log_in(self, name: str, deadline: float) -> None:
        """The connection handshake of AMQP 0-9-1, section 2.2.4, and the channel's opening."""
        address = self.address
        try:
            self.send(_PROTOCOL_HEADER, deadline)
            start = self.expect(spec.Connection.Start, deadline)
        except (ConnectionLostError, StalledError) as error:
            raise self._no_greeting(error) from None
        properties = start.server_properties
        self.server_product = str(properties.get("product", ""))
        self.server_version = str(properties.get("version", ""))
        if "PLAIN" not in str(start.mechanisms):
            raise RejectedError("the broker does not offer SASL mechanism PLAIN", _ACCESS_REFUSED)
        client = {
            "product": "pg_amqp_py",
            "platform": "PostgreSQL",
            "connection_name": name,
            "capabilities": _CAPABILITIES,
        }
        response = f"\0{address.username}\0{address.password}"
        self._tell(spec.Connection.StartOk(client, "PLAIN", response, "en_US"), deadline)
        tune = self._unless_rejected(spec.Connection.Tune, deadline)
        frame_max = min(tune.frame_max or FRAME_MAX, FRAME_MAX)
        self.encoder = Encoder(frame_max)
        # Heartbeat 0: a backend cannot answer one while it is idle; TCP keepalive watches.
        self._tell(spec.Connection.TuneOk(tune.channel_max, frame_max, 0), deadline)
        self._tell(spec.Connection.Open(address.vhost), deadline)
        self._unless_rejected(spec.Connection.OpenOk, deadline)
        self._open_channel(deadline)
        self.connected_at = time.time()

    def _unless_rejected(self, reply: Callable[..., Reply], deadline: float) -> Reply:
        try:
            return self.expect(reply, deadline)
        except ConnectionLostError as error:
            # With Connection.Close the broker says no; without it, the network broke.
            if error.code:
                raise RejectedError(str(error), error.code) from None
            raise

    def _no_greeting(self, error: Exception) -> ConnectError:
        """Why the peer did not begin the handshake."""
        greeting = bytes(self._frames.partial)
        if greeting[:2] == b"\x15\x03":
            return TLSError("the port expects TLS")
        if greeting[:4] == b"AMQP":
            return NotAMQPError("the server speaks another version of AMQP")
        if greeting:
            line = greeting[:40].decode("ascii", "replace").splitlines()[0]
            shown = "".join(c if c.isprintable() else "?" for c in line)
            return NotAMQPError(f'the server greets with "{shown}"')
        if isinstance(error, StalledError):
            return UnreachableError("connected, but the server does not answer")
        if self.address.ssl:
            # In TLS 1.3 the server looks at the client's certificate after the handshake.
            return TLSError(f"the broker ended the connection after the TLS handshake: {error}")
        return NotAMQPError(f"the connection ended before a greeting: {error}")

    def _tell(self, method: Any, deadline: float, channel: int = 0) -> None:
        self.send(frame.Method(channel, method).marshal(), deadline)

    def _open_channel(self, deadline: float) -> None:
        self._tell(spec.Channel.Open(), deadline, CHANNEL)
        self.expect(spec.Channel.OpenOk, deadline)
        self._tell(spec.Confirm.Select(), deadline, CHANNEL)
        self.expect(spec.Confirm.SelectOk, deadline)
        self.published = 0
        self.channels += 1

    def reopen(self, deadline: float) -> None:
        """Open the channel again after a ChannelClosedError; delivery tags begin anew."""
        self._replies.clear()
        self._tell(spec.Channel.CloseOk(), deadline, CHANNEL)
        self._open_channel(deadline)

    def call(self, request: Any, reply: Callable[..., Reply], deadline: float) -> Reply:
        """Send a method of pika.spec on the channel and return the broker's reply.

        Raises ChannelClosedError if the broker refuses; the channel is open again then.
        """
        self.settle_unconfirmed(deadline)
        return self._call(request, reply, deadline)

    def _call(self, request: Any, reply: Callable[..., Reply], deadline: float) -> Reply:
        try:
            self._tell(request, deadline, CHANNEL)
            return self.expect(reply, deadline)
        except ChannelClosedError:
            self.reopen(deadline)
            raise

    def settle_unconfirmed(self, deadline: float, *, wait: bool = True) -> None:
        """Notice a refusal of messages whose confirms nobody awaited, before anything else is said.

        It must not be taken for a refusal of what comes next. Without `wait` only what has
        arrived already is noticed. The refusal is kept in `late_refusal`.
        """
        if not self.unconfirmed:
            return
        try:
            if wait:
                self.unconfirmed = False
                self._call(spec.Channel.Flow(active=True), spec.Channel.FlowOk, deadline)
            else:
                self.receive()
        except ChannelClosedError as refusal:
            if not wait:
                self.reopen(deadline)
            self.late_refusal = refusal
            self.forget_exchanges()

    def require_exchange(self, exchange: str, deadline: float) -> None:
        """Make sure, once a connection, that an exchange exists. Raises ChannelClosedError."""
        if exchange not in self.exchanges:
            declare = spec.Exchange.Declare(exchange=exchange, passive=True)
            self.call(declare, spec.Exchange.DeclareOk, deadline)
            self.exchanges.add(exchange)

    def forget_exchanges(self) -> None:
        """Make sure of every exchange again before it is next used."""
        self.exchanges = {""}

    def round_trip(self, deadline: float) -> None:
        """Ask the broker for an answer that changes nothing."""
        self.call(spec.Channel.Flow(active=True), spec.Channel.FlowOk, deadline)

    def close(self) -> None:
        """Say goodbye and wait at most a second for the answer."""
        if self._broken is None:
            try:
                deadline = time.monotonic() + _CLOSING_SECONDS
                self._tell(spec.Connection.Close(200, "Goodbye", 0, 0), deadline)
                self.expect(spec.Connection.CloseOk, deadline)
            except (ConnectionLostError, StalledError, ChannelClosedError):
                pass
        self.abandon(ConnectionLostError("closed"))

    def leave(self) -> None:
        """Say goodbye without waiting for anything: the process is about to end."""
        if self._broken is None:
            self._post(spec.Connection.Close(200, "Goodbye", 0, 0), 0)
        self.abandon(ConnectionLostError("closed"))

    def abandon(self, reason: ConnectionLostError) -> None:
        """Close the socket; every later use raises `reason`."""
        if self._broken is None:
            self._broken = reason
        self._transport.close()


def connect(address: Address, name: str, timeout: float, on_wait: Callable[[], None]) -> Connection:
    """Open a connection to `address` within `timeout` seconds.

    `name` is what RabbitMQ lists as connection name. Raises ConnectError (UnreachableError,
    NotAMQPError, RejectedError, TLSError) and whatever `on_wait` raises.
    """
    deadline = time.monotonic() + timeout
    connection = Connection(open_transport(address, timeout, on_wait), address)
    try:
        connection.log_in(name, deadline)
    except (ConnectionLostError, StalledError, ChannelClosedError) as error:
        connection.abandon(ConnectionLostError(str(error)))
        raise UnreachableError(f"the handshake was cut off: {error}") from None
    except BaseException as error:
        connection.abandon(ConnectionLostError(str(error)))
        raise
    return connection


def _text(value: str | bytes) -> str:
    """A short string as pika decodes it: bytes where it was cut within a character."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def ignore(method: Any) -> None:
    """No batch is being written: what arrives is an answer to an unconfirmed older one."""
