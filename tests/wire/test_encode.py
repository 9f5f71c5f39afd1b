"""Encoding messages, without a server: against pika's codec, and back again."""

from __future__ import annotations

import json
from typing import Any

import pika.frame
import pika.spec
import pytest

from pg_amqp_py.wire.encode import Encoder, decode_messages, encode_envelope
from pg_amqp_py.wire.errors import MessageError, RangeError, TooLargeError, TooLongError
from pg_amqp_py.wire.message import Envelope, Message
from pg_amqp_py.wire.methods import CHANNEL, FRAME_MAX
from pg_amqp_py.wire.properties import PROPERTIES
from pg_amqp_py.wire.table import decode_table, encode_table, parse_table

FULL = Envelope(
    "exchange",
    "routing.key",
    mandatory=True,
    delivery_mode=2,
    content_type="text/plain",
    reply_to="replies",
    correlation_id="c",
    headers='{"a": 1}',
    content_encoding="gzip",
    priority=7,
    expiration="60000",
    message_id="m",
    timestamp=1_700_000_000,
    type="t",
    user_id="guest",
    app_id="app",
)


def with_field(name: str, value: Any) -> Envelope:
    return Envelope("e", "k")._replace(**{name: value})


def encode(envelope: Envelope, body: bytes, frame_max: int = FRAME_MAX) -> bytes:
    stream = bytearray()
    Encoder(frame_max).append(stream, tuple(envelope), body)
    return bytes(stream)


def pika_frames(stream: bytes) -> list[pika.frame.Frame]:
    frames = []
    while stream:
        size, frame = pika.frame.decode_frame(stream)
        assert size
        assert frame.channel_number == CHANNEL
        frames.append(frame)
        stream = stream[size:]
    return frames


def test_all_properties_as_pika_reads_them() -> None:
    publish, header, body = pika_frames(encode(FULL, b"hello"))
    assert isinstance(publish.method, pika.spec.Basic.Publish)
    assert publish.method.exchange == "exchange"
    assert publish.method.routing_key == "routing.key"
    assert publish.method.mandatory
    for name in PROPERTIES:
        expected = {"a": 1} if name == "headers" else getattr(FULL, name)
        assert getattr(header.properties, name) == expected, name
    assert header.properties.cluster_id is None
    assert body.fragment == b"hello"


def test_all_properties_as_pika_writes_them() -> None:
    properties = {name: getattr(FULL, name) for name in PROPERTIES} | {"headers": {"a": 1}}
    expected = (
        pika.frame.Method(
            CHANNEL,
            pika.spec.Basic.Publish(exchange="exchange", routing_key="routing.key", mandatory=True),
        ).marshal()
        + pika.frame.Header(CHANNEL, 5, pika.spec.BasicProperties(**properties)).marshal()
        + pika.frame.Body(CHANNEL, b"hello").marshal()
    )
    assert encode(FULL, b"hello") == expected


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_alone(name: str) -> None:
    envelope = with_field(name, getattr(FULL, name))
    assert next(decode_messages(encode(envelope, b"x"))) == Message(envelope, b"x")


def test_no_property_is_sent_that_was_not_given() -> None:
    _, header, _ = pika_frames(encode(Envelope("e", "k"), b"x"))
    assert all(getattr(header.properties, name) is None for name in PROPERTIES)


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 8176, 8177, 100_000])
def test_bodies_are_cut_to_the_frame_size(size: int) -> None:
    body = bytes(at % 251 for at in range(size))
    frames = pika_frames(encode(Envelope("e", "k"), body, frame_max=4096))
    assert frames[1].body_size == size
    assert b"".join(frame.fragment for frame in frames[2:]) == body
    assert all(len(frame.fragment) <= 4088 for frame in frames[2:])
    assert all(frame.fragment for frame in frames[2:])


def test_a_stream_of_different_messages() -> None:
    encoder = Encoder()
    stream = bytearray()
    messages = [
        Message(Envelope("e", f"k{at % 7}", message_id=str(at) if at % 3 else None), b"x" * at)
        for at in range(3000)
    ]
    for message in messages:
        encoder.append(stream, tuple(message.envelope), message.body)
    assert list(decode_messages(stream)) == messages


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in Envelope._fields
        if isinstance(getattr(FULL, n), str) and n not in ("headers", "expiration")
    ],
)
def test_short_strings_hold_255_bytes(name: str) -> None:
    encode_envelope(with_field(name, "é" * 127 + "x"))
    with pytest.raises(TooLongError, match="256 bytes") as caught:
        encode_envelope(with_field(name, "é" * 128))
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delivery_mode", 0),
        ("delivery_mode", 3),
        ("priority", -1),
        ("priority", 256),
        ("timestamp", -1),
        ("timestamp", 1 << 63),
        ("expiration", ""),
        ("expiration", "-1"),
        ("expiration", "1.5"),
        ("expiration", "²"),
        ("expiration", "٣"),
        ("expiration", str(1 << 32)),
    ],
)
def test_values_out_of_range(name: str, value: object) -> None:
    stream = bytearray(b"before")
    with pytest.raises(RangeError) as caught:
        Encoder().append(stream, tuple(with_field(name, value)), b"x")
    assert caught.value.field == name
    assert stream == b"before"


def test_properties_that_fit_no_frame() -> None:
    headers = json.dumps({"large": "x" * 5000})
    encode_envelope(Envelope("e", "k", headers=headers))
    with pytest.raises(TooLargeError):
        encode_envelope(Envelope("e", "k", headers=headers), frame_max=4096)


TABLE: dict[str, Any] = {
    "string": "é",
    "small": -1,
    "int32": (1 << 31) - 1,
    "int64": 1 << 31,
    "least": -(1 << 63),
    "most": (1 << 63) - 1,
    "double": 2.5,
    "tiny": 5e-324,
    "true": True,
    "false": False,
    "null": None,
    "object": {"nested": {"deeper": []}},
    "array": [1, "two", 3.0, None, [True, {}]],
    "": "empty key",
}


def test_tables_keep_their_types() -> None:
    encoded = encode_table(parse_table(json.dumps(TABLE), "headers"), "headers")
    decoded, end = decode_table(encoded, 0)
    assert decoded == TABLE
    assert end == len(encoded)
    assert {key: type(value) for key, value in decoded.items()} == {
        key: type(value) for key, value in TABLE.items()
    }


def test_an_integer_of_more_than_64_bits_is_a_double_if_it_is_one_exactly() -> None:
    numbers = [2**63, -(2**63) - 2**11, 10**20, 10**22, (2**53 - 1) * 2**971]
    decoded, _ = decode_table(encode_table({"a": list(numbers)}, "headers"), 0)
    assert decoded["a"] == numbers
    assert {type(number) for number in decoded["a"]} == {float}


def test_tables_as_pika_reads_them() -> None:
    without_doubles = {key: value for key, value in TABLE.items() if key not in ("double", "tiny")}
    without_doubles["array"] = [1, "two", None]
    decoded, _ = pika.spec.data.decode_table(encode_table(without_doubles, "headers"), 0)
    assert decoded == without_doubles


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[]", MessageError),
        ("1", MessageError),
        ("null", MessageError),
        ('{"a": 9223372036854775809}', RangeError),
        ('{"a": -9223372036854775809}', RangeError),
        ('{"a": 12345678901234567890}', RangeError),
        ('{"a": ' + "9" * 400 + "}", RangeError),
        ('{"a": ' + "9" * 5000 + "}", RangeError),
        ('{"a": 1e400}', RangeError),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", TooLargeError),
    ],
)
def test_tables_that_cannot_be_encoded(text: str, error: type[MessageError]) -> None:
    with pytest.raises(error) as caught:
        encode_table(parse_table(text, "headers"), "headers")
    assert caught.value.field == "headers"


def test_a_table_key_that_is_too_long() -> None:
    with pytest.raises(TooLongError):
        encode_table({"x" * 256: 1}, "headers")


def test_the_memory_of_envelopes_is_bounded() -> None:
    encoder = Encoder()
    stream = bytearray()
    for at in range(5000):
        encoder.append(stream, tuple(Envelope("e", str(at))), b"")
    assert len(encoder._envelopes) <= 256
    assert len(encoder._methods) <= 256
    assert [m.envelope.routing_key for m in decode_messages(stream)] == [
        str(at) for at in range(5000)
    ]


class Full(bytearray):
    """A stream for which there is no more memory after a few parts."""

    left = 4

    def __iadd__(self, part: Any) -> Full:  # type: ignore[misc]
        self.left -= 1
        if not self.left:
            raise MemoryError
        self.extend(part)
        return self


def test_half_a_message_does_not_stay_behind() -> None:
    stream = Full(b"before")
    with pytest.raises(MemoryError):
        Encoder(4096).append(stream, tuple(Envelope("e", "k")), b"x" * 100_000)
    assert stream == b"before"


def test_a_stream_that_ends_within_a_message() -> None:
    stream = encode(Envelope("e", "k"), b"x" * 10_000, frame_max=4096)
    with pytest.raises(ValueError, match="within a message"):
        list(decode_messages(stream[:4200]))
