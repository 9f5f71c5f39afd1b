"""Questions and messages on a publishing channel, and what the broker says of earlier ones."""

from __future__ import annotations

import time
from collections.abc import Callable

import pika.frame
import pika.spec
import pytest

from pg_amqp_py.wire import methods
from pg_amqp_py.wire.channel import PublishingChannel, State
from pg_amqp_py.wire.confirms import Confirms, Returned
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError
from support.broker_end import GONE, OPENED, FarEnd, channel_fixtures, spec

peer_and_channel, peer, channel = channel_fixtures()


def soon() -> float:
    return time.monotonic() + 5


def at_once() -> float:
    return time.monotonic() + 0.01


def ignore(returned: Returned) -> None: ...


# ---- Questions, and refusals that come late ----


def test_an_answer_that_nobody_asked_for(peer: FarEnd, channel: PublishingChannel) -> None:
    peer.say(spec.Exchange.DeclareOk())
    with pytest.raises(ConnectionLostError, match="nobody asked"):
        channel.receive()


def test_an_exchange_is_asked_for_once(peer: FarEnd, channel: PublishingChannel) -> None:
    peer.answers += [spec.Exchange.DeclareOk()]
    channel.require_exchange("x", soon())
    channel.require_exchange("x", soon())
    channel.require_exchange("", soon())
    assert peer.heard() == methods.look_for_exchange("x")
    assert channel.exchanges == {"", "x"}
    channel.forget_exchanges()
    with pytest.raises(StalledError):
        channel.require_exchange("x", at_once())


def test_an_exchange_that_does_not_exist(peer: FarEnd, channel: PublishingChannel) -> None:
    channel.remember_exchange("y")
    peer.answers += [GONE, *OPENED]
    with pytest.raises(ChannelClosedError):
        channel.require_exchange("x", soon())
    # Nothing has happened to others.
    assert channel.exchanges == {"", "y"}
    assert (channel.state, channel.openings) == (State.READY, 2)
    assert channel.take_late_refusal() is None


def test_a_refusal_of_messages_that_nobody_waits_for(
    peer: FarEnd, channel: PublishingChannel
) -> None:
    channel.claim(1)
    channel.leave_unattended()
    channel.remember_exchange("x")
    peer.answers += [GONE, *OPENED]
    channel.round_trip(soon())
    refusal = channel.take_late_refusal()
    assert refusal is not None
    assert refusal.code == 404
    assert channel.take_late_refusal() is None
    # The exchange is to be looked for before anything else is published there.
    assert channel.exchanges == {""}
    assert channel.state == State.READY


def test_a_refusal_that_has_arrived_already(peer: FarEnd, channel: PublishingChannel) -> None:
    channel.claim(1)
    channel.leave_unattended()
    channel.remember_exchange("x")
    peer.answers += OPENED
    peer.say(GONE)
    channel.look(soon())
    assert channel.take_late_refusal() is not None
    assert (channel.state, channel.exchanges) == (State.READY, {""})


def test_a_question_that_is_not_answered_yet(peer: FarEnd, channel: PublishingChannel) -> None:
    assert not channel.answers(at_once())
    assert channel.owes_answer
    assert channel.state == State.READY
    peer.say(spec.Channel.FlowOk(True))
    channel.receive()
    assert not channel.owes_answer


def test_a_question_that_was_cut_off_with_its_channel(
    peer: FarEnd, channel: PublishingChannel
) -> None:
    assert not channel.answers(at_once())
    peer.answers += OPENED
    channel.reopen(soon())
    assert not channel.owes_answer


def test_a_round_trip_that_takes_too_long(channel: PublishingChannel) -> None:
    with pytest.raises(StalledError):
        channel.round_trip(at_once())
    assert channel.state == State.CLOSED


# ---- Messages ----


def test_confirms_of_what_is_written_are_counted(peer: FarEnd, channel: PublishingChannel) -> None:
    confirms = Confirms(channel.claim(3), 3)
    channel.begin(confirms, ignore)
    peer.say(spec.Basic.Ack(1))
    channel.receive()
    peer.say(spec.Basic.Ack(3))
    channel.receive()
    assert list(confirms.unanswered()) == [1]


def test_a_confirm_of_late_messages_and_of_those_that_are_written(
    peer: FarEnd, channel: PublishingChannel
) -> None:
    late, now = Confirms(channel.claim(1), 1), Confirms(channel.claim(2), 2)
    channel.await_late(late, lambda _: False)
    channel.begin(now, ignore)
    peer.say(spec.Basic.Ack(3, True))
    channel.receive()
    assert (late.outstanding, now.outstanding) == (0, 0)
    assert not channel.late


def test_confirms_that_come_one_after_the_other(peer: FarEnd, channel: PublishingChannel) -> None:
    peer.say(spec.Basic.Ack(1), spec.Basic.Ack(2))
    assert channel.await_confirms(1, 3) == 3
    assert channel.connection.read(0) == b""


def test_what_else_comes_is_left_to_be_received(peer: FarEnd, channel: PublishingChannel) -> None:
    peer.say(spec.Basic.Ack(1))
    assert channel.await_confirms(1, 3) == 2
    for said in (spec.Basic.Ack(3), spec.Basic.Nack(2), spec.Basic.Ack(9, True)):
        peer.say(said)
        assert channel.await_confirms(2, 4) == 2
        assert channel.connection.read(0) == pika.frame.Method(1, said).marshal()


def test_tags_that_were_given_back_are_given_out_again(channel: PublishingChannel) -> None:
    assert channel.claim(5) == 1
    channel.give_back(2)
    assert channel.claim(1) == 4


@pytest.mark.parametrize("multiple", [False, True])
@pytest.mark.parametrize("tag", [2, 1 << 40])
def test_a_confirm_of_what_was_never_published(
    tag: int, multiple: bool, peer: FarEnd, channel: PublishingChannel
) -> None:
    channel.begin(Confirms(channel.claim(1), 1), ignore)
    peer.say(spec.Basic.Ack(tag, multiple))
    with pytest.raises(ConnectionLostError, match="never published"):
        channel.receive()
    assert channel.state == State.CLOSED


def returned(key: str) -> bytes:
    return b"".join(
        frame.marshal()
        for frame in (
            pika.frame.Method(1, spec.Basic.Return(312, "NO_ROUTE", "x", key)),
            pika.frame.Header(1, 0, spec.BasicProperties(message_id="m")),
        )
    )


def test_messages_come_back_to_whose_they_are(peer: FarEnd, channel: PublishingChannel) -> None:
    found: list[tuple[str, str, str]] = []

    def keep(whose: str) -> Callable[[Returned], bool]:
        def take(message: Returned) -> bool:
            if message.routing_key == whose:
                found.append((whose, message.text, message.message_id or ""))
            return message.routing_key == whose

        return take

    channel.await_late(Confirms(channel.claim(1), 1), keep("late"))
    channel.begin(Confirms(channel.claim(1), 1), lambda message: found.append(("now", "", "")))
    peer.say_bytes(returned("late") + returned("other"))
    channel.receive()
    assert found == [("late", "NO_ROUTE (312)", "m"), ("now", "", "")]
    channel.end()
    peer.say_bytes(returned("other"))
    channel.receive()
    # What was routed cannot come back.
    channel.late.mark_routed()
    peer.say_bytes(returned("late"))
    channel.receive()
    assert len(found) == 2


def test_content_that_was_not_asked_for(peer: FarEnd, channel: PublishingChannel) -> None:
    peer.say_bytes(pika.frame.Header(1, 0, spec.BasicProperties()).marshal())
    with pytest.raises(ConnectionLostError, match="content that was not asked for"):
        channel.receive()


def test_nothing_is_held_for_a_connection_that_is_gone(channel: PublishingChannel) -> None:
    channel.begin(Confirms(channel.claim(1), 1), ignore)
    channel.await_late(Confirms(channel.claim(1), 1), lambda _: False)
    channel.abandon(ConnectionLostError("reset by peer"))
    assert (bool(channel.late), channel._writing, channel._on_return) == (False, None, None)
    assert not channel.opening.lives
    with pytest.raises(ConnectionLostError, match="reset by peer"):
        channel.receive()
