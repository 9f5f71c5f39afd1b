"""The short way of a small transaction, and when it leaves off, against a channel in Python."""

from __future__ import annotations

import pytest

from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.channel import State
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.pump import Patience, write
from pg_amqp_py.wire.small import write_small
from support.channel import FakeChannel

OTHERS = [State.REFUSING, State.AWAITING, State.BLOCKED, State.WRITING, State.SHUT, State.CLOSED]


def messages(count: int, size: int = 1) -> tuple[bytearray, list[int]]:
    """Frames and offsets; the bodies are numbers."""
    stream, starts = bytearray(), list[int]()
    for at in range(count):
        starts.append(len(stream))
        body = str(at).rjust(size).encode()
        Encoder().append(stream, tuple(Envelope("x", "key")), body)
    return stream, starts


def go_on(batch: Batch | None, channel: FakeChannel, *, confirm: bool = True) -> None:
    assert batch is not None
    write(batch, channel, Patience(60), confirm=confirm)


def test_all_goes_well() -> None:
    channel = FakeChannel()
    assert write_small(channel, *messages(3), confirm=True) is None
    assert (channel.taken, channel.published) == ([0, 1, 2], 3)
    assert channel.state == State.READY


def test_without_confirms() -> None:
    channel = FakeChannel()
    for published in (3, 6):
        assert write_small(channel, *messages(3), confirm=False) is None
        assert channel.published == published
        assert channel.state == State.UNATTENDED
        channel.receive()
    assert channel.taken == [0, 1, 2] * 2


def test_confirms_after_messages_without() -> None:
    channel = FakeChannel()
    write_small(channel, *messages(1), confirm=False)
    batch = write_small(channel, *messages(2), confirm=True)
    assert batch is not None
    assert (batch.left(), channel.published) == (None, 1)


def test_without_confirms_something_has_happened_meanwhile() -> None:
    channel = FakeChannel()
    write_small(channel, *messages(1), confirm=False)
    assert not channel.quiet()
    batch = write_small(channel, *messages(2), confirm=False)
    assert batch is not None
    assert (batch.left(), channel.published) == (None, 1)


@pytest.mark.parametrize("confirm", [True, False])
@pytest.mark.parametrize("state", OTHERS)
def test_in_no_other_state_anything_is_written(state: str, confirm: bool) -> None:
    channel = FakeChannel()
    channel.state = state
    batch = write_small(channel, *messages(2), confirm=confirm)
    assert batch is not None
    assert (batch.pending, batch.left(), channel.published) == (2, None, 0)


def test_what_is_not_small_is_left_to_a_batch() -> None:
    channel = FakeChannel()
    batch = write_small(channel, *messages(1, size=1 << 14), confirm=True)
    assert channel.published == 0
    go_on(batch, channel)
    assert channel.taken == [0]


@pytest.mark.parametrize("confirm", [True, False])
def test_only_a_part_goes_out(confirm: bool) -> None:
    channel = FakeChannel()
    channel.most = 100
    batch = write_small(channel, *messages(4), confirm=confirm)
    channel.most = 1 << 20
    go_on(batch, channel, confirm=confirm)
    channel.receive()
    assert (channel.taken, channel.published) == ([0, 1, 2, 3], 4)


def test_some_confirms_are_missing() -> None:
    verdicts = iter(["ack", "silence", "ack"])
    channel = FakeChannel(lambda _: next(verdicts))
    batch = write_small(channel, *messages(3), confirm=True)
    assert batch is not None
    batch.collect()
    # What came out of order, the channel would have put back.
    assert batch.delivered() == [0]
    assert batch.awaited


def test_the_connection_breaks() -> None:
    channel = FakeChannel()
    channel.abandon(ConnectionLostError("reset by peer"))
    batch = write_small(channel, *messages(2), confirm=True)
    assert batch is not None
    assert (batch.pending, batch.awaited) == (2, False)
    again = FakeChannel()
    go_on(batch, again)
    assert again.taken == [0, 1]
