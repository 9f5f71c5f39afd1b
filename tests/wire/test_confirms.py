"""Confirms and received frames, without a server."""

from __future__ import annotations

import random
import struct

import pika.frame
import pika.spec
import pytest

from pg_amqp_py.wire.confirms import Confirms
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.frames import Ack, Content, FrameReader
from pg_amqp_py.wire.methods import Method


def test_a_multiple_answer_settles_all_before_it() -> None:
    confirms = Confirms(first=11, count=5)
    confirms.answer(Ack(True, 13, multiple=True))
    assert confirms.outstanding == 2
    assert confirms.confirmed == 3
    assert list(confirms.unanswered()) == [3, 4]


def test_answers_out_of_order() -> None:
    confirms = Confirms(first=1, count=4)
    for tag in (3, 1, 4):
        confirms.answer(Ack(True, tag, multiple=False))
    assert list(confirms.unanswered()) == [1]
    confirms.answer(Ack(True, 2, multiple=False))
    assert confirms.outstanding == 0


def test_refusals_alone_and_multiple() -> None:
    confirms = Confirms(first=1, count=6)
    confirms.answer(Ack(True, 2, multiple=False))
    confirms.answer(Ack(False, 3, multiple=True))
    confirms.answer(Ack(False, 5, multiple=False))
    confirms.answer(Ack(True, 6, multiple=True))
    assert confirms.refused() == [0, 2, 4]
    assert confirms.confirmed == 3
    assert confirms.outstanding == 0


def test_tag_zero_means_all() -> None:
    confirms = Confirms(first=5, count=3)
    confirms.answer(Ack(True, 0, multiple=True))
    assert confirms.outstanding == 0


def test_answers_to_others_and_repeated_ones_change_nothing() -> None:
    confirms = Confirms(first=10, count=3)
    for tag, multiple in [(9, True), (3, False), (11, False), (11, False)]:
        confirms.answer(Ack(True, tag, multiple))
    assert list(confirms.unanswered()) == [0, 2]


def test_any_order_of_answers_against_a_plain_model() -> None:
    choose = random.Random(7)
    for _ in range(300):
        count = choose.randint(1, 40)
        confirms = Confirms(first=100, count=count)
        open_tags = set(range(100, 100 + count))
        refused = set()
        while open_tags:
            tag = choose.choice(sorted(open_tags))
            multiple, positive = choose.random() < 0.3, choose.random() < 0.8
            settled = {t for t in open_tags if t <= tag} if multiple else {tag}
            confirms.answer(Ack(positive, tag, multiple))
            open_tags -= settled
            if not positive:
                refused |= settled
            assert confirms.outstanding == len(open_tags)
            assert list(confirms.unanswered()) == sorted(t - 100 for t in open_tags)
            assert confirms.refused() == sorted(t - 100 for t in refused)


def method(channel: int, value: object) -> bytes:
    marshalled: bytes = pika.frame.Method(channel, value).marshal()
    return marshalled


def test_frames_in_pieces_of_any_size() -> None:
    stream = b"".join(
        [
            method(1, pika.spec.Basic.Ack(7, True)),
            method(1, pika.spec.Basic.Nack(8, False)),
            method(0, pika.spec.Connection.Blocked("low on memory")),
            pika.frame.Heartbeat().marshal(),
            method(1, pika.spec.Basic.Return(312, "NO_ROUTE", "e", "k")),
            pika.frame.Header(1, 3, pika.spec.BasicProperties(message_id="m-1")).marshal(),
            pika.frame.Body(1, b"abc").marshal(),
        ]
    )
    for size in (1, 2, 5, 21, 1000):
        reader = FrameReader()
        frames = []
        for at in range(0, len(stream), size):
            frames += list(reader.feed(stream[at : at + size]))
        assert [channel for channel, _ in frames] == [1, 1, 0, 0, 1, 1, 1]
        ack, nack = frames[0][1], frames[1][1]
        assert isinstance(ack, Ack)
        assert isinstance(nack, Ack)
        assert (ack.positive, ack.tag, ack.multiple) == (True, 7, True)
        assert (nack.positive, nack.tag, nack.multiple) == (False, 8, False)
        blocked, returned = frames[2][1], frames[4][1]
        assert isinstance(blocked, Method)
        assert isinstance(returned, Method)
        assert blocked.index == pika.spec.Connection.Blocked.INDEX
        assert blocked.text(0)[0] == "low on memory"
        assert returned.reply() == (312, "NO_ROUTE")
        assert [frames[at][1] for at in (3, 6)] == [None, None]
        content = frames[5][1]
        assert isinstance(content, Content)
        assert content.message_id == "m-1"
        assert reader.partial == b""


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        struct.pack(">BHI", 1, 0, 0xFFFFFFFF) + b"x",
        struct.pack(">BHI", 1, 0, 4) + b"\0\x0a\0\x0a" + b"\0",
        struct.pack(">BHI", 1, 0, 4) + b"\xff\xff\xff\xff" + b"\xce",
        struct.pack(">BHI", 1, 0, 1) + b"\0" + b"\xce",
        struct.pack(">BHI", 1, 1, 4) + b"\0\x3c\0\x50" + b"\xce",
        struct.pack(">BHI", 9, 0, 0) + b"\xce",
    ],
)
def test_what_is_no_amqp(garbage: bytes) -> None:
    with pytest.raises(ConnectionLostError):
        list(FrameReader().feed(garbage))
