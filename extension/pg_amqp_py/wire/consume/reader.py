"""From received bytes to deliveries: no socket, no waiting.

Nearly all that a consumer receives are messages of three frames (Basic.Deliver, content header,
body) which have arrived whole. They are told apart in one loop, which leaves alone whatever is
otherwise in any way. What it leaves, frame by frame: large bodies, ends of what was received, and
what a broker must not send. Nothing is believed of a length before that many bytes are there.
"""

from __future__ import annotations

import struct

from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.consume.methods import BASIC_DELIVER
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.frames import FrameReader, decode_frame
from pg_amqp_py.wire.methods import (
    BASIC_CLASS,
    BODY_FRAME,
    CHANNEL,
    HEADER_FRAME,
    METHOD_FRAME,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pg_amqp_py.wire.frames import Frame

_LARGEST_BODY = 1 << 29
"""Bytes; no RabbitMQ can be configured to take larger ones."""
_CHUNK = 1 << 16
"""Messages by which RabbitMQ may exceed a stream's prefetch: it sends what it stores together."""
_ANY = 1 << 64

_END = 0xCE
_START = 7
"""Bytes of a frame before its payload."""
_CONTENT = 12
"""Bytes of a content header before the property flags."""
_frame = struct.Struct(">BHI").unpack_from
_index = struct.Struct(">I").unpack_from
_content = struct.Struct(">HHQ").unpack_from
_header_frame = struct.Struct(">3sIHHQ").unpack_from
_body_frame = struct.Struct(">3sI").unpack_from
_METHOD, _HEADER, _BODY = (
    struct.pack(">BH", kind, CHANNEL) for kind in (METHOD_FRAME, HEADER_FRAME, BODY_FRAME)
)
_new = tuple.__new__


class DeliveryReader(FrameReader):
    """Cuts a received stream into deliveries, which it keeps, and all other frames.

    Raises ConnectionLostError for what no broker may send, such as more than was agreed upon.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deliveries: list[Delivery] = []
        """Whole messages, not taken yet."""
        self.last = 0
        """Tag of the last whole message."""
        self._size = 0
        """Bytes of the frames of `deliveries`."""
        self._base = 0
        """Tag of the last message before the channel was opened."""
        self._acknowledged = 0
        """Tag of the last acknowledged message."""
        self._allowed = 0
        """The highest tag that the broker may use now, as it counts them."""
        self._prefetch = 0
        self._start: bytes | None = None
        """How the methods begin that deliver something to the consumer there is."""
        self._unpack = struct.Struct("").unpack_from
        self._key = 0
        """Where in such a frame the exchange is."""
        # The message that is being received.
        self._envelope: tuple[int, bool, bytes, bytes] | None = None
        self._properties: bytes | None = None
        self._body = bytearray()
        self._missing = 0
        self._unfinished = 0

    # -- what the role says ------------------------------------------------------------

    def begin(self, consumer_tag: str, prefetch: int) -> None:
        """Accept deliveries to this consumer, from now on."""
        tag = consumer_tag.encode()
        self._start = struct.pack(">IB", BASIC_DELIVER, len(tag)) + tag
        layout = struct.Struct(f">3sI{len(self._start)}sQBB")
        self._unpack, self._key = layout.unpack_from, layout.size
        self._prefetch = prefetch + _CHUNK if prefetch else _ANY
        self._allowed = self.last - self._base + self._prefetch

    def end(self) -> None:
        """Accept no deliveries any more; those that are there stay."""
        self._start = None

    def acknowledge(self, tag: int) -> int:
        """Let the broker go on behind this delivery; its tag as the broker counts.

        0 if it was acknowledged before, or its channel is closed by now.
        """
        if tag <= self._acknowledged:
            return 0
        self._acknowledged = tag
        self._allowed = max(self._allowed, tag - self._base + self._prefetch)
        return tag - self._base

    def take(self) -> list[Delivery]:
        """Whole messages that have come since the last call."""
        taken, self.deliveries, self._size = self.deliveries, [], 0
        return taken

    def forget(self) -> None:
        """The channel is closed: the broker will deliver again what is not acknowledged."""
        self.end()
        self.take()
        self._drop_unfinished()
        self._base = self._acknowledged = self.last

    @property
    def size(self) -> int:
        """Bytes of what has come and was not taken, that of unfinished messages included."""
        return self._size + self._unfinished

    # -- the stream --------------------------------------------------------------------

    def feed(self, data: bytes) -> Iterator[tuple[int, Frame]]:
        """The frames that `data` completes, each with its channel, but for deliveries."""
        partial = self.partial
        if partial:
            partial += data
            if not self._begins_whole(partial):
                return
            data = bytes(partial)
            partial.clear()
        at, end = 0, len(data)
        try:
            while True:
                if self._envelope is None:
                    at = self._take_whole(data, at)
                if end - at < 8:
                    return
                kind, number, size = _frame(data, at)
                after = at + self._checked(size)
                if after > end:
                    return
                if data[after - 1] != _END:
                    raise ConnectionLostError("received bytes that are no AMQP frame")
                begin, at = at, after
                if number != CHANNEL or not self._takes(kind, data, begin, after):
                    if kind == BODY_FRAME:
                        raise ConnectionLostError("received content that was not asked for")
                    yield number, decode_frame(kind, data[begin:after])
        finally:
            partial += data[at:]

    def _checked(self, size: int) -> int:
        """Bytes of a frame whose payload has so many."""
        if size + 8 > self._limit:
            raise ConnectionLostError(f"received a frame of {size} bytes")
        return size + 8

    def _begins_whole(self, received: bytearray) -> bool:
        """Whether the first frame is complete, so that one that trickles in is not copied often."""
        if len(received) < 8:
            return False
        _, _, size = _frame(received, 0)
        return len(received) >= self._checked(size)

    def _take_whole(self, data: bytes, at: int) -> int:
        """Take all whole messages of at most one body frame from offset `at` on.

        Returns the offset of what is no such message.
        """
        start = self._start
        if start is None:
            return at
        keep, base, begin = self.deliveries.append, self._base, at
        unpack, to_exchange, largest = self._unpack, self._key, self._limit - 8
        due = self.last - base + 1
        try:
            while True:
                kind, size, method, tag, bits, length = unpack(data, at)
                exchange = at + to_exchange
                key = exchange + length + 1
                end = at + 7 + size
                if (
                    kind != _METHOD
                    or method != start
                    or tag != due
                    or due > self._allowed
                    or key + data[key - 1] != end
                    or data[end] != _END
                ):
                    break
                kind, size, content_class, _, body_size = _header_frame(data, end + 1)
                properties = end + 20
                header_end = end + 8 + size
                if (
                    kind != _HEADER
                    or content_class != BASIC_CLASS
                    or not 14 <= size <= largest
                    or data[header_end] != _END
                ):
                    break
                after = header_end + 1
                body = b""
                if body_size:
                    kind, size = _body_frame(data, after)
                    after += 8 + size
                    if (
                        kind != _BODY
                        or size != body_size
                        or size > largest
                        or data[after - 1] != _END
                    ):
                        break
                    body = data[header_end + 8 : after - 1]
                keep(
                    _new(
                        Delivery,
                        (
                            tag + base,
                            bits & 1 == 1,
                            data[exchange : key - 1],
                            data[key:end],
                            data[properties:header_end],
                            body,
                        ),
                    )
                )
                due += 1
                at = after
        except (struct.error, IndexError):
            # The rest has not arrived yet.
            pass
        self.last = due - 1 + base
        self._size += at - begin
        return at

    # -- frame by frame ----------------------------------------------------------------

    def _takes(self, kind: int, data: bytes, at: int, after: int) -> bool:
        """Take the frame from `at` to `after`, if it is part of a delivery."""
        if kind == METHOD_FRAME:
            if self._envelope is not None:
                raise ConnectionLostError("received a method where content was due")
            if data[at + _START : at + _START + 4] != BASIC_DELIVER.to_bytes(4):
                return False
            self._envelope = self._read_envelope(data[at + _START : after - 1])
        elif kind == HEADER_FRAME:
            if self._envelope is None or self._properties is not None:
                raise ConnectionLostError("received content that was not asked for")
            self._begin_content(data[at + _START : after - 1])
        elif kind == BODY_FRAME:
            size = after - at - 8
            if self._properties is None or size > self._missing:
                raise ConnectionLostError("received content that was not asked for")
            self._body += memoryview(data)[at + _START : after - 1]
            self._missing -= size
        else:
            return False
        self._unfinished += after - at
        if self._properties is not None and not self._missing:
            self._finish(self._properties)
        return True

    def _read_envelope(self, method: bytes) -> tuple[int, bool, bytes, bytes]:
        start = self._start
        if start is None or not method.startswith(start):
            raise ConnectionLostError("received a delivery for a consumer that there is not")
        try:
            tag, bits, length = struct.unpack_from(">QBB", method, len(start))
            exchange = len(start) + 10
            key = exchange + length + 1
            end = key + method[key - 1]
        except (struct.error, IndexError):
            end = -1
        if end != len(method):
            raise ConnectionLostError("received a method that is cut short")
        if tag != self.last - self._base + 1:
            raise ConnectionLostError("received a delivery out of turn")
        if tag > self._allowed:
            raise ConnectionLostError("received more deliveries than were asked for")
        return tag + self._base, bits & 1 == 1, method[exchange : key - 1], method[key:end]

    def _begin_content(self, header: bytes) -> None:
        if len(header) < _CONTENT + 2:
            raise ConnectionLostError("received a content header that is cut short")
        content_class, _, size = _content(header)
        if content_class != BASIC_CLASS:
            raise ConnectionLostError(f"received content of class {content_class}")
        if size > _LARGEST_BODY:
            raise ConnectionLostError(f"received a message of {size} bytes")
        self._properties = header[_CONTENT:]
        self._missing = size

    def _finish(self, properties: bytes) -> None:
        if self._envelope is None:
            return
        self.deliveries.append(Delivery(*self._envelope, properties, bytes(self._body)))
        self.last = self._envelope[0]
        self._size += self._unfinished
        self._drop_unfinished()

    def _drop_unfinished(self) -> None:
        self._envelope = self._properties = None
        self._body = bytearray()
        self._missing = self._unfinished = 0
