"""Writing a batch and reading its answers, against a channel that is a few lines of Python."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError
from pg_amqp_py.wire.frames import Ack
from pg_amqp_py.wire.message import Envelope, Message
from pg_amqp_py.wire.methods import FRAME_MAX
from pg_amqp_py.wire.pump import Patience, write
from support.channel import FakeChannel

PATIENCE = Patience(60)


def batch_of(*exchanges: str, rewrite: bool = False) -> Batch:
    """A message to each of these exchanges, with its position as body."""
    stream, starts = bytearray(), list[int]()
    for at, exchange in enumerate(exchanges):
        starts.append(len(stream))
        envelope = Envelope(exchange, "key", mandatory=True, message_id=str(at))
        Encoder().append(stream, tuple(envelope), str(at).encode())
    return Batch(stream, starts, FRAME_MAX, rewrite=rewrite)


def by_exchange(message: Message) -> str:
    """An exchange is named after what becomes of messages to it."""
    return message.envelope.exchange


def once(verdict: str, then: str = "ack") -> Callable[[Message], str]:
    """This becomes of the first message, and that of all others."""
    verdicts = iter([verdict])
    return lambda _: next(verdicts, then)


def test_all_is_written_and_confirmed() -> None:
    batch, channel = batch_of("ack", "ack"), FakeChannel()
    write(batch, channel, PATIENCE)
    assert channel.taken == [0, 1]
    assert (batch.pending, batch.confirmed) == (0, 2)
    assert channel.published == 2


def test_in_pieces_of_any_size() -> None:
    for most in (1, 7, 50, 1000):
        batch, channel = batch_of("ack", "ack", "ack"), FakeChannel()
        channel.most = most
        write(batch, channel, PATIENCE)
        assert channel.taken == [0, 1, 2]


def test_nothing_to_write() -> None:
    channel = FakeChannel()
    write(batch_of(), channel, PATIENCE)
    assert channel.waits == []


def test_what_comes_back_is_kept_beside_its_confirm() -> None:
    batch, channel = batch_of("ack", "return"), FakeChannel(by_exchange)
    write(batch, channel, PATIENCE)
    assert batch.confirmed == 2
    assert [message.message_id for message in batch.returned] == ["1"]


def test_a_refusal_costs_nothing_else() -> None:
    batch, channel = batch_of("ack", "refuse", "ack", "refuse"), FakeChannel(by_exchange)
    write(batch, channel, PATIENCE)
    assert channel.taken == [0, 2]
    assert list(batch.causes) == [1, 3]
    assert channel.openings == 2


def test_the_rest_of_a_half_written_message_goes_out_after_a_refusal() -> None:
    batch, channel = batch_of("x", "x", "x"), FakeChannel()
    channel.most = 10
    sent: list[int] = []
    refusals = iter([ChannelClosedError(404, "NOT_FOUND - no exchange 'x' in vhost '/'")])

    def send_some(data: bytes | bytearray | memoryview) -> int:
        sent.append(len(data[:10]))
        return len(data[:10])

    def receive() -> None:
        for refusal in refusals:
            raise refusal

    channel.send_some, channel.receive = send_some, receive  # type: ignore[method-assign]
    write(batch, channel, PATIENCE)
    assert sum(sent) == len(batch_of("x")._stream)
    assert len(batch.refused) == 3


def test_a_lost_connection_leaves_the_rest_pending() -> None:
    batch, channel = batch_of("ack", "lose", "ack"), FakeChannel(by_exchange)
    with pytest.raises(ConnectionLostError):
        write(batch, channel, PATIENCE)
    assert batch.delivered() == [0]
    assert not batch.awaited
    again = FakeChannel()
    write(batch, again, PATIENCE)
    assert again.taken == [1, 2]


def test_silence_leaves_what_is_written_awaited() -> None:
    batch, channel = batch_of("ack", "silence", "ack"), FakeChannel(by_exchange)
    with pytest.raises(StalledError):
        write(batch, channel, PATIENCE)
    assert batch.delivered() == [0, 2]
    assert batch.awaited
    assert channel.late.outstanding == 1
    # The answer comes when nobody waits for it.
    channel.late.answer(Ack(True, 2, multiple=False))
    batch.collect()
    assert (batch.pending, batch.awaited) == (0, False)
    assert not channel.late


def test_what_is_awaited_is_not_written_again() -> None:
    batch, channel = batch_of("silence"), FakeChannel(by_exchange)
    for _ in range(2):
        with pytest.raises(StalledError):
            write(batch, channel, PATIENCE)
        assert batch.awaited
    assert channel.published == 1
    channel.late.answer(Ack(True, 1, multiple=False))
    write(batch, channel, PATIENCE)
    assert batch.confirmed == 1
    assert channel.published == 1


def test_what_was_awaited_elsewhere_is_written_again() -> None:
    batch, channel = batch_of("silence", "ack"), FakeChannel(by_exchange)
    with pytest.raises(StalledError):
        write(batch, channel, PATIENCE)
    other = FakeChannel()
    write(batch, other, PATIENCE)
    assert (other.taken, batch.confirmed) == ([0], 2)


@pytest.mark.parametrize("rewrite", [False, True])
def test_a_channel_closed_for_a_later_message(rewrite: bool) -> None:
    batch, channel = batch_of("silence", "ack", rewrite=rewrite), FakeChannel(by_exchange)
    with pytest.raises(StalledError):
        write(batch, channel, PATIENCE)
    # It was routed, or the broker would have said so before it answered something else.
    channel.late.mark_routed()
    channel.recover(0)
    channel._judge = lambda _: "ack"
    write(batch, channel, PATIENCE)
    assert channel.taken == ([1, 0] if rewrite else [1])
    assert batch.pending == 0


def test_a_channel_that_others_saw_closed_for_one_of_these() -> None:
    batch, channel = batch_of("silence", "silence"), FakeChannel(by_exchange)
    with pytest.raises(StalledError):
        write(batch, channel, PATIENCE)
    channel.recover(0)
    channel.late_refusal = ChannelClosedError(404, "NOT_FOUND - no exchange 'silence' in vhost '/'")
    write(batch, channel, PATIENCE)
    assert list(batch.causes) == [0, 1]
    assert channel.late_refusal is None


def test_without_confirms_nothing_is_waited_for() -> None:
    batch, channel = batch_of("silence", "silence"), FakeChannel(by_exchange)
    write(batch, channel, PATIENCE, confirm=False)
    assert (batch.pending, batch.confirmed) == (0, 0)
    assert channel.state == "unattended"
    assert channel.waits == []


def test_without_confirms_steps_reach_all_messages() -> None:
    batch, channel = batch_of("x", "x", "x"), FakeChannel(once("close"))
    channel.most = 40
    write(batch, channel, PATIENCE, confirm=False)
    channel.receive()
    assert channel.taken == [0, 1, 2]


def test_stopping_frees_the_tags_of_what_is_not_written() -> None:
    batch, channel = batch_of("ack", "ack", "ack", "ack"), FakeChannel()
    channel.most = 10
    write(batch, channel, PATIENCE, stop=lambda: bool(channel.waits or channel.sent > 80))
    assert 0 < len(channel.taken) < 4
    assert batch.delivered() == channel.taken
    # Else a confirm of what was never published would count, and later tags be wrong.
    assert channel.published == len(channel.taken)
    write(batch, channel, PATIENCE)
    assert channel.taken == [0, 1, 2, 3]
    assert channel.published == 4


def test_stopping_what_was_left_frees_its_tags_as_well() -> None:
    batch, channel = batch_of("ack", "ack", "ack"), FakeChannel()
    channel.most, channel.room = 10, 30
    with pytest.raises(StalledError):
        write(batch, channel, PATIENCE)
    assert batch.stop_writing() == [0]
    channel.room = 1000
    write(batch, channel, PATIENCE, stop=lambda: True)
    assert (batch.delivered(), channel.published) == ([0], 1)


def test_stopped_before_it_began() -> None:
    batch, channel = batch_of("ack"), FakeChannel()
    write(batch, channel, PATIENCE, stop=lambda: True)
    assert (batch.pending, channel.published) == (1, 0)


def test_a_broker_that_is_blocked_is_outlasted_if_so_wanted() -> None:
    for patience, endless in ((Patience(60), False), (Patience(60, outlasts_block=True), True)):
        batch, channel = batch_of("silence"), FakeChannel(by_exchange)
        channel.blocked = "memory"
        with pytest.raises(StalledError):
            write(batch, channel, patience)
        assert {math.isinf(until) for until, _ in channel.waits} == {endless}


def test_patience_for_confirms_begins_when_all_is_written() -> None:
    batch, channel = batch_of("silence"), FakeChannel(by_exchange)
    start = time.monotonic()
    with pytest.raises(StalledError):
        write(batch, channel, Patience(1000, confirming=10))
    until, sending = channel.waits[-1]
    assert (round(until - start, -1), sending) == (10, False)
    channel.room = 0
    with pytest.raises(StalledError):
        write(batch_of("ack"), channel, Patience(1000, confirming=10))
    until, sending = channel.waits[-1]
    assert (round(until - start, -1), sending) == (1000, True)


def test_a_confirm_of_what_is_not_written_yet() -> None:
    batch, channel = batch_of("ack", "ack", "ack"), FakeChannel()
    channel.most = 10

    def lie() -> None:
        assert channel._writing is not None
        channel._writing.answer(Ack(True, 3, multiple=True))

    channel.receive = lie  # type: ignore[method-assign]
    with pytest.raises(ConnectionLostError, match="not written yet"):
        write(batch, channel, PATIENCE)
    # Whoever lies once is believed nothing.
    assert (batch.pending, channel.usable) == (3, False)


def test_more_messages_come_back_than_were_published() -> None:
    batch, channel = batch_of("return"), FakeChannel(by_exchange)
    batch.returned.clear()
    receive = channel.receive

    def twice() -> None:
        written = channel._written
        receive()
        channel._written = written
        receive()

    channel.receive = twice  # type: ignore[method-assign]
    with pytest.raises(ConnectionLostError, match="more messages than were published"):
        write(batch, channel, PATIENCE)


def test_whatever_else_ends_a_wait() -> None:
    batch, channel = batch_of("ack"), FakeChannel()

    def interrupt(deadline: float, *, sending: bool = False) -> None:
        channel.abandon(ConnectionLostError("interrupted"))
        raise KeyboardInterrupt

    channel.wait = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        write(batch, channel, PATIENCE)
    assert (batch.pending, batch.awaited) == (1, False)
