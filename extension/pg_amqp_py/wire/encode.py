"""From a message to the bytes of its frames, and back: pure functions, no socket.

A message is a Basic.Publish method frame, a content header frame and body frames (AMQP 0-9-1,
sections 2.3.5 and 4.2.6). Only the body size and the body differ between most messages of
a stream, so the rest is encoded once for each distinct envelope and kept:

    prefix   the method frame, and the header frame up to the body size
    suffix   the header frame from the property flags on
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from pg_amqp_py.wire.codec import spec
from pg_amqp_py.wire.errors import TooLargeError
from pg_amqp_py.wire.message import Envelope, Message
from pg_amqp_py.wire.properties import decode_properties, encode_properties, short_string

CHANNEL = 1
"""The one channel of a connection."""
FRAME_MAX = 131072
"""Bytes of the largest frame, its header and end octet included: RabbitMQ's own default."""

_FRAME_OVERHEAD = 8
_FRAME_END = b"\xce"
_BODY_FRAME = struct.pack(">BH", spec.FRAME_BODY, CHANNEL)
_KEPT_ENVELOPES = 256
_LARGEST_KEPT = 1024

_pack_size: Callable[[int], bytes] = struct.Struct(">Q").pack
_pack_length: Callable[[int], bytes] = struct.Struct(">I").pack


def encode_envelope(envelope: Envelope, frame_max: int = FRAME_MAX) -> tuple[bytes, bytes]:
    """The constant bytes of a message: what comes before and after its body size.

    Raises MessageError (TooLongError, TooLargeError, RangeError) naming the field.
    """
    method = b"%b\0\0%b%b%b" % (
        _pack_length(spec.Basic.Publish.INDEX),
        short_string("exchange", envelope.exchange),
        short_string("routing_key", envelope.routing_key),
        b"\1" if envelope.mandatory else b"\0",
    )
    properties = encode_properties(envelope)
    header_size = 12 + len(properties)
    if header_size + _FRAME_OVERHEAD > frame_max:
        # A content header cannot be divided between frames.
        size = header_size + _FRAME_OVERHEAD
        raise TooLargeError("headers", f"{size} bytes as a frame; the limit is {frame_max}")
    prefix = b"%b%b%b%b" % (
        struct.pack(">BHI", spec.FRAME_METHOD, CHANNEL, len(method)),
        method,
        _FRAME_END,
        struct.pack(
            ">BHIHH", spec.FRAME_HEADER, CHANNEL, header_size, spec.BasicProperties.INDEX, 0
        ),
    )
    return prefix, properties + _FRAME_END


class Encoder:
    """Encodes messages for one largest frame size, remembering the envelopes it has seen.

    The memory is bounded: large envelopes are not kept, and it is emptied at 256.
    """

    def __init__(self, frame_max: int = FRAME_MAX) -> None:
        self.frame_max = frame_max
        self._envelopes: dict[tuple[object, ...], tuple[bytes, bytes]] = {}

    def append(self, stream: bytearray, fields: tuple[object, ...], body: bytes) -> None:
        """Append the frames of a message to `stream`.

        `fields` is an Envelope as a plain tuple: making an Envelope for every message would
        cost as much as encoding one. Raises MessageError, having appended nothing.
        """
        kept = self._envelopes.get(fields)
        if kept is None:
            envelope = Envelope(*fields)  # type: ignore[arg-type]
            kept = encode_envelope(envelope, self.frame_max)
            if len(kept[1]) <= _LARGEST_KEPT:
                if len(self._envelopes) >= _KEPT_ENVELOPES:
                    self._envelopes.clear()
                self._envelopes[fields] = kept
        size = len(body)
        if 0 < size <= self.frame_max - _FRAME_OVERHEAD:
            stream += b"%b%b%b%b%b%b\xce" % (
                kept[0],
                _pack_size(size),
                kept[1],
                _BODY_FRAME,
                _pack_length(size),
                body,
            )
            return
        start = len(stream)
        step = self.frame_max - _FRAME_OVERHEAD
        whole = memoryview(body)
        try:
            stream += b"%b%b%b" % (kept[0], _pack_size(size), kept[1])
            for at in range(0, size, step):
                part = whole[at : at + step]
                stream += _BODY_FRAME
                stream += _pack_length(len(part))
                stream += part
                stream += _FRAME_END
        except BaseException:
            # Out of memory in the middle of a large message: half of one must not stay behind.
            del stream[start:]
            raise


def decode_messages(stream: bytes | bytearray | memoryview) -> Iterator[Message]:
    """The messages in a stream of frames that `Encoder` wrote, in order."""
    at = 0
    while at < len(stream):
        method, at = _payload(stream, at)
        behind = 7 + method[6]
        exchange = method[7:behind].decode()
        end = behind + 1 + method[behind]
        routing_key = method[behind + 1 : end].decode()
        header, at = _payload(stream, at)
        properties = decode_properties(header, 12)
        body_size = int.from_bytes(header[4:12], "big")
        body = bytearray()
        while len(body) < body_size:
            part, at = _payload(stream, at)
            if not part:
                raise ValueError("the stream ends within a message")
            body += part
        yield Message(
            Envelope(exchange, routing_key, bool(method[end] & 1), **properties), bytes(body)
        )


def _payload(stream: bytes | bytearray | memoryview, at: int) -> tuple[bytes, int]:
    """The payload of the frame at offset `at`, and the offset behind the frame."""
    start = at + _FRAME_OVERHEAD - 1
    end = start + int.from_bytes(stream[at + 3 : start], "big")
    return bytes(stream[start:end]), end + 1
