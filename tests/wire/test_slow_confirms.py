"""Confirms that come slowly, but come."""

from __future__ import annotations

from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.frames import Ack
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.methods import FRAME_MAX
from pg_amqp_py.wire.pump import Patience, write
from support.channel import FakeChannel


def test_each_confirm_is_waited_for_anew() -> None:
    stream, starts = bytearray(), list[int]()
    for _ in range(3):
        starts.append(len(stream))
        Encoder().append(stream, tuple(Envelope("x", "key")), b"body")
    batch, channel = Batch(stream, starts, FRAME_MAX), FakeChannel()
    deadlines: list[float] = []
    tags = iter((1, 2, 3))

    def wait(deadline: float, *, sending: bool = False) -> None:
        deadlines.append(deadline)

    def receive() -> None:
        assert channel._writing is not None
        channel._writing.answer(Ack(True, next(tags), multiple=False))

    channel.wait, channel.receive = wait, receive  # type: ignore[method-assign]
    write(batch, channel, Patience(60))
    assert batch.confirmed == 3
    assert deadlines == sorted(set(deadlines))
    assert len(deadlines) == 3
