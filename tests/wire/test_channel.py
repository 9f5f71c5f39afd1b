"""The states of a publishing channel: how each is reached, and what each operation does there."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pika.frame
import pika.spec
import pytest

from pg_amqp_py.wire import channel as channel_module
from pg_amqp_py.wire import methods
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.channel import PublishingChannel, State
from pg_amqp_py.wire.confirms import Confirms, Returned
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.small import write_small
from pg_amqp_py.wire.transport import Transport

spec = pika.spec
GONE = spec.Channel.Close(404, "NOT_FOUND - no exchange 'x' in vhost '/'", 60, 40)
OPENED = [spec.Channel.OpenOk(), spec.Confirm.SelectOk()]
REOPENING = methods.OPEN_CHANNEL + methods.SELECT_CONFIRMS


class Peer:
    """The broker's end: says what it is told to, and shows what it has heard."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self.answers: list[object] = []
        """What it says on the channel one by one, as it is waited for."""

    def say(self, *said: object, number: int = 1) -> None:
        """Send methods on the channel, or on another one."""
        frames = [pika.frame.Method(number, method).marshal() for method in said]
        self._stream.sendall(b"".join(frames))

    def say_bytes(self, data: bytes) -> None:
        self._stream.sendall(data)

    def heard(self) -> bytes:
        """What has come since the last call."""
        try:
            return self._stream.recv(1 << 16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self._stream.close()


class AnsweredTransport(Transport):
    """A stream whose peer answers."""

    peer: Peer

    def wait(self, deadline: float, *, sending: bool = False) -> None:
        if self.peer.answers:
            self.peer.say(self.peer.answers.pop(0))
        super().wait(deadline, sending=sending)


@pytest.fixture
def peer_and_channel() -> Iterator[tuple[Peer, PublishingChannel]]:
    """An open channel."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    peer = Peer(theirs)
    transport = AnsweredTransport(ours, lambda: None)
    transport.peer = peer
    connection = Connection(transport, Address("test", 1, "/", "u", "p"))
    channel = PublishingChannel(connection)
    connection.attach(channel)
    peer.answers += OPENED
    channel.open(soon())
    connection.complete()
    assert peer.heard() == REOPENING
    yield peer, channel
    connection.abandon(ConnectionLostError("the test is over"))
    peer.close()


@pytest.fixture
def peer(peer_and_channel: tuple[Peer, PublishingChannel]) -> Peer:
    return peer_and_channel[0]


@pytest.fixture
def channel(peer_and_channel: tuple[Peer, PublishingChannel]) -> PublishingChannel:
    return peer_and_channel[1]


def soon() -> float:
    return time.monotonic() + 5


def at_once() -> float:
    return time.monotonic() + 0.01


def ignore(returned: Returned) -> None: ...


def messages(count: int = 1) -> tuple[bytearray, list[int]]:
    stream, starts = bytearray(), list[int]()
    for _ in range(count):
        starts.append(len(stream))
        Encoder().append(stream, tuple(Envelope("x", "key")), b"body")
    return stream, starts


# ---- How the states are reached ----


def be_ready(peer: Peer, channel: PublishingChannel) -> None:
    """As it was opened."""


def be_unattended(peer: Peer, channel: PublishingChannel) -> None:
    assert write_small(channel, *messages(), confirm=False) is None


def be_refusing(peer: Peer, channel: PublishingChannel) -> None:
    channel.claim(1)
    peer.say(spec.Basic.Nack(1))
    channel.receive()


def be_awaiting(peer: Peer, channel: PublishingChannel) -> None:
    channel.await_late(Confirms(channel.claim(1), 1), lambda _: False)


def be_blocked(peer: Peer, channel: PublishingChannel) -> None:
    peer.say(spec.Connection.Blocked("memory"), number=0)
    channel.receive()


def be_writing(peer: Peer, channel: PublishingChannel) -> None:
    channel.begin(Confirms(channel.claim(1), 1), ignore)


def be_shut(peer: Peer, channel: PublishingChannel) -> None:
    peer.say(GONE)
    with pytest.raises(ChannelClosedError):
        channel.receive()


def be_closed(peer: Peer, channel: PublishingChannel) -> None:
    channel.abandon(ConnectionLostError("reset by peer"))


REACHED: dict[str, Callable[[Peer, PublishingChannel], None]] = {
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


def reach(state: str, peer: Peer, channel: PublishingChannel) -> None:
    REACHED[state](peer, channel)
    assert channel.state == state
    peer.heard()


def test_the_table_has_all_states() -> None:
    names = [value for name, value in vars(State).items() if name.isupper()]
    assert names == list(REACHED)
    table = (State.__doc__ or "").split("===\n")
    rows = [line.split()[0].lower() for line in table[2].splitlines() if line[4:5].isupper()]
    assert rows == names


@every_state
def test_each_state_is_reached(state: str, peer: Peer, channel: PublishingChannel) -> None:
    reach(state, peer, channel)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(one, two) for at, one in enumerate(REACHED) for two in list(REACHED)[at + 1 :]],
)
def test_of_two_the_later_one_counts(
    lower: str, upper: str, peer: Peer, channel: PublishingChannel
) -> None:
    REACHED[lower](peer, channel)
    REACHED[upper](peer, channel)
    assert channel.state == upper


# ---- How they end ----


def test_confirms_end_the_wait_for_late_ones(peer: Peer, channel: PublishingChannel) -> None:
    reach(State.AWAITING, peer, channel)
    peer.say(spec.Basic.Ack(1))
    channel.receive()
    assert channel.state == State.READY


def test_unattended_messages_beside_awaited_ones(peer: Peer, channel: PublishingChannel) -> None:
    reach(State.AWAITING, peer, channel)
    channel.leave_unattended()
    assert channel.state == State.AWAITING
    peer.say(spec.Basic.Ack(1))
    channel.receive()
    assert channel.state == State.UNATTENDED


def test_a_broker_that_is_blocked_no_more(peer: Peer, channel: PublishingChannel) -> None:
    reach(State.BLOCKED, peer, channel)
    assert channel.blocked == "memory"
    peer.say(spec.Connection.Unblocked(), number=0)
    channel.receive()
    assert channel.state == State.READY
    assert channel.blocked is None


def test_a_batch_that_is_done(peer: Peer, channel: PublishingChannel) -> None:
    reach(State.WRITING, peer, channel)
    channel.end()
    assert channel.state == State.READY


@pytest.mark.parametrize("state", [*REACHED][:-1])
def test_a_channel_that_is_opened_again_is_ready(
    state: str, peer: Peer, channel: PublishingChannel
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
    state: str, confirm: bool, peer: Peer, channel: PublishingChannel
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
    peer: Peer, channel: PublishingChannel
) -> None:
    prepare(channel)
    assert peer.heard() == b""


def test_before_a_batch_nothing_is_asked_of_a_blocked_broker(
    peer: Peer, channel: PublishingChannel
) -> None:
    reach(State.AWAITING, peer, channel)
    be_blocked(peer, channel)
    prepare(channel)
    assert peer.heard() == b""


def test_before_a_batch_unattended_messages_are_asked_for(
    peer: Peer, channel: PublishingChannel
) -> None:
    reach(State.UNATTENDED, peer, channel)
    peer.answers += [spec.Channel.FlowOk(True)]
    prepare(channel)
    assert peer.heard() == methods.RESUME_FLOW
    assert channel.state == State.READY
    prepare(channel)
    assert peer.heard() == b""


def test_before_a_batch_that_will_not_wait_nothing_is_asked(
    peer: Peer, channel: PublishingChannel
) -> None:
    reach(State.UNATTENDED, peer, channel)
    peer.say(spec.Basic.Ack(1))
    channel.prepare(soon(), wait=False)
    assert peer.heard() == b""
    assert channel.state == State.UNATTENDED


def test_before_a_batch_late_confirms_are_made_safe(peer: Peer, channel: PublishingChannel) -> None:
    confirms = Confirms(channel.claim(1), 1)
    channel.await_late(confirms, lambda _: False)
    peer.answers += [spec.Channel.FlowOk(True)]
    prepare(channel)
    assert peer.heard() == methods.RESUME_FLOW
    assert confirms.routed
    assert channel.state == State.AWAITING


def test_before_a_batch_a_refusing_channel_is_opened_anew(
    peer: Peer, channel: PublishingChannel, monkeypatch: pytest.MonkeyPatch
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


def test_a_refusing_channel_with_late_confirms_stays(
    peer: Peer, channel: PublishingChannel, monkeypatch: pytest.MonkeyPatch
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
def test_when_nothing_has_happened(state: str, peer: Peer, channel: PublishingChannel) -> None:
    reach(state, peer, channel)
    assert channel.quiet() == (state not in (State.BLOCKED, State.SHUT, State.CLOSED))


@pytest.mark.parametrize("state", [*REACHED][:-1])
def test_when_confirms_have_come(state: str, peer: Peer, channel: PublishingChannel) -> None:
    reach(state, peer, channel)
    channel.claim(3)
    peer.say(spec.Basic.Ack(1), spec.Basic.Ack(2))
    assert channel.quiet() == (state == State.UNATTENDED)
    # Else receive() tells.
    assert channel.connection.read(0) == (b"" if state == State.UNATTENDED else acks(1, 2))


def acks(*tags: int) -> bytes:
    return b"".join(pika.frame.Method(1, spec.Basic.Ack(tag)).marshal() for tag in tags)


def test_when_something_else_has_come(peer: Peer, channel: PublishingChannel) -> None:
    reach(State.UNATTENDED, peer, channel)
    for data in (acks(1) + b"\x01", acks(9), acks(1)[:-1]):
        peer.say_bytes(data)
        assert not channel.quiet()
        assert channel.connection.read(0) == data


def test_when_the_rest_of_a_frame_has_come(peer: Peer, channel: PublishingChannel) -> None:
    reach(State.UNATTENDED, peer, channel)
    channel.claim(1)
    peer.say_bytes(acks(1)[:5])
    channel.receive()
    peer.say_bytes(acks(1)[5:])
    assert not channel.quiet()
    channel.receive()
    assert channel.quiet()


def test_when_the_peer_has_gone(peer: Peer, channel: PublishingChannel) -> None:
    peer.close()
    assert not channel.quiet()
    assert channel.state == State.CLOSED


# ---- Questions, and refusals that come late ----


def test_an_answer_that_nobody_asked_for(peer: Peer, channel: PublishingChannel) -> None:
    peer.say(spec.Exchange.DeclareOk())
    with pytest.raises(ConnectionLostError, match="nobody asked"):
        channel.receive()


def test_an_exchange_is_asked_for_once(peer: Peer, channel: PublishingChannel) -> None:
    peer.answers += [spec.Exchange.DeclareOk()]
    channel.require_exchange("x", soon())
    channel.require_exchange("x", soon())
    channel.require_exchange("", soon())
    assert peer.heard() == methods.look_for_exchange("x")
    assert channel.exchanges == {"", "x"}
    channel.forget_exchanges()
    with pytest.raises(StalledError):
        channel.require_exchange("x", at_once())


def test_an_exchange_that_does_not_exist(peer: Peer, channel: PublishingChannel) -> None:
    channel.remember_exchange("y")
    peer.answers += [GONE, *OPENED]
    with pytest.raises(ChannelClosedError):
        channel.require_exchange("x", soon())
    # Nothing has happened to others.
    assert channel.exchanges == {"", "y"}
    assert (channel.state, channel.openings) == (State.READY, 2)
    assert channel.take_late_refusal() is None


def test_a_refusal_of_messages_that_nobody_waits_for(
    peer: Peer, channel: PublishingChannel
) -> None:
    reach(State.UNATTENDED, peer, channel)
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


def test_a_refusal_that_has_arrived_already(peer: Peer, channel: PublishingChannel) -> None:
    reach(State.UNATTENDED, peer, channel)
    channel.remember_exchange("x")
    peer.answers += OPENED
    peer.say(GONE)
    channel.look(soon())
    assert channel.take_late_refusal() is not None
    assert (channel.state, channel.exchanges) == (State.READY, {""})


def test_a_question_that_is_not_answered_yet(peer: Peer, channel: PublishingChannel) -> None:
    assert not channel.answers(at_once())
    assert channel.owes_answer
    assert channel.state == State.READY
    peer.say(spec.Channel.FlowOk(True))
    channel.receive()
    assert not channel.owes_answer


def test_a_round_trip_that_takes_too_long(channel: PublishingChannel) -> None:
    with pytest.raises(StalledError):
        channel.round_trip(at_once())
    assert channel.state == State.CLOSED


# ---- Messages ----


def test_confirms_of_what_is_written_are_counted(peer: Peer, channel: PublishingChannel) -> None:
    confirms = Confirms(channel.claim(3), 3)
    channel.begin(confirms, ignore)
    peer.say(spec.Basic.Ack(1))
    channel.receive()
    peer.say(spec.Basic.Ack(3))
    channel.receive()
    assert list(confirms.unanswered()) == [1]


def test_a_confirm_of_late_messages_and_of_those_that_are_written(
    peer: Peer, channel: PublishingChannel
) -> None:
    late, now = Confirms(channel.claim(1), 1), Confirms(channel.claim(2), 2)
    channel.await_late(late, lambda _: False)
    channel.begin(now, ignore)
    peer.say(spec.Basic.Ack(3, True))
    channel.receive()
    assert (late.outstanding, now.outstanding) == (0, 0)
    assert not channel.late


def test_tags_that_were_given_back_are_given_out_again(channel: PublishingChannel) -> None:
    assert channel.claim(5) == 1
    channel.give_back(2)
    assert channel.claim(1) == 4


@pytest.mark.parametrize("tag", [2, 1 << 40])
def test_a_confirm_of_what_was_never_published(
    tag: int, peer: Peer, channel: PublishingChannel
) -> None:
    channel.begin(Confirms(channel.claim(1), 1), ignore)
    peer.say(spec.Basic.Ack(tag))
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


def test_messages_come_back_to_whose_they_are(peer: Peer, channel: PublishingChannel) -> None:
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


def test_content_that_was_not_asked_for(peer: Peer, channel: PublishingChannel) -> None:
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
