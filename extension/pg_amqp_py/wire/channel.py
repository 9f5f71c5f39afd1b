"""The publisher's role on a connection: messages with confirms, and questions between them.

A message's confirm may be waited for by a batch that is being written, come late, when the batch
has given up waiting, or be waited for by nobody (amqp.publisher_confirms = off). What of this is
so, and whether the broker takes messages at all, decides what may be said next: see State.
"""

from __future__ import annotations

import time

from pg_amqp_py.wire import methods
from pg_amqp_py.wire.confirms import LateConfirms, Opening, read_return
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError
from pg_amqp_py.wire.frames import ANY, Ack, Content, next_unconfirmed
from pg_amqp_py.wire.handshake import connect
from pg_amqp_py.wire.transport import SLICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pg_amqp_py.wire.address import Address
    from pg_amqp_py.wire.confirms import Confirms, Returned
    from pg_amqp_py.wire.connection import Connection
    from pg_amqp_py.wire.frames import Frame
    from pg_amqp_py.wire.methods import Method
    from pg_amqp_py.wire.table import JSON

_ROUNDS = range(8)
_RENEW = 1.0
"""Seconds that a channel is kept at least: a full queue refuses on every channel."""


class State:
    """What is so of a publishing channel; where two of these are, the lower one counts.

    =========== ======================================== =================== =====================
    state       what is so                               a small transaction before a batch
    =========== ======================================== =================== =====================
    READY       everything written is answered           goes the short way  nothing
    UNATTENDED  messages are written whose confirms      goes the short way, a round trip
                nobody waits for                         if nobody waits for
                                                         its confirms either
    REFUSING    the broker has refused messages          goes as a batch     the channel is opened
                (Basic.Nack)                                                 anew, once a second
    AWAITING    confirms may come late                   goes as a batch     a round trip
    BLOCKED     the broker takes no messages now         goes as a batch     nothing
                (Connection.Blocked)
    WRITING     a batch is being written and answered    goes as a batch     nothing: none begins
    SHUT        the broker has closed the channel        goes as a batch     recover() comes first
    CLOSED      the connection is gone                   goes as a batch     ConnectionLostError
    =========== ======================================== =================== =====================

    The round trip makes sure that a refusal that comes later is none of what was written before.
    """

    READY = "ready"
    UNATTENDED = "unattended"
    REFUSING = "refusing"
    AWAITING = "awaiting"
    BLOCKED = "blocked"
    WRITING = "writing"
    SHUT = "shut"
    CLOSED = "closed"


_UNATTENDED = State.UNATTENDED
_NOT_QUIET = (State.BLOCKED, State.SHUT, State.CLOSED)


def connect_publisher(
    address: Address,
    client: dict[str, JSON],
    timeout: float,
    on_wait: Callable[[], None],
    *,
    heartbeat: int = 0,
) -> PublishingChannel:
    """Open a connection to publish on: see handshake.connect()."""
    return connect(PublishingChannel, address, client, timeout, on_wait, heartbeat=heartbeat)


class PublishingChannel:
    """The channel of a connection, in confirm mode. Raises what its connection raises."""

    capabilities = (
        "authentication_failure_close",
        "basic.nack",
        "connection.blocked",
        "publisher_confirms",
    )

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.encoder = Encoder()
        self.exchanges = {""}
        """Exchanges that this connection has seen to exist; the default exchange always does."""
        self.published = 0
        """Delivery tag of the last message."""
        self.opening = Opening(self)
        self.openings = 0
        """How often the channel was opened."""
        self.state = State.READY
        self.late = LateConfirms()
        """Of earlier batches, confirms that are still awaited: a queue may be slow or stuck."""
        self._late_refusal: ChannelClosedError | None = None
        """How the broker refused messages whose batch did not wait any more."""
        self._writing: Confirms | None = None
        """Of the batch that is being written."""
        self._on_return: Callable[[Returned], None] | None = None
        """Called with the messages that come back while it is."""
        self._unattended = False
        self._refusing = False
        self._shut = False
        self._opened_at = 0.0
        self._asked = 0
        """How many answers to answers() are missing."""
        self._return: Method | None = None
        """The Basic.Return whose content follows."""
        # The stream's own: asked for every piece of a batch.
        self.send_some = connection.send_some
        self.wait = connection.wait
        self.receive = connection.receive
        self.abandon = connection.abandon
        self._read = connection.read

    def _find_state(self) -> None:
        """To be called when anything has changed that the state is told from."""
        if not self.connection.usable:
            self.state = State.CLOSED
        elif self._shut:
            self.state = State.SHUT
        elif self._writing is not None:
            self.state = State.WRITING
        elif self.connection.blocked is not None:
            self.state = State.BLOCKED
        elif self.late:
            self.state = State.AWAITING
        elif self._refusing:
            self.state = State.REFUSING
        elif self._unattended:
            self.state = State.UNATTENDED
        else:
            self.state = State.READY

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages now; None if it does."""
        return self.connection.blocked

    @property
    def usable(self) -> bool:
        """Whether the connection is open as far as this side knows."""
        return self.connection.usable

    @property
    def owes_answer(self) -> bool:
        """Whether answers() has asked in vain so far."""
        return self._asked > 0

    # -- opening it --------------------------------------------------------------------

    def open(self, deadline: float) -> None:
        """Open the channel, and have it confirm what is published; delivery tags begin anew."""
        connection = self.connection
        connection.send(methods.OPEN_CHANNEL, deadline)
        connection.expect(methods.CHANNEL_OPEN_OK, deadline)
        connection.send(methods.SELECT_CONFIRMS, deadline)
        connection.expect(methods.CONFIRM_SELECT_OK, deadline)
        if self.encoder.frame_max != connection.frame_max:
            self.encoder = Encoder(connection.frame_max)
        self._end_opening()
        self.opening = Opening(self)
        self.openings += 1
        self.published = 0
        self._unattended = self._refusing = self._shut = False
        self._opened_at = time.monotonic()
        self._find_state()

    def _end_opening(self) -> None:
        self.opening.lives = False
        self.late.clear()
        self._asked = 0

    def reopen(self, deadline: float) -> None:
        """Open the channel again after a ChannelClosedError."""
        self.connection.forget_replies()
        self._end_opening()
        self.connection.send(methods.CONFIRM_CLOSED_CHANNEL, deadline)
        self.open(deadline)

    def recover(self, deadline: float) -> None:
        """reopen() where messages were refused: perhaps because their exchange has gone."""
        self.forget_exchanges()
        self.reopen(deadline)

    def _renew(self, deadline: float) -> None:
        """Open the channel anew if the broker has refused messages on it.

        In RabbitMQ 3.10 a channel that first meets a quorum queue between two leaders goes on
        asking the dead one, and refuses all that is published there for as long as it is open.
        """
        if self.state is not State.REFUSING or time.monotonic() < self._opened_at + _RENEW:
            return
        if self._unattended:
            self.round_trip(deadline)
        try:
            self.connection.send(methods.CLOSE_CHANNEL, deadline)
            self.connection.expect(methods.CHANNEL_CLOSE_OK, deadline)
        except ChannelClosedError:
            self.reopen(deadline)
        else:
            self.open(deadline)

    # -- messages ----------------------------------------------------------------------

    def prepare(self, deadline: float, *, wait: bool) -> None:
        """Make the channel ready for a batch; `wait` if its confirms will be waited for."""
        if self.connection.blocked is None:
            self._attend(deadline, wait=wait)
            self._renew(deadline)

    def claim(self, count: int) -> int:
        """The first of so many delivery tags, for messages that are written next."""
        first = self.published + 1
        self.published += count
        return first

    def give_back(self, count: int) -> None:
        """Free the last delivery tags: their messages were not written after all."""
        self.published -= count

    def begin(self, confirms: Confirms, on_return: Callable[[Returned], None]) -> None:
        """Tell what the broker answers there, until end()."""
        self.late.remove(confirms)
        self._writing, self._on_return = confirms, on_return
        self._find_state()

    def end(self) -> None:
        """Nobody waits for answers any more."""
        self._writing = self._on_return = None
        self._find_state()

    def leave_unattended(self) -> None:
        """Messages were written whose confirms nobody waits for."""
        self._unattended = True
        self._find_state()

    def await_late(self, confirms: Confirms, take_return: Callable[[Returned], bool]) -> None:
        """Go on counting confirms while others are waited for.

        `take_return` is asked whether a message that comes back is one of theirs.
        """
        self.late.add(confirms, take_return)
        self._find_state()

    def await_confirms(self, tag: int, end: int) -> int:
        """Wait for the confirms of the delivery tags from `tag` to below `end`, at little cost.

        Returns the first that is missing when the broker is silent for a moment, or says
        anything else: receive() tells what. Returns `end` if none is.
        """
        try:
            # Not for ever, because nothing interrupts it.
            for _ in _ROUNDS:
                data = self._read(SLICE)
                confirmed = 0 if self.connection.partial else next_unconfirmed(data, tag)
                if confirmed == end:
                    return end
                if not tag < confirmed < end:
                    self.connection.put_back(data)
                    break
                tag = confirmed
        except ConnectionLostError:
            pass
        return tag

    def quiet(self) -> bool:
        """Whether all is as it was when the channel was last used, at little cost.

        Otherwise receive() tells what has happened. Confirms that nobody awaits count as nothing.
        """
        state = self.state
        if state in _NOT_QUIET:
            return False
        try:
            data = self._read(0)
        except ConnectionLostError:
            return False
        if not data:
            return True
        if state is _UNATTENDED and not self.connection.partial:
            behind = next_unconfirmed(data, ANY)
            if 0 < behind <= self.published + 1:
                return True
        self.connection.put_back(data)
        return False

    # -- questions ---------------------------------------------------------------------

    def call(self, request: bytes, reply: int, deadline: float) -> None:
        """Send the frame of a method on the channel, and wait for the reply with this index.

        Raises ChannelClosedError if the broker refuses; the channel is open again then.
        """
        self._attend(deadline, wait=True)
        try:
            self.connection.send(request, deadline)
            self.connection.expect(reply, deadline)
        except ChannelClosedError:
            self.reopen(deadline)
            raise

    def require_exchange(self, exchange: str, deadline: float) -> None:
        """Make sure, once a connection, that an exchange exists. Raises ChannelClosedError."""
        if exchange not in self.exchanges:
            question = methods.look_for_exchange(exchange)
            self.call(question, methods.EXCHANGE_DECLARE_OK, deadline)
            self.remember_exchange(exchange)

    def remember_exchange(self, exchange: str) -> None:
        """It exists: do not ask for it again."""
        self.exchanges.add(exchange)

    def forget_exchanges(self) -> None:
        """Make sure of every exchange again before it is next used."""
        self.exchanges = {""}

    def round_trip(self, deadline: float) -> None:
        """Ask the broker for an answer that changes nothing."""
        if not self.answers(deadline):
            silent = StalledError("no answer in time")
            self.connection.abandon(ConnectionLostError(str(silent)))
            raise silent

    def answers(self, deadline: float) -> bool:
        """Whether the broker answers within the time, though confirms of messages are missing.

        This tells a queue that is slow or stuck from a peer that is gone. If not, the answer may
        still come, and the connection stays as it is. Raises ConnectionLostError.
        """
        try:
            self.connection.send(methods.RESUME_FLOW, deadline)
            self._asked += 1
            while self._asked:
                self.wait(deadline)
                self.receive()
        except StalledError:
            return False
        except ChannelClosedError as refusal:
            self._refused_late(refusal, deadline)
            return True
        self.late.mark_routed()
        return True

    # -- what is told of earlier messages ----------------------------------------------

    def _attend(self, deadline: float, *, wait: bool) -> None:
        """Notice a refusal of earlier messages before anything else is said.

        It must not be taken for a refusal of what comes next. Without `wait` only what has
        arrived already is noticed.
        """
        if not wait:
            self.look(deadline)
        elif self._unattended or self.late:
            self._unattended = False
            self.round_trip(deadline)
            self._find_state()

    def look(self, deadline: float) -> None:
        """Take in what has arrived of answers to earlier messages, without waiting."""
        if self._unattended or self.late:
            try:
                self.receive()
            except ChannelClosedError as refusal:
                self._refused_late(refusal, deadline)

    def take_late_refusal(self) -> ChannelClosedError | None:
        """How the broker refused messages whose batch did not wait any more; told once."""
        refusal, self._late_refusal = self._late_refusal, None
        return refusal

    def _refused_late(self, refusal: ChannelClosedError, deadline: float) -> None:
        self.recover(deadline)
        self._late_refusal = refusal

    # -- what the connection hands on --------------------------------------------------

    def takes(self, data: bytes) -> bool:
        """Count confirms of the batch that is being written which come one after the other.

        Nearly all do, and each by itself would cost as much as encoding its message.
        """
        confirms = self._writing
        if confirms is None or self.late:
            return False
        behind = next_unconfirmed(data, confirms.first_open)
        if not 0 < behind <= self.published + 1:
            return False
        confirms.confirm(behind)
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
        """The broker has begun, or ended, to take no messages."""
        self._find_state()

    def on_lost(self) -> None:
        """Forget what was held for the connection."""
        self._end_opening()
        self._writing = self._on_return = self._return = None
        self.state = State.CLOSED

    def _on_ack(self, ack: Ack) -> None:
        # Tag 0 is all that is outstanding, which only `multiple` can mean.
        if ack.tag > self.published or not (ack.tag or ack.multiple):
            raise ConnectionLostError("received a confirm of what was never published")
        if self._writing is not None:
            self._writing.answer(ack)
        if self.late:
            self.late.answer(ack)
            self._find_state()
        if not ack.positive:
            self._refusing = True
            self._find_state()

    def _on_method(self, method: Method) -> ChannelClosedError | None:
        if method.index == methods.CHANNEL_CLOSE:
            refusal = ChannelClosedError(*method.reply())
            self._shut = True
            self._find_state()
            return refusal
        if method.index == methods.BASIC_RETURN:
            self._return = method
        elif method.index == methods.CHANNEL_FLOW_OK and self._asked:
            self._asked -= 1
        else:
            self.connection.on_reply(method)
        return None

    def _on_content(self, content: Content) -> None:
        method, self._return = self._return, None
        if method is None:
            raise ConnectionLostError("received content that was not asked for")
        returned = read_return(method, content.message_id)
        if not self.late.take_return(returned) and self._on_return is not None:
            self._on_return(returned)
