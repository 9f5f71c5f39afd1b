"""The methods of AMQP that a publisher says and hears, as bytes and back: no socket.

pika encodes all others (wire.pika_methods). It is not asked for these, because every session uses
them, and loading pika with what it imports took a third of a session's first publish() and of its
memory. A test holds every byte against pika's. The numbers are those of AMQP 0-9-1, section 4.2.3
and the class reference; an index is the class in the upper and the method in the lower two bytes.
"""

from __future__ import annotations

import struct

from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.properties import short_string
from pg_amqp_py.wire.table import decode_table, encode_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pg_amqp_py.wire.table import JSON

METHOD_FRAME, HEADER_FRAME, BODY_FRAME, HEARTBEAT_FRAME = 1, 2, 3, 8
FRAME_END = b"\xce"
FRAME_MAX = 131072
"""Bytes of the largest frame, its header and end octet included: RabbitMQ's own default."""
CHANNEL = 1
"""The one channel of a connection."""

CLASSES = {10, 20, 40, 50, 60, 85, 90}
"""connection, channel, exchange, queue, basic, confirm, tx"""

CONNECTION_START = 10 << 16 | 10
CONNECTION_START_OK = 10 << 16 | 11
CONNECTION_TUNE = 10 << 16 | 30
CONNECTION_TUNE_OK = 10 << 16 | 31
CONNECTION_OPEN = 10 << 16 | 40
CONNECTION_OPEN_OK = 10 << 16 | 41
CONNECTION_CLOSE = 10 << 16 | 50
CONNECTION_CLOSE_OK = 10 << 16 | 51
CONNECTION_BLOCKED = 10 << 16 | 60
CONNECTION_UNBLOCKED = 10 << 16 | 61
CHANNEL_OPEN = 20 << 16 | 10
CHANNEL_OPEN_OK = 20 << 16 | 11
CHANNEL_FLOW = 20 << 16 | 20
CHANNEL_FLOW_OK = 20 << 16 | 21
CHANNEL_CLOSE = 20 << 16 | 40
CHANNEL_CLOSE_OK = 20 << 16 | 41
EXCHANGE_DECLARE = 40 << 16 | 10
EXCHANGE_DECLARE_OK = 40 << 16 | 11
BASIC_CLASS = 60
BASIC_PUBLISH = 60 << 16 | 40
BASIC_RETURN = 60 << 16 | 50
BASIC_ACK = 60 << 16 | 80
BASIC_NACK = 60 << 16 | 120
CONFIRM_SELECT = 85 << 16 | 10
CONFIRM_SELECT_OK = 85 << 16 | 11

_GOODBYE = 200


class Method:
    """A method of the broker's. Arguments are decoded where somebody asks for them.

    Then ConnectionLostError is raised for what is cut short.
    """

    __slots__ = ("arguments", "index")

    def __init__(self, index: int, arguments: bytes) -> None:
        self.index = index
        self.arguments = arguments

    def reply(self) -> tuple[int, str]:
        """Code and text: of Connection.Close, Channel.Close and Basic.Return."""
        (code,) = self.unpack(">H", 0)
        return code, self.text(2)[0]

    def text(self, at: int) -> tuple[str, int]:
        """The short string at offset `at`, and the offset behind it.

        The broker cuts its texts to 255 bytes, perhaps within a character.
        """
        (size,) = self.unpack("B", at)
        (text,) = self.unpack(f"{size}s", at + 1)
        return text.decode(errors="replace"), at + 1 + size

    def unpack(self, layout: str, at: int) -> tuple[Any, ...]:
        """What struct makes of the arguments at offset `at`."""
        try:
            return struct.unpack_from(layout, self.arguments, at)
        except struct.error:
            raise ConnectionLostError("received a method that is cut short") from None


def frame(channel: int, index: int, arguments: bytes = b"") -> bytes:
    """The frame of a method."""
    start = struct.pack(">BHII", METHOD_FRAME, channel, 4 + len(arguments), index)
    return start + arguments + FRAME_END


def start_ok(properties: dict[str, JSON], username: str, password: str) -> bytes:
    """The answer to Connection.Start: the login by SASL mechanism PLAIN.

    What a database held that is no UTF-8 goes out as the bytes that it was.
    """
    # Not strictly: that error would hold the password.
    login = f"\0{username}\0{password}".encode(errors="surrogateescape")
    response = _long_string(login)
    table = encode_table(properties, "client properties")
    mechanism, locale = short_string("mechanism", "PLAIN"), short_string("locale", "en_US")
    return frame(0, CONNECTION_START_OK, table + mechanism + response + locale)


def server_properties(start: Method) -> tuple[dict[str, JSON], str]:
    """What the broker says of itself in Connection.Start, and the SASL mechanisms it offers."""
    (size,) = start.unpack(">I", 2)
    at = 6 + size
    (size,) = start.unpack(">I", at)
    (mechanisms,) = start.unpack(f"{size}s", at + 4)
    try:
        properties, _ = decode_table(start.arguments, 2)
    except Exception:
        # A broker of another make may use types that RabbitMQ does not.
        properties = {}
    return properties, mechanisms.decode(errors="replace")


def tuning(tune: Method) -> tuple[int, int, int]:
    """Of Connection.Tune: the most channels, the bytes of the largest frame, the heartbeat (s)."""
    channels, frame_max, heartbeat = tune.unpack(">HIH", 0)
    return channels, frame_max, heartbeat


def tune_ok(channels: int, frame_max: int, heartbeat: int) -> bytes:
    """The answer to Connection.Tune; a heartbeat of 0 seconds is none."""
    return frame(0, CONNECTION_TUNE_OK, struct.pack(">HIH", channels, frame_max, heartbeat))


def open_vhost(vhost: str) -> bytes:
    """Connection.Open."""
    return frame(0, CONNECTION_OPEN, short_string("vhost", vhost) + b"\0\0")


def look_for_exchange(exchange: str) -> bytes:
    """Exchange.Declare with `passive`: whether there is such an exchange."""
    kind = short_string("type", "direct")
    return frame(
        CHANNEL,
        EXCHANGE_DECLARE,
        b"\0\0" + short_string("exchange", exchange) + kind + b"\1" + b"\0\0\0\0",
    )


_FAREWELL = struct.pack(">H", _GOODBYE) + short_string("text", "Goodbye") + b"\0" * 4
CLOSE_CONNECTION = frame(0, CONNECTION_CLOSE, _FAREWELL)
CLOSE_CHANNEL = frame(CHANNEL, CHANNEL_CLOSE, _FAREWELL)
CONFIRM_CLOSED_CONNECTION = frame(0, CONNECTION_CLOSE_OK)
HEARTBEAT = struct.pack(">BHI", HEARTBEAT_FRAME, 0, 0) + FRAME_END
OPEN_CHANNEL = frame(CHANNEL, CHANNEL_OPEN, b"\0")
CONFIRM_CLOSED_CHANNEL = frame(CHANNEL, CHANNEL_CLOSE_OK)
SELECT_CONFIRMS = frame(CHANNEL, CONFIRM_SELECT, b"\0")
RESUME_FLOW = frame(CHANNEL, CHANNEL_FLOW, b"\1")
"""It changes nothing, and the broker answers: a round trip."""


def _long_string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value
