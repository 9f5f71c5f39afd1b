"""Replies and requests that come back, however they are cut, and what no broker may send."""

from __future__ import annotations

import tracemalloc

import pytest
from pika import spec

from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.methods import BASIC_RETURN, frame
from pg_amqp_py.wire.request.reader import ReplyReader
from support.deliveries import Sent, feed
from support.handshake import HEARTBEAT, method

TAG = "replies"
RETURN = method(spec.Basic.Return(312, "NO_ROUTE", "e", "k"), 1)
FRAME_MAX = 4096


def came_back(size: int) -> list[bytes]:
    """The frames of a request that no queue has got."""
    _, *content = Sent(b"x" * size).frames(1, frame_max=FRAME_MAX)
    return [RETURN, *content]


class Reading:
    """A reader, and what it has handed on."""

    def __init__(self) -> None:
        self.replies: list[Delivery] = []
        self.returns: list[str] = []
        self.reader = ReplyReader(self.replies.append, self.returns.append)
        self.reader.limit(FRAME_MAX)
        self.reader.begin(TAG, 0)

    def feed(self, data: bytes, size: int | None = None) -> int:
        """Have it read the data in pieces; how much else than messages was in it."""
        return len(feed(self.reader, data, size))


def reply(body: bytes, tag: int) -> bytes:
    return b"".join(Sent(body).frames(tag, frame_max=FRAME_MAX, consumer=TAG))


@pytest.mark.parametrize("size", [None, 1, 7, 1000])
def test_replies_and_returns_one_after_the_other(size: int | None) -> None:
    reading = Reading()
    stream = b"".join(
        [
            reply(b"one", 1),
            *came_back(0),
            HEARTBEAT,
            *came_back(10_000),
            reply(b"y" * 10_000, 2),
            *came_back(1),
            reply(b"", 3),
        ]
    )
    assert reading.feed(stream, size) == 1
    assert [delivery.body for delivery in reading.replies] == [b"one", b"y" * 10_000, b""]
    assert reading.returns == ["NO_ROUTE (312)"] * 3
    assert reading.reader.size == 0


@pytest.mark.parametrize("tags", [(1, 1, 1), (1, 2, 3), (7, 1, 1 << 63)])
def test_replies_are_counted_in_any_way(tags: tuple[int, ...]) -> None:
    reading = Reading()
    reading.feed(b"".join(reply(b"%d" % at, tag) for at, tag in enumerate(tags)))
    assert [delivery.body for delivery in reading.replies] == [b"0", b"1", b"2"]
    assert [delivery.tag for delivery in reading.replies] == [1, 2, 3]


def test_the_end_of_the_channel_is_the_end_of_what_was_coming_back() -> None:
    reading = Reading()
    method_frame, header, body = came_back(5)
    reading.feed(method_frame + header)
    reading.reader.forget()
    reading.reader.begin(TAG, 0)
    reading.feed(reply(b"one", 1))
    assert [delivery.body for delivery in reading.replies] == [b"one"]
    assert reading.returns == []
    with pytest.raises(ConnectionLostError):
        reading.feed(body)


@pytest.mark.parametrize(
    "words",
    [
        [RETURN, RETURN],
        [RETURN, reply(b"x", 1)],
        [RETURN, came_back(5)[1], RETURN],
        [RETURN, came_back(5)[2]],
        [reply(b"xyz", 1)[:60], RETURN],
        [came_back(5)[1]],
        [frame(1, BASIC_RETURN)],
        [b"".join(Sent(b"x").frames(1, frame_max=FRAME_MAX, consumer="another"))],
    ],
)
def test_what_no_broker_sends(words: list[bytes]) -> None:
    reading = Reading()
    with pytest.raises(ConnectionLostError):
        reading.feed(b"".join(words))


def test_no_more_than_one_message_is_held() -> None:
    reading = Reading()
    reading.reader = ReplyReader(lambda _: None, lambda _: None)
    reading.reader.begin(TAG, 0)
    message = Sent(b"x" * 100_000)
    tracemalloc.start()
    try:
        for tag in range(1, 300):
            frames = message.frames(tag, frame_max=131072, consumer=TAG)
            reading.feed(b"".join([*frames, RETURN, *frames[1:]]), 1 << 16)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000
