"""From received bytes to frames: no socket, no waiting.

Operations: feed bytes, take frames. Goals: never trust a length before it is checked, and cost
little for acknowledgements, which are nearly all that a publisher receives.
"""

from __future__ import annotations

import struct

from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.methods import (
    BASIC_ACK,
    BASIC_NACK,
    BODY_FRAME,
    CHANNEL,
    CLASSES,
    FRAME_END,
    FRAME_MAX,
    HEADER_FRAME,
    HEARTBEAT_FRAME,
    METHOD_FRAME,
    Method,
)
from pg_amqp_py.wire.properties import decode_properties

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_header = struct.Struct(">BHI").unpack_from
_index = struct.Struct(">I").unpack_from
_acknowledgement = struct.Struct(">QB").unpack_from
_SMALLEST_LIMIT = 4096
"""What both sides must always accept (AMQP 0-9-1, section 4.2.3: frame-min-size)."""
ANY = -1
"""For next_unconfirmed(): any delivery tag may be the first."""
_PROPERTIES = 7 + 12
"""Where in a header frame the property flags are (AMQP 0-9-1, section 4.2.6.1)."""
_ACK = struct.pack(">BHII", METHOD_FRAME, CHANNEL, 13, BASIC_ACK)
_whole_acks = struct.Struct(">11sQBc").iter_unpack
_ACK_SIZE = struct.calcsize(">11sQBc")
_ANSWERS = {BASIC_ACK: True, BASIC_NACK: False}


class Ack:
    """Basic.Ack or Basic.Nack (RabbitMQ's publisher confirms)."""

    __slots__ = ("multiple", "positive", "tag")

    def __init__(self, positive: bool, tag: int, multiple: bool) -> None:
        self.positive = positive
        self.tag = tag
        self.multiple = multiple


def next_unconfirmed(data: bytes, tag: int) -> int:
    """The first delivery tag from `tag` on (ANY: from any on) that `data` does not confirm.

    Returns 0 if that is anything but whole frames of Basic.Ack which confirm one message after the
    other. This is what a publisher nearly always receives, and a FrameReader would cost it more
    than all the rest of a small transaction.
    """
    if len(data) % _ACK_SIZE:
        return 0
    for start, confirmed, bits, end in _whole_acks(data):
        if start != _ACK or end != FRAME_END:
            return 0
        if confirmed == tag or (bits & 1 and confirmed > tag) or (tag == ANY and confirmed):
            tag = confirmed + 1
        else:
            return 0
    return tag


class Content:
    """The header of a message that the broker hands back: of all properties, its message-id."""

    __slots__ = ("message_id",)

    def __init__(self, message_id: str | None) -> None:
        self.message_id = message_id


Frame = Method | Ack | Content | None
"""What a frame holds; for bodies and heartbeats, which a publisher has no use for, None."""


class FrameReader:
    """Cuts a received stream into frames, none larger than was agreed upon."""

    def __init__(self, frame_max: int = FRAME_MAX) -> None:
        self.partial = bytearray()
        """What has been received and does not make a whole frame yet; always the same object."""
        self._limit = frame_max

    def limit(self, frame_max: int) -> None:
        """From now on the largest frame may have so many bytes, its header and end included."""
        self._limit = max(frame_max, _SMALLEST_LIMIT)

    def feed(self, data: bytes) -> Iterator[tuple[int, Frame]]:
        """The frames that `data` completes, each with its channel.

        Raises ConnectionLostError if the stream is no sequence of AMQP frames.
        """
        received = self.partial
        received += data
        at, end = 0, len(received)
        try:
            while end - at >= 8:
                kind, channel, size = _header(received, at)
                if size + 8 > self._limit:
                    raise ConnectionLostError(f"received a frame of {size} bytes")
                after = at + size + 8
                if after > end:
                    break
                if received[after - 1 : after] != FRAME_END:
                    raise ConnectionLostError("received bytes that are no AMQP frame")
                raw = bytes(received[at:after])
                at = after
                yield channel, decode_frame(kind, raw)
        finally:
            del received[:at]


def decode_frame(kind: int, raw: bytes) -> Frame:
    """What a whole frame holds. Raises ConnectionLostError if that is no AMQP."""
    if kind in (BODY_FRAME, HEARTBEAT_FRAME):
        return None
    try:
        if kind == HEADER_FRAME:
            return Content(_message_id(raw))
        if kind == METHOD_FRAME:
            (index,) = _index(raw, 7)
            if index in _ANSWERS:
                tag, bits = _acknowledgement(raw, 11)
                return Ack(_ANSWERS[index], tag, bool(bits & 1))
            if index >> 16 in CLASSES:
                return Method(index, raw[11:-1])
    except struct.error:
        pass
    raise ConnectionLostError("received a frame that is no AMQP 0-9-1")


def _message_id(raw: bytes) -> str | None:
    try:
        return decode_properties(raw, _PROPERTIES).get("message_id")
    except Exception:
        # A header table may hold types that nothing here ever sends.
        return None
