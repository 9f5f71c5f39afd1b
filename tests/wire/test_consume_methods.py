"""The methods that a consumer says and hears, held against pika's."""

from __future__ import annotations

from datetime import UTC, datetime

import pika.data
import pytest
from pika import spec

from pg_amqp_py.wire.consume import methods
from pg_amqp_py.wire.consume.arguments import Timestamp, encode_arguments
from pg_amqp_py.wire.errors import RangeError, TooLongError
from support.deliveries import field, sized, table
from support.handshake import method

NUMBERS = """
Queue.Declare Queue.DeclareOk Basic.Qos Basic.QosOk Basic.Consume Basic.ConsumeOk
Basic.Cancel Basic.CancelOk Basic.Deliver Basic.Ack
"""


def test_the_numbers_of_methods() -> None:
    for name in NUMBERS.split():
        cls, verb = name.split(".")
        words = "".join(f"_{letter}" if letter.isupper() else letter for letter in verb)
        ours = getattr(methods, f"{cls}{words}".upper())
        assert ours == getattr(getattr(spec, cls), verb).INDEX


def test_what_a_consumer_says() -> None:
    arguments = encode_arguments({"x-priority": 1 << 40, "x-cancel": True, "name": "ü"})
    theirs = {"x-priority": 1 << 40, "x-cancel": True, "name": "ü"}
    for ours, pikas in (
        (methods.limit_unacknowledged(2000), spec.Basic.Qos(0, 2000, False)),
        (methods.consume("q", "t", encode_arguments({})), spec.Basic.Consume(0, "q", "t")),
        (
            methods.consume("ü", "t", arguments),
            spec.Basic.Consume(0, "ü", "t", arguments=theirs),
        ),
        (
            methods.consume_replies("t"),
            spec.Basic.Consume(0, "amq.rabbitmq.reply-to", "t", no_ack=True),
        ),
        (methods.cancel("t"), spec.Basic.Cancel("t", False)),
        (methods.acknowledge(1 << 40), spec.Basic.Ack(1 << 40, True)),
        (methods.look_for_queue("q"), spec.Queue.Declare(0, "q", passive=True)),
    ):
        assert ours == method(pikas, 1)


def test_an_offset_has_64_bits_however_small() -> None:
    raw = encode_arguments({"x-stream-offset": 7})
    assert raw == table((b"x-stream-offset", field("l", ">q", 7)))


def test_a_timestamp() -> None:
    moment = datetime(2026, 11, 1, tzinfo=UTC)
    raw = encode_arguments({"x-stream-offset": Timestamp(int(moment.timestamp()))})
    pieces: list[bytes] = []
    pika.data.encode_table(pieces, {"x-stream-offset": moment.replace(tzinfo=None)})
    assert raw == b"".join(pieces)


def test_what_else_there_may_be() -> None:
    raw = encode_arguments({"a": "first", "b": 0.5, "c": None, "d": False, "e": {"f": 1}, "g": [1]})
    assert raw == table(
        (b"a", sized("S", b"first")),
        (b"b", field("d", ">d", 0.5)),
        (b"c", b"V"),
        (b"d", field("t", ">B", 0)),
        (b"e", b"F" + table((b"f", field("I", ">i", 1)))),
        (b"g", sized("A", field("I", ">i", 1))),
    )


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, Timestamp(-1), Timestamp(1 << 64)])
def test_numbers_that_are_out_of_range(value: int | Timestamp) -> None:
    with pytest.raises(RangeError, match="out of range"):
        encode_arguments({"x-stream-offset": value})


@pytest.mark.parametrize("prefetch", [-1, 1 << 16])
def test_a_prefetch_that_is_out_of_range(prefetch: int) -> None:
    with pytest.raises(RangeError) as caught:
        methods.limit_unacknowledged(prefetch)
    assert caught.value.field == "prefetch"


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(TooLongError):
        methods.consume("q" * 256, "t", encode_arguments({}))
    with pytest.raises(TooLongError):
        encode_arguments({"k" * 256: 1})
