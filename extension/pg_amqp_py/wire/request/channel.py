"""The requester's role on a connection: requests, their replies, and who consumes a queue.

RabbitMQ's Direct Reply-to: a channel that consumes from amq.rabbitmq.reply-to publishes messages
with that as their reply_to, and RabbitMQ writes an address in its place by which replies come back
on this channel alone. There is no queue to be declared, and what comes for a channel that is gone
is dropped.
"""

from __future__ import annotations

from pg_amqp_py.wire import methods
from pg_amqp_py.wire.consume import methods as consuming
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError
from pg_amqp_py.wire.handshake import connect
from pg_amqp_py.wire.methods import Method
from pg_amqp_py.wire.request.reader import ReplyReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pg_amqp_py.wire.address import Address
    from pg_amqp_py.wire.connection import Connection
    from pg_amqp_py.wire.consume.delivery import Delivery
    from pg_amqp_py.wire.frames import Frame
    from pg_amqp_py.wire.request.requests import Requests
    from pg_amqp_py.wire.table import JSON

_TAG = "replies"


def connect_requester(
    address: Address, client: dict[str, JSON], timeout: float, on_wait: Callable[[], None]
) -> RequestingChannel:
    """Open a connection to send requests on: see handshake.connect()."""
    return connect(RequestingChannel, address, client, timeout, on_wait)


class RequestingChannel:
    """The channel of a connection that gets replies. Raises what its connection raises."""

    capabilities = ("authentication_failure_close", "connection.blocked")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._reader = ReplyReader(self._on_reply, self._on_return)
        self._requests: Requests | None = None
        """Those that are waited for."""
        self._unsettled = False
        """Whether the broker may still refuse what nobody waits for any more."""
        self._shut = False
        connection.cut_by(self._reader)

    # -- opening it --------------------------------------------------------------------

    def open(self, deadline: float) -> None:
        """Open the channel, and have replies delivered to it."""
        connection = self.connection
        connection.send(methods.OPEN_CHANNEL, deadline)
        connection.expect(methods.CHANNEL_OPEN_OK, deadline)
        self._reader.begin(_TAG, 0)
        connection.send(consuming.consume_replies(_TAG), deadline)
        connection.expect(consuming.BASIC_CONSUME_OK, deadline)
        self._shut = self._unsettled = False

    def _reopen(self, deadline: float) -> None:
        self.connection.forget_replies()
        self.connection.send(methods.CONFIRM_CLOSED_CHANNEL, deadline)
        self.open(deadline)

    # -- questions ---------------------------------------------------------------------

    def make_ready(self, deadline: float) -> None:
        """Take in what the broker has said since, so that nothing of it is taken for an answer."""
        connection = self.connection
        try:
            data = connection.read(0)
            if data:
                connection.put_back(data)
                connection.receive()
            if self._unsettled:
                # What it says of earlier requests it says before it answers this.
                connection.send(methods.RESUME_FLOW, deadline)
                connection.expect(methods.CHANNEL_FLOW_OK, deadline)
                self._unsettled = False
        except ChannelClosedError:
            # Of requests that were given up.
            pass
        if self._shut:
            self._reopen(deadline)

    def consumers(self, queue: str, deadline: float) -> int:
        """How many consume a queue. Raises ChannelClosedError if there is none, or it is secret."""
        self.connection.send(consuming.look_for_queue(queue), deadline)
        try:
            answer = self.connection.expect(consuming.QUEUE_DECLARE_OK, deadline)
        except ChannelClosedError:
            self._reopen(deadline)
            raise
        _, at = answer.text(0)
        _, consumers = answer.unpack(">II", at)
        return int(consumers)

    def ask(self, requests: Requests, deadline: float) -> None:
        """Write requests, and take their replies until all are there or one request came back.

        They are written and answered at the same time: a broker that cannot deliver stops reading.
        Raises ChannelClosedError for a request that the broker refuses, StalledError at the
        deadline; the requests know what became of them by then.
        """
        self._requests, self._unsettled = requests, True
        connection = self.connection
        try:
            while True:
                if requests.unwritten:
                    requests.write_some(connection.send_some)
                connection.wait(deadline, sending=requests.unwritten)
                connection.receive()
                if requests.over:
                    break
            # What was answered is not refused.
            self._unsettled = requests.returned is not None
        finally:
            self._requests = None

    # -- what the connection hands on --------------------------------------------------

    def _on_reply(self, delivery: Delivery) -> None:
        if self._requests is not None:
            self._requests.take(delivery)

    def _on_return(self, cause: str) -> None:
        if self._requests is not None:
            self._requests.returned = cause

    def takes(self, data: bytes) -> bool:
        """Leave all to the reader."""
        return False

    def on_frame(self, frame: Frame) -> ChannelClosedError | None:
        """Take in what is no message; the refusal with which the broker has closed the channel."""
        if not isinstance(frame, Method):
            if frame is not None:
                raise ConnectionLostError("received a confirm of what was never published")
        elif frame.index == methods.CHANNEL_CLOSE:
            self._shut, self._unsettled = True, False
            self._reader.forget()
            return ChannelClosedError(*frame.reply())
        else:
            self.connection.on_reply(frame)
        return None

    def on_blocked(self) -> None:
        """A broker that takes no requests delivers replies as ever: see Connection.blocked."""

    def on_lost(self) -> None:
        """Forget what was held for the connection."""
        self._reader.forget()
