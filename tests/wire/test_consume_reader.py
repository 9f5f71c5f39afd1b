"""From bytes to deliveries: what pika writes, however it is cut, and what no broker may send."""

from __future__ import annotations

import random
import tracemalloc

import pika.frame
import pytest
from pika import spec

from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.consume.properties import split_properties
from pg_amqp_py.wire.consume.reader import DeliveryReader
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.methods import Method
from support.deliveries import FRAME_MAX, TAG, Sent, feed, random_message, reading, seeded, stream
from support.handshake import HEARTBEAT, method

FULL = Sent(
    b"hello",
    spec.BasicProperties(content_type="text/plain", headers={"a": 1}, message_id="m", priority=3),
    redelivered=True,
)
DELIVER, HEADER, BODY = FULL.frames(1)


def bits(data: bytes, at: int, value: bytes) -> bytes:
    """The same with other bytes at this place."""
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize("size", [None, 1, 3, 64])
def test_a_message_as_pika_writes_it(size: int | None) -> None:
    reader = reading()
    assert feed(reader, stream([FULL]), size) == []
    (delivery,) = reader.take()
    assert delivery == FULL.delivery(1)
    assert type(delivery) is Delivery
    assert (delivery.redelivered, delivery.exchange, delivery.routing_key) == (
        True,
        b"events",
        b"orders.placed",
    )
    assert split_properties(delivery.properties).message_id == b"m"
    assert reader.take() == []


@pytest.mark.parametrize("body", [0, 1, 4087, 4088, 4089, 8176, 8177, 100_000])
@pytest.mark.parametrize("size", [None, 1000])
def test_bodies_of_any_number_of_frames(body: int, size: int | None) -> None:
    message = Sent(bytes(at % 251 for at in range(body)))
    reader = reading()
    feed(reader, stream([message, FULL]), size)
    assert reader.take() == [message.delivery(1), FULL.delivery(2)]


@pytest.mark.parametrize("size", [1 << 16, 1448])
def test_a_body_of_20_mb(size: int) -> None:
    frame_max = 1 << 17
    message = Sent(random.Random(1).randbytes(20_000_000))
    reader = reading(frame_max=frame_max)
    feed(reader, stream([message], frame_max=frame_max), size)
    assert reader.take() == [message.delivery(1)]


def test_a_body_in_frames_of_a_byte_and_of_none() -> None:
    reader = reading()
    frames = [DELIVER, HEADER]
    for at in range(5):
        frames += pika.frame.Body(1, b"").marshal(), pika.frame.Body(1, b"hello"[at:][:1]).marshal()
    feed(reader, b"".join(frames))
    assert reader.take() == [FULL.delivery(1)]


def test_random_messages_cut_at_random() -> None:
    chance = seeded()
    messages = [random_message(chance) for _ in range(300)]
    data = stream(messages)
    reader, at = reading(), 0
    deliveries: list[Delivery] = []
    while at < len(data):
        size = chance.choice([1, 7, 100, 1000, 4096, 1 << 16])
        assert feed(reader, data[at : at + size]) == []
        at += size
        if chance.random() < 0.1:
            deliveries += reader.take()
    deliveries += reader.take()
    assert deliveries == [message.delivery(tag) for tag, message in enumerate(messages, 1)]


def test_other_frames_come_in_order() -> None:
    blocked, unblocked = method(spec.Connection.Blocked("memory")), method(spec.Channel.Flow(), 1)
    data = unblocked + DELIVER + HEARTBEAT + HEADER + blocked + BODY + unblocked + blocked
    for size in (1, 50, len(data)):
        reader = reading()
        frames = feed(reader, data, size)
        numbers = [
            (number, frame and isinstance(frame, Method) and frame.index)
            for number, frame in frames
        ]
        flow, block = spec.Channel.Flow.INDEX, spec.Connection.Blocked.INDEX
        assert numbers == [(1, flow), (0, None), (0, block), (1, flow), (0, block)]
        assert reader.take() == [FULL.delivery(1)]


def test_nothing_is_kept_of_what_was_taken() -> None:
    reader = reading()
    data = stream([Sent(b"x" * 1000)] * 100)
    feed(reader, data)
    assert reader.size == len(data)
    feed(reader, b"".join(FULL.frames(101)[:2]))
    begun = len(DELIVER) + len(HEADER)
    assert reader.size == len(data) + begun
    assert len(reader.take()) == 100
    assert reader.size == begun
    feed(reader, BODY)
    assert reader.size == begun + len(BODY)
    reader.take()
    assert (reader.size, bytes(reader.partial)) == (0, b"")


# -- what no broker may send ---------------------------------------------------------------------

ANOTHER = Sent().frames(1, consumer="pg-amqp-2")[0]
LONGER = Sent().frames(1, consumer="pg-amqp-10")[0]
VIOLATIONS = {
    "content without a delivery": (HEADER, "content that was not asked for"),
    "a body without a delivery": (BODY, "content that was not asked for"),
    "a body of nothing without a delivery": (
        pika.frame.Body(1, b"").marshal(),
        "content that was not asked for",
    ),
    "a body without a header": (DELIVER + BODY, "content that was not asked for"),
    "a second header": (DELIVER + HEADER + HEADER, "content that was not asked for"),
    "another delivery before the content": (DELIVER + DELIVER, "a method where content was due"),
    "another method before the content": (
        DELIVER + method(spec.Channel.Flow(), 1),
        "a method where content was due",
    ),
    "a method within the content": (
        DELIVER + HEADER + method(spec.Channel.Flow(), 1),
        "a method where content was due",
    ),
    "a body larger than it was said to be": (
        DELIVER + HEADER + pika.frame.Body(1, b"hello!").marshal(),
        "content that was not asked for",
    ),
    "more body than was said": (
        DELIVER + HEADER + BODY + BODY,
        "content that was not asked for",
    ),
    "a body on another channel": (
        DELIVER + HEADER + pika.frame.Body(2, b"hello").marshal(),
        "content that was not asked for",
    ),
    "content of another class": (DELIVER + bits(HEADER, 7, b"\0\x3d"), "content of class 61"),
    "a header that is cut short": (
        DELIVER + b"\2\0\1\0\0\0\x0d" + HEADER[7:20] + b"\xce",
        "a content header that is cut short",
    ),
    "a header of nothing": (DELIVER + b"\2\0\1\0\0\0\0\xce", "a content header that is cut short"),
    "a body of more than any broker takes": (
        DELIVER + bits(HEADER, 11, ((1 << 29) + 1).to_bytes(8)),
        "a message of 536870913 bytes",
    ),
    "a body without end": (DELIVER + bits(HEADER, 11, b"\xff" * 8), "a message of 1844674407370"),
    "a delivery to another consumer": (ANOTHER, "for a consumer that there is not"),
    "a delivery to one of a longer name": (LONGER, "for a consumer that there is not"),
    "a delivery that is cut short": (
        b"\1\0\1\0\0\0\x10" + DELIVER[7:23] + b"\xce",
        "a method that is cut short",
    ),
    "a delivery with something behind it": (
        b"\1\0\1" + (len(DELIVER) - 7).to_bytes(4) + DELIVER[7:-1] + b"\0\xce",
        "a method that is cut short",
    ),
    "an exchange that is longer than all": (
        bits(DELIVER, DELIVER.index(b"\6events"), b"\xff"),
        "a method that is cut short",
    ),
    "a delivery again": (DELIVER + HEADER + BODY + DELIVER, "a delivery out of turn"),
    "a delivery too early": (Sent().frames(2)[0], "a delivery out of turn"),
    "a delivery of no number": (Sent().frames(0)[0], "a delivery out of turn"),
    "a method with another end": (DELIVER[:-1] + b"\0" + HEADER + BODY, "no AMQP frame"),
    "a header with another end": (DELIVER + HEADER[:-1] + b"\0" + BODY, "no AMQP frame"),
    "a body with another end": (DELIVER + HEADER + BODY[:-1] + b"\0", "no AMQP frame"),
    "a frame of no type": (b"\x07" + BODY[1:], "no AMQP 0-9-1"),
    "a method of no class": (b"\1\0\1\0\0\0\4\0\x63\0\1\xce", "no AMQP 0-9-1"),
    "a method larger than was agreed": (b"\1\0\1\0\0\x0f\xf9", None),
    "a header larger than was agreed": (DELIVER + b"\2\0\1\0\0\x0f\xf9", None),
    "a body larger than was agreed": (DELIVER + HEADER + b"\3\0\1\0\0\x0f\xf9", None),
}


@pytest.mark.parametrize("name", VIOLATIONS)
@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("rest", [b"", BODY + stream([FULL] * 2, first=2)], ids=["", "followed"])
def test_a_violation_ends_the_connection(name: str, size: int | None, rest: bytes) -> None:
    data, text = VIOLATIONS[name]
    reader = reading()
    if text is None:
        # Known from the length alone: nothing of the frame has come.
        text, data = "a frame of 4089 bytes", data + b"\0"
    with pytest.raises(ConnectionLostError, match=text):
        feed(reader, data + rest, size)


@pytest.mark.parametrize(
    "message",
    [Sent(b"x" * 4089), Sent(b"x", spec.BasicProperties(headers={"k": "x" * 5000}))],
    ids=["body", "header"],
)
def test_a_whole_frame_larger_than_was_agreed(message: Sent) -> None:
    with pytest.raises(ConnectionLostError, match="received a frame of"):
        feed(reading(), stream([message], frame_max=8192))


@pytest.mark.parametrize("size", [None, 1])
def test_the_largest_frame_that_was_agreed(size: int | None) -> None:
    message = Sent(b"x" * (FRAME_MAX - 8))
    assert len(message.frames(1)[2]) == FRAME_MAX
    reader = reading()
    feed(reader, stream([message]), size)
    assert reader.take() == [message.delivery(1)]


def test_a_delivery_where_nobody_consumes() -> None:
    with pytest.raises(ConnectionLostError, match="for a consumer that there is not"):
        feed(DeliveryReader(), stream([FULL]))
    reader = reading()
    feed(reader, stream([FULL]))
    reader.end()
    assert reader.take() == [FULL.delivery(1)]
    with pytest.raises(ConnectionLostError, match="for a consumer that there is not"):
        feed(reader, stream([FULL], first=2))


def test_any_change_of_a_byte_is_a_message_an_error_or_the_wait_for_more() -> None:
    chance = seeded()
    data = stream([FULL, Sent(), Sent(b""), Sent(b"x" * 5000)])
    for _ in range(1000):
        at = chance.randrange(len(data))
        changed = bits(data, at, bytes([chance.randrange(256)]))
        found = []
        for size in (None, 11):
            reader = reading()
            try:
                feed(reader, changed, size)
            except ConnectionLostError as error:
                found.append((str(error), reader.take()))
            else:
                found.append(("", reader.take()))
        # Whatever it is, it does not depend on how it arrives.
        assert found[0] == found[1], at


# -- memory --------------------------------------------------------------------------------------


def test_a_length_is_not_believed_before_the_bytes_are_there() -> None:
    data = DELIVER + bits(HEADER, 11, (1 << 29).to_bytes(8)) + BODY
    reader = reading()
    tracemalloc.start()
    feed(reader, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_a_body_in_tiny_frames_takes_no_more_than_its_bytes() -> None:
    size = 50_000
    data = DELIVER + bits(HEADER, 11, size.to_bytes(8))
    piece = pika.frame.Body(1, b"x").marshal() * 1000
    reader = reading()
    tracemalloc.start()
    feed(reader, data)
    for _ in range(size // 1000):
        feed(reader, piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (delivery,) = reader.take()
    assert delivery.body == b"x" * size
    assert peak < 4 * size


def test_a_frame_that_trickles_in_is_not_copied_for_every_byte() -> None:
    message = Sent(b"x" * 100_000)
    data = stream([message], frame_max=1 << 17)
    reader = reading(frame_max=1 << 17)
    feed(reader, data[:-10])
    tracemalloc.start()
    feed(reader, data[-10:-1], 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150_000
    feed(reader, data[-1:])
    assert reader.take() == [message.delivery(1)]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker stores five messages of a stream together at most."""
    monkeypatch.setattr("pg_amqp_py.wire.consume.reader._CHUNK", 5)


@pytest.mark.parametrize("size", [None, 100])
def test_more_than_was_asked_for_is_not_taken(small_chunks: None, size: int | None) -> None:
    # A stream's broker sends together what it has stored together, so a little more is.
    reader = reading(10)
    feed(reader, stream([FULL] * 15), size)
    assert reader.acknowledge(3) == 3
    feed(reader, stream([FULL] * 3, first=16), size)
    with pytest.raises(ConnectionLostError, match="more deliveries than were asked for"):
        feed(reader, stream([FULL], first=19), size)
    assert len(reader.take()) == 18


def test_any_number_may_be_asked_for(small_chunks: None) -> None:
    reader = reading(0)
    feed(reader, stream([FULL] * 50))
    assert len(reader.take()) == 50


def test_what_an_earlier_consumer_left_unacknowledged_does_not_count(small_chunks: None) -> None:
    reader = reading(20)
    feed(reader, stream([FULL] * 25))
    reader.end()
    reader.begin(TAG, 1)
    feed(reader, stream([FULL] * 5, first=26))
    reader.acknowledge(10)
    feed(reader, stream([FULL], first=31))
    with pytest.raises(ConnectionLostError, match="more deliveries than were asked for"):
        feed(reader, stream([FULL], first=32))


# -- tags ----------------------------------------------------------------------------------------


def test_the_broker_is_told_its_own_number_of_a_delivery() -> None:
    reader = reading()
    feed(reader, stream([FULL] * 3))
    assert [delivery.tag for delivery in reader.take()] == [1, 2, 3]
    assert [reader.acknowledge(tag) for tag in (2, 2, 1, 3)] == [2, 0, 0, 3]


@pytest.mark.parametrize("size", [None, 1])
def test_tags_go_on_when_the_channel_is_opened_again(size: int | None) -> None:
    reader = reading()
    feed(reader, stream([FULL] * 3) + DELIVER.replace(b"\1\1\6", b"\4\1\6"), size)
    reader.acknowledge(1)
    reader.forget()
    assert (reader.take(), reader.size) == ([], 0)
    reader.begin(TAG, 0)
    feed(reader, stream([FULL] * 2), size)
    assert [delivery.tag for delivery in reader.take()] == [4, 5]
    # What was delivered before is no delivery of this channel.
    assert [reader.acknowledge(tag) for tag in (2, 3, 5)] == [0, 0, 2]
