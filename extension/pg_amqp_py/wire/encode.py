"""From a message to the bytes of its frames, and back: pure functions, no socket.

A message is a Basic.Publish method frame, a content header frame and body frames (AMQP 0-9-1,
sections 2.3.5 and 4.2.6). Only the body size and the body differ between most messages of
a stream, so the rest is encoded once for each distinct envelope and kept:

    prefix   the method frame, and the header frame up to the body size
    suffix   the header frame from the property flags on
"""

from __future__ import annotations

import struct

from pg_amqp_py.wire.errors import TooLargeError
from pg_amqp_py.wire.fields import (
    EXCHANGE,
    MANDATORY,
    MESSAGE_ID,
    PLACE,
    ROUTING_KEY,
    with_field,
)
from pg_amqp_py.wire.methods import (
    BASIC_CLASS,
    BASIC_PUBLISH,
    BODY_FRAME,
    CHANNEL,
    FRAME_END,
    FRAME_MAX,
    HEADER_FRAME,
    frame,
)
from pg_amqp_py.wire.properties import decode_properties, encode_properties, short_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol, Self

    from pg_amqp_py.wire.message import Message

    class Stream(Protocol):
        """What frames are appended to: a bytearray, or memory.Arena."""

        def __len__(self) -> int: ...
        def __iadd__(self, data: bytes | memoryview, /) -> Self: ...
        def __delitem__(self, behind: slice, /) -> None: ...


_FRAME_OVERHEAD = 8
_BODY_START = struct.pack(">BH", BODY_FRAME, CHANNEL)
_KEPT_ENVELOPES = 256
_LARGEST_KEPT = 1024

_pack_header: Callable[..., bytes] = struct.Struct(">BHIHH").pack
_pack_size: Callable[[int], bytes] = struct.Struct(">Q").pack
_pack_length: Callable[[int], bytes] = struct.Struct(">I").pack


def encode_envelope(fields: tuple[Any, ...], frame_max: int = FRAME_MAX) -> tuple[bytes, bytes]:
    """The constant bytes of a message: what comes before and after its body size.

    `fields` is an Envelope, or a plain tuple of the same. Raises MessageError (TooLongError,
    TooLargeError, RangeError) naming the field.
    """
    method = _encode_method(fields[EXCHANGE], fields[ROUTING_KEY], fields[MANDATORY])
    return _encode_envelope(method, fields, frame_max)


def _encode_method(exchange: str, routing_key: str, mandatory: bool) -> bytes:
    """The frame of Basic.Publish."""
    method = b"\0\0%b%b%b" % (
        short_string("exchange", exchange),
        short_string("routing_key", routing_key),
        b"\1" if mandatory else b"\0",
    )
    return frame(CHANNEL, BASIC_PUBLISH, method)


def _encode_envelope(method: bytes, fields: tuple[Any, ...], frame_max: int) -> tuple[bytes, bytes]:
    properties = encode_properties(fields)
    size = 12 + len(properties)
    if size + _FRAME_OVERHEAD > frame_max:
        # A content header cannot be divided between frames.
        whole = size + _FRAME_OVERHEAD
        raise TooLargeError("headers", f"{whole} bytes as a frame; the limit is {frame_max}")
    return (
        method + _pack_header(HEADER_FRAME, CHANNEL, size, BASIC_CLASS, 0),
        properties + FRAME_END,
    )


class Encoder:
    """Encodes messages for one largest frame size, remembering the envelopes it has seen.

    The memory is bounded: large envelopes are not kept, and it is emptied at 256. So are the
    method frames, because the properties may differ for every message.
    """

    def __init__(self, frame_max: int = FRAME_MAX) -> None:
        self.frame_max = frame_max
        self._step = frame_max - _FRAME_OVERHEAD
        self._envelopes: dict[tuple[object, ...], tuple[bytes, bytes]] = {}
        self._methods: dict[tuple[Any, ...], bytes] = {}

    def append(self, stream: Stream, fields: tuple[object, ...], body: bytes) -> None:
        """Append the frames of a message to `stream`.

        `fields` is a plain tuple rather than an Envelope: making one for every message would
        cost as much as encoding it. Raises MessageError, having appended nothing.
        """
        kept = self._envelopes.get(fields)
        if kept is None:
            kept = self._remember(fields)
        size = len(body)
        if 0 < size <= self._step:
            stream += b"".join(
                (kept[0], _pack_size(size), kept[1], _BODY_START, _pack_length(size), body, b"\xce")
            )
            return
        _append_large(stream, kept, body, self._step)

    def _remember(self, fields: tuple[Any, ...]) -> tuple[bytes, bytes]:
        address = (*fields[PLACE], fields[MANDATORY])
        method = self._methods.get(address)
        if method is None:
            if len(self._methods) >= _KEPT_ENVELOPES:
                self._methods.clear()
            method = self._methods[address] = _encode_method(*address)
        encoded = _encode_envelope(method, fields, self.frame_max)
        if len(encoded[1]) <= _LARGEST_KEPT:
            if len(self._envelopes) >= _KEPT_ENVELOPES:
                self._envelopes.clear()
            self._envelopes[fields] = encoded
        return encoded


def _append_large(stream: Stream, kept: tuple[bytes, bytes], body: bytes, step: int) -> None:
    """Append a message whose body takes several frames, of `step` bytes each, or none."""
    start = len(stream)
    whole = memoryview(body)
    try:
        stream += b"%b%b%b" % (kept[0], _pack_size(len(body)), kept[1])
        for at in range(0, len(body), step):
            part = whole[at : at + step]
            stream += _BODY_START
            stream += _pack_length(len(part))
            stream += part
            stream += FRAME_END
    except BaseException:
        # Out of memory in the middle of a large message: half of one must not stay behind.
        del stream[start:]
        raise


class Series:
    """Encodes messages that differ in their body, and in an id of one length, alone."""

    def __init__(
        self, fields: tuple[Any, ...], any_id: str, frame_max: int, position: int = MESSAGE_ID
    ) -> None:
        """`position` is that of the id in FIELDS. Raises MessageError."""
        self._prefix, suffix = encode_envelope(with_field(fields, position, any_id), frame_max)
        other = chr(ord(any_id[0]) ^ 1) + any_id[1:]
        _, same = encode_envelope(with_field(fields, position, other), frame_max)
        at = next(at for at, (one, two) in enumerate(zip(suffix, same, strict=True)) if one != two)
        self._before, self._behind = suffix[:at], suffix[at + len(any_id) :]
        self._step = frame_max - _FRAME_OVERHEAD

    def append(self, stream: bytearray, its_id: str, body: bytes) -> None:
        """Append the frames of a message to `stream`."""
        size = len(body)
        if 0 < size <= self._step:
            stream += b"%b%b%b%b%b%b%b%b\xce" % (
                self._prefix,
                _pack_size(size),
                self._before,
                its_id.encode(),
                self._behind,
                _BODY_START,
                _pack_length(size),
                body,
            )
        else:
            suffix = self._before + its_id.encode() + self._behind
            _append_large(stream, (self._prefix, suffix), body, self._step)


def place_of(message: memoryview) -> tuple[str, str]:
    """Exchange and routing key of an encoded message: for commit, where nothing may be loaded."""
    method, _ = _payload(message, 0)
    exchange, routing_key, _ = _decode_method(method)
    return exchange, routing_key


def decode_messages(stream: bytes | bytearray | memoryview) -> Iterator[Message]:
    """The messages in a stream of frames that `Encoder` wrote, in order."""
    from pg_amqp_py.wire.message import Envelope, Message

    at = 0
    while at < len(stream):
        method, at = _payload(stream, at)
        exchange, routing_key, mandatory = _decode_method(method)
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
            Envelope(exchange, routing_key, mandatory=mandatory, **properties),
            bytes(body),
        )


def _decode_method(method: bytes) -> tuple[str, str, bool]:
    """Exchange, routing key and mandatory of Basic.Publish, as `_encode_method` encoded it."""
    behind = 7 + method[6]
    end = behind + 1 + method[behind]
    routing_key = method[behind + 1 : end].decode()
    return method[7:behind].decode(), routing_key, bool(method[end] & 1)


def _payload(stream: bytes | bytearray | memoryview, at: int) -> tuple[bytes, int]:
    """The payload of the frame at offset `at`, and the offset behind the frame."""
    start = at + _FRAME_OVERHEAD - 1
    end = start + int.from_bytes(stream[at + 3 : start], "big")
    return bytes(stream[start:end]), end + 1
