"""The states of a publishing channel: how each is reached, and what each operation does there."""

from __future__ import annotations

import time
from collections.abc import Callable
from inspect import cleandoc

import pika.frame
import pika.spec
import pytest

from pg_amqp_py.wire import channel as channel_module
from pg_amqp_py.wire import methods
from pg_amqp_py.wire.channel import PublishingChannel, State
from pg_amqp_py.wire.confirms import Confirms, Returned
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.small import write_small
from support.broker_end import GONE, OPENED, REOPENING, FarEnd, channel_fixtures, spec

peer_and_channel, peer, channel = channel_fixtures()


def soon() -> float:
    return time.monotonic() + 5


def ignore(returned: Returned) -> None: ...


def messages(count: int = 1) -> tuple[bytearray, list[int]]:
    stream, starts = bytearray(), list[int]()
    for _ in range(count):
        starts.append(len(stream))
        Encoder().append(stream, tuple(Envelope("x", "key")), b"body")
    return stream, starts


# ---- How the states are reached ----


def be_ready(peer: FarEnd, channel: PublishingChannel) -> None:
    """As it was opened."""


def be_unattended(peer: FarEnd, channel: PublishingChannel) -> None:
    assert write_small(channel, *messages(), confirm=False) is None


def be_refusing(peer: FarEnd, channel: PublishingChannel) -> None:
    channel.claim(1)
    peer.say(spec.Basic.Nack(1))
    channel.receive()


def be_awaiting(peer: FarEnd, channel: PublishingChannel) -> None:
    channel.await_late(Confirms(channel.claim(1), 1), lambda _: False)


def be_blocked(peer: FarEnd, channel: PublishingChannel) -> None:
    peer.say(spec.Connection.Blocked("memory"), number=0)
    channel.receive()


def be_writing(peer: FarEnd, channel: PublishingChannel) -> None:
    channel.begin(Confirms(channel.claim(1), 1), ignore)


def be_shut(peer: FarEnd, channel: PublishingChannel) -> None:
    peer.say(GONE)
    with pytest.raises(ChannelClosedError):
        channel.receive()


def be_closed(peer: FarEnd, channel: PublishingChannel) -> None:
    channel.abandon(ConnectionLostError("reset by peer"))


REACHED: dict[str, Callable[[FarEnd, PublishingChannel], None]] = {
    State.READY: be_ready,
    State.UNATTENDED: be_unattended,
    State.REFUSING: be_refusing,
    State.AWAITING: be_awaiting,
    State.BLOCKED: be_blocked,
    State.WRITING: be_writing,
    State.SHUT: be_shut,
    State.CLOSED: be_closed,
}
"""In the order of the table: where two are so, the later one counts."""

every_state = pytest.mark.parametrize("state", REACHED)


def reach(state: str, peer: FarEnd, channel: PublishingChannel) -> None:
    REACHED[state](peer, channel)
    assert channel.state == state
    peer.heard()


def test_the_table_has_all_states() -> None:
    names = [value for name, value in vars(State).items() if name.isupper()]
    assert names == list(REACHED)
    # Some versions of Python take the indentation away.
    table = cleandoc(State.__doc__ or "").split("===\n")
    rows = [line.split()[0].lower() for line in table[2].splitlines() if line[:1].isupper()]
    assert rows == names


@every_state
def test_each_state_is_reached(state: str, peer: FarEnd, channel: PublishingChannel) -> None:
    reach(state, peer, channel)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(one, two) for at, one in enumerate(REACHED) for two in list(REACHED)[at + 1 :]],
)
def test_of_two_the_later_one_counts(
    lower: str, upper: str, peer: FarEnd, channel: PublishingChannel
) -> None:
    REACHED[lower](peer, channel)
    REACHED[upper](peer, channel)
    assert channel.state == upper


# ---- How they end ----


def test_confirms_end_the_wait_for_late_ones(peer: FarEnd, channel: PublishingChannel) -> None:
    reach(State.AWAITING, peer, channel)
    peer.say(spec.Basic.Ack(1))
    channel.receive()
    assert channel.state == State.READY


def test_unattended_messages_beside_awaited_ones(peer: FarEnd, channel: PublishingChannel) -> None:
    reach(State.AWAITING, peer, channel)
    channel.leave_unattended()
    assert channel.state == State.AWAITING
    peer.say(spec.Basic.Ack(1))
    channel.receive()
    assert channel.state == State.UNATTENDED


def test_a_broker_that_is_blocked_no_more(peer: FarEnd, channel: PublishingChannel) -> None:
    reach(State.BLOCKED, peer, channel)
    assert channel.blocked == "memory"
    peer.say(spec.Connection.Unblocked(), number=0)
    channel.receive()
    assert channel.state == State.READY
    assert channel.blocked is None


def test_a_batch_that_is_done(peer: FarEnd, channel: PublishingChannel) -> None:
    reach(State.WRITING, peer, channel)
    channel.end()
    assert channel.state == State.READY


@pytest.mark.parametrize("state", [*REACHED][:-1])
def test_a_channel_that_is_opened_again_is_ready(
    state: str, peer: FarEnd, channel: PublishingChannel
) -> None:
    reach(state, peer, channel)
    opening = channel.opening
    peer.answers += OPENED
    channel.reopen(soon())
    assert peer.heard() == methods.CONFIRM_CLOSED_CHANNEL + REOPENING
    assert (channel.published, channel.openings) == (0, 2)
    assert not opening.lives
    assert channel.opening.lives
    # A batch or a blocked broker does not end with it.
    stays = state in (State.WRITING, State.BLOCKED)
    assert channel.state == (state if stays else State.READY)


# ---- A small transaction ----


@every_state
@pytest.mark.parametrize("confirm", [True, False])
def test_a_small_transaction(
    state: str, confirm: bool, peer: FarEnd, channel: PublishingChannel
) -> None:
    reach(state, peer, channel)
    goes = state == State.READY or (state == State.UNATTENDED and not confirm)
    published = channel.published
    if goes and confirm:
        peer.say(spec.Basic.Ack(published + 1))
    batch = write_small(channel, *messages(), confirm=confirm)
    assert (batch is None) == goes
    assert channel.published == published + goes
    if state != State.CLOSED:
        assert peer.heard() == (bytes(messages()[0]) if goes else b"")
    if goes:
        assert channel.state == (State.READY if confirm else State.UNATTENDED)


# ---- Before a batch ----


def prepare(channel: PublishingChannel) -> None:
    channel.prepare(soon(), wait=True)


def test_before_a_batch_nothing_is_asked_where_all_is_answered(
    peer: FarEnd, channel: PublishingChannel
) -> None:
    prepare(channel)
    assert peer.heard() == b""


def test_before_a_batch_nothing_is_asked_of_a_blocked_broker(
    peer: FarEnd, channel: PublishingChannel
) -> None:
    reach(State.AWAITING, peer, channel)
    be_blocked(peer, channel)
    prepare(channel)
    assert peer.heard() == b""


def test_before_a_batch_unattended_messages_are_asked_for(
    peer: FarEnd, channel: PublishingChannel
) -> None:
    reach(State.UNATTENDED, peer, channel)
    peer.answers += [spec.Channel.FlowOk(True)]
    prepare(channel)
    assert peer.heard() == methods.RESUME_FLOW
    assert channel.state == State.READY
    prepare(channel)
    assert peer.heard() == b""


def test_before_a_batch_that_will_not_wait_nothing_is_asked(
    peer: FarEnd, channel: PublishingChannel
) -> None:
    reach(State.UNATTENDED, peer, channel)
    peer.say(spec.Basic.Ack(1))
    channel.prepare(soon(), wait=False)
    assert peer.heard() == b""
    assert channel.state == State.UNATTENDED


def test_before_a_batch_late_confirms_are_made_safe(
    peer: FarEnd, channel: PublishingChannel
) -> None:
    confirms = Confirms(channel.claim(1), 1)
    channel.await_late(confirms, lambda _: False)
    peer.answers += [spec.Channel.FlowOk(True)]
    prepare(channel)
    assert peer.heard() == methods.RESUME_FLOW
    assert confirms.routed
    assert channel.state == State.AWAITING


def test_before_a_batch_a_refusing_channel_is_opened_anew(
    peer: FarEnd, channel: PublishingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(State.REFUSING, peer, channel)
    # Not at once: a full queue refuses on every channel.
    prepare(channel)
    assert peer.heard() == b""
    monkeypatch.setattr(channel_module, "_RENEW", 0.0)
    peer.answers += [spec.Channel.CloseOk(), *OPENED]
    prepare(channel)
    assert peer.heard() == methods.CLOSE_CHANNEL + REOPENING
    assert (channel.state, channel.openings) == (State.READY, 2)


def test_unattended_messages_are_asked_for_before_their_channel_goes(
    peer: FarEnd, channel: PublishingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "_RENEW", 0.0)
    reach(State.REFUSING, peer, channel)
    channel.leave_unattended()
    peer.answers += [GONE, *OPENED, spec.Channel.CloseOk(), *OPENED]
    channel.prepare(soon(), wait=False)
    assert channel.take_late_refusal() is not None


def test_a_refusing_channel_with_late_confirms_stays(
    peer: FarEnd, channel: PublishingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "_RENEW", 0.0)
    reach(State.REFUSING, peer, channel)
    channel.await_late(Confirms(channel.claim(1), 1), lambda _: False)
    peer.answers += [spec.Channel.FlowOk(True)]
    prepare(channel)
    assert peer.heard() == methods.RESUME_FLOW
    assert channel.openings == 1


# ---- Quiet ----


@every_state
def test_when_nothing_has_happened(state: str, peer: FarEnd, channel: PublishingChannel) -> None:
    reach(state, peer, channel)
    assert channel.quiet() == (state not in (State.BLOCKED, State.SHUT, State.CLOSED))


@pytest.mark.parametrize("state", [*REACHED][:-1])
def test_when_confirms_have_come(state: str, peer: FarEnd, channel: PublishingChannel) -> None:
    reach(state, peer, channel)
    channel.claim(3)
    peer.say(spec.Basic.Ack(1), spec.Basic.Ack(2))
    assert channel.quiet() == (state == State.UNATTENDED)
    # Else receive() tells.
    assert channel.connection.read(0) == (b"" if state == State.UNATTENDED else acks(1, 2))


def acks(*tags: int) -> bytes:
    return b"".join(pika.frame.Method(1, spec.Basic.Ack(tag)).marshal() for tag in tags)


def test_when_something_else_has_come(peer: FarEnd, channel: PublishingChannel) -> None:
    reach(State.UNATTENDED, peer, channel)
    for data in (acks(1) + b"\x01", acks(9), acks(1)[:-1]):
        peer.say_bytes(data)
        assert not channel.quiet()
        assert channel.connection.read(0) == data


def test_when_the_rest_of_a_frame_has_come(peer: FarEnd, channel: PublishingChannel) -> None:
    reach(State.UNATTENDED, peer, channel)
    channel.claim(1)
    peer.say_bytes(acks(1)[:5])
    channel.receive()
    peer.say_bytes(acks(1)[5:])
    assert not channel.quiet()
    channel.receive()
    assert channel.quiet()


def test_when_a_part_of_a_frame_looks_like_a_confirm(
    peer: FarEnd, channel: PublishingChannel
) -> None:
    reach(State.UNATTENDED, peer, channel)
    body = pika.frame.Body(1, acks(1)).marshal()
    peer.say_bytes(body[:7])
    channel.receive()
    peer.say_bytes(body[7:-1])
    assert not channel.quiet()


def test_when_the_peer_has_gone(peer: FarEnd, channel: PublishingChannel) -> None:
    peer.close()
    assert not channel.quiet()
    assert channel.state == State.CLOSED
