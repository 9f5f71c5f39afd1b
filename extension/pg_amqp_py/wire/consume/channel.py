"""The consumer's role on a connection: deliveries, their acknowledgement, and questions."""

from __future__ import annotations

from pg_amqp_py.wire import methods
from pg_amqp_py.wire.consume import methods as own
from pg_amqp_py.wire.consume.arguments import encode_arguments
from pg_amqp_py.wire.consume.reader import DeliveryReader
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError
from pg_amqp_py.wire.handshake import connect
from pg_amqp_py.wire.methods import Method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pg_amqp_py.wire.address import Address
    from pg_amqp_py.wire.connection import Connection
    from pg_amqp_py.wire.consume.arguments import Timestamp
    from pg_amqp_py.wire.consume.delivery import Delivery
    from pg_amqp_py.wire.frames import Frame
    from pg_amqp_py.wire.table import JSON


def connect_consumer(
    address: Address,
    client: dict[str, JSON],
    timeout: float,
    on_wait: Callable[[], None],
    *,
    heartbeat: int = 0,
) -> ConsumingChannel:
    """Open a connection to consume on: see handshake.connect()."""
    return connect(ConsumingChannel, address, client, timeout, on_wait, heartbeat=heartbeat)


class ConsumingChannel:
    """The channel of a connection with at most one consumer. Raises what its connection raises.

    Its user waits, receives with the connection, and takes what has come. The broker goes on
    sending as far as the prefetch allows, so whoever holds enough stops receiving.
    """

    capabilities = ("authentication_failure_close", "consumer_cancel_notify")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.consuming = False
        """Whether deliveries may come."""
        self.cancelled = False
        """Whether the broker has ended the last consumer: its queue was deleted, or failed over."""
        self.ready: int | None = None
        """Messages that were ready in the queue that ask_count() has last asked for."""
        self.answers = 0
        """How many answers to ask_count() have come."""
        self._asked = 0
        """How many are missing."""
        self._reader = DeliveryReader()
        self._tag = ""
        self._consumers = 0
        self._shut = False
        connection.cut_by(self._reader)

    # -- opening it --------------------------------------------------------------------

    def open(self, deadline: float) -> None:
        """Open the channel."""
        self.connection.send(methods.OPEN_CHANNEL, deadline)
        self.connection.expect(methods.CHANNEL_OPEN_OK, deadline)
        self._shut = False

    def reopen(self, deadline: float) -> None:
        """Open the channel again after a ChannelClosedError; there is no consumer then."""
        if self._shut:
            self.connection.send(methods.CONFIRM_CLOSED_CHANNEL, deadline)
            self.open(deadline)

    # -- deliveries --------------------------------------------------------------------

    def consume(
        self,
        queue: str,
        prefetch: int,
        arguments: Mapping[str, JSON | Timestamp],
        deadline: float,
    ) -> None:
        """Have the messages of a queue delivered, `prefetch` at most before they are acknowledged.

        A stream begins at argument x-stream-offset: first, last, next, a number or a Timestamp.
        Raises ChannelClosedError if the broker refuses; the channel is open again then.
        """
        self._consumers += 1
        tag = f"pg-amqp-{self._consumers}"
        request = own.consume(queue, tag, encode_arguments(arguments))
        self._ask(own.limit_unacknowledged(prefetch), own.BASIC_QOS_OK, deadline)
        self._tag = tag
        self._reader.begin(tag, prefetch)
        self.cancelled, self.consuming = False, True
        self._ask(request, own.BASIC_CONSUME_OK, deadline)

    def wait(self, deadline: float) -> None:
        """Connection.wait(), but not where something can be taken: it may come with an answer."""
        if not self._reader.deliveries:
            self.connection.wait(deadline)

    def take(self) -> list[Delivery]:
        """Whole messages that have come since the last call."""
        return self._reader.take()

    @property
    def pending_bytes(self) -> int:
        """Bytes of what has come and was not taken yet, in frames."""
        return self._reader.size

    def ack(self, tag: int, deadline: float) -> None:
        """Acknowledge a delivery and all before it.

        Nothing is said of what came before the channel was closed: it is delivered again.
        """
        if not self.connection.usable:
            self.connection.receive()
        acknowledged = self._reader.acknowledge(tag)
        if acknowledged:
            self.connection.send(own.acknowledge(acknowledged), deadline)

    def cancel(self, deadline: float) -> None:
        """End the consumer, if there is one; what has come can still be taken and acknowledged."""
        if self.consuming:
            self._ask(own.cancel(self._tag), own.BASIC_CANCEL_OK, deadline)
            self._end()

    def _end(self) -> None:
        self._reader.end()
        self.consuming = False

    # -- questions ---------------------------------------------------------------------

    def ask_count(self, queue: str, deadline: float) -> None:
        """Ask how many messages of a queue are ready: see `ready`, when `answers` has grown.

        The answer is not awaited, as it comes behind all deliveries that are on their way. If the
        broker refuses, receive() raises ChannelClosedError, and there is no consumer any more.
        """
        self.reopen(deadline)
        self.connection.send(own.look_for_queue(queue), deadline)
        self._asked += 1

    def _ask(self, request: bytes, reply: int, deadline: float) -> Method:
        self.reopen(deadline)
        try:
            self.connection.send(request, deadline)
            return self.connection.expect(reply, deadline)
        except ChannelClosedError:
            self.reopen(deadline)
            raise

    # -- what the connection hands on --------------------------------------------------

    def takes(self, data: bytes) -> bool:
        """Leave all to the reader."""
        return False

    def on_frame(self, frame: Frame) -> ChannelClosedError | None:
        """Take in what is no delivery; the refusal with which the broker has closed the channel."""
        if not isinstance(frame, Method):
            if frame is not None:
                raise ConnectionLostError("received a confirm of what was never published")
        elif frame.index == methods.CHANNEL_CLOSE:
            self._shut = True
            self._forget()
            return ChannelClosedError(*frame.reply())
        elif frame.index == own.QUEUE_DECLARE_OK and self._asked:
            _, at = frame.text(0)
            (self.ready,) = frame.unpack(">I", at)
            self._asked -= 1
            self.answers += 1
        elif frame.index == own.BASIC_CANCEL:
            if frame.text(0)[0] != self._tag:
                raise ConnectionLostError("received a cancel for a consumer that there is not")
            self._end()
            self.cancelled = True
        else:
            self.connection.on_reply(frame)
        return None

    def on_blocked(self) -> None:
        """A broker that takes no messages delivers them as ever."""

    def on_lost(self) -> None:
        """Forget what was held for the connection: the broker delivers it again."""
        self._forget()

    def _forget(self) -> None:
        self._reader.forget()
        self._asked = 0
        self.consuming = False
