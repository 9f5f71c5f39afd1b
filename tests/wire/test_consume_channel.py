"""The consumer's role, against a peer that says what it is told, over a socket pair."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from pika import spec

from pg_amqp_py.wire import methods
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.channel import PublishingChannel, connect_publisher
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.consume import methods as own
from pg_amqp_py.wire.consume.arguments import encode_arguments
from pg_amqp_py.wire.consume.channel import ConsumingChannel, connect_consumer
from pg_amqp_py.wire.errors import (
    ChannelClosedError,
    ConnectionLostError,
    NotAMQPError,
    StalledError,
)
from pg_amqp_py.wire.transport import Transport
from support.broker_end import AnsweredTransport, FarEnd
from support.counting import count
from support.deliveries import TAG, Sent, stream
from support.handshake import OPENED, method
from support.patience import LIMIT

ADDRESS = Address("test", 1, "/", "u", "p")
X, Y = Sent(b"x"), Sent(b"y")
NO_QUEUE = spec.Channel.Close(404, "NOT_FOUND - no queue 'q' in vhost '/'", 60, 20)
TIMED_OUT = spec.Channel.Close(
    406,
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used:"
    " 1000 ms. This timeout value can be configured, see consumers doc guide to learn more",
    0,
    0,
)
REOPENING = methods.CONFIRM_CLOSED_CHANNEL + methods.OPEN_CHANNEL


def soon() -> float:
    return time.monotonic() + LIMIT


def nothing() -> None: ...


@pytest.fixture
def peer_and_channel() -> Iterator[tuple[FarEnd, ConsumingChannel]]:
    """An open channel."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    peer = FarEnd(theirs)
    transport = AnsweredTransport(ours, nothing)
    transport.peer = peer
    connection = Connection(transport, ADDRESS)
    channel = ConsumingChannel(connection)
    connection.attach(channel)
    peer.answers.append(spec.Channel.OpenOk())
    channel.open(soon())
    connection.complete()
    assert peer.heard() == methods.OPEN_CHANNEL
    yield peer, channel
    connection.abandon(ConnectionLostError("the test is over"))
    peer.close()


@pytest.fixture
def peer(peer_and_channel: tuple[FarEnd, ConsumingChannel]) -> FarEnd:
    return peer_and_channel[0]


@pytest.fixture
def channel(peer_and_channel: tuple[FarEnd, ConsumingChannel]) -> ConsumingChannel:
    """One that consumes."""
    peer, channel = peer_and_channel
    peer.answers += [spec.Basic.QosOk(), spec.Basic.ConsumeOk(TAG)]
    channel.consume("q", 10, {}, soon())
    consume = own.consume("q", TAG, encode_arguments({}))
    assert peer.heard() == own.limit_unacknowledged(10) + consume
    return channel


def bodies(channel: ConsumingChannel) -> list[bytes]:
    return [delivery.body for delivery in channel.take()]


def test_deliveries_until_they_are_taken(peer: FarEnd, channel: ConsumingChannel) -> None:
    assert (channel.consuming, channel.cancelled, channel.pending_bytes) == (True, False, 0)
    data = stream([X, Y])
    peer.say_bytes(data[:-1])
    channel.connection.receive()
    assert channel.pending_bytes > len(data) / 2
    assert bodies(channel) == [b"x"]
    peer.say_bytes(data[-1:])
    channel.connection.receive()
    assert bodies(channel) == [b"y"]
    assert (channel.pending_bytes, bodies(channel)) == (0, [])


def test_what_comes_with_an_answer_is_not_waited_for(
    peer: FarEnd, channel: ConsumingChannel
) -> None:
    peer.say(spec.Queue.DeclareOk("q", 7, 0))
    peer.say_bytes(stream([X]))
    count(channel, "q")
    channel.wait(time.monotonic())
    assert bodies(channel) == [b"x"]
    with pytest.raises(StalledError):
        channel.wait(time.monotonic() + 0.01)


def test_an_acknowledgement_is_of_all_before(peer: FarEnd, channel: ConsumingChannel) -> None:
    peer.say_bytes(stream([X] * 3))
    channel.connection.receive()
    channel.ack(2, soon())
    assert peer.heard() == method(spec.Basic.Ack(2, multiple=True), 1)
    channel.ack(2, soon())
    channel.ack(1, soon())
    assert peer.heard() == b""
    channel.ack(3, soon())
    assert peer.heard() == method(spec.Basic.Ack(3, multiple=True), 1)


def test_what_comes_while_the_consumer_is_cancelled(
    peer: FarEnd, channel: ConsumingChannel
) -> None:
    peer.say_bytes(stream([X, Y]))
    peer.answers.append(spec.Basic.CancelOk(TAG))
    channel.cancel(soon())
    assert peer.heard() == own.cancel(TAG)
    assert (channel.consuming, channel.cancelled) == (False, False)
    assert bodies(channel) == [b"x", b"y"]
    channel.ack(2, soon())
    assert peer.heard() == own.acknowledge(2)
    channel.cancel(soon())
    assert peer.heard() == b""


def test_a_delivery_to_a_consumer_that_was_cancelled(
    peer: FarEnd, channel: ConsumingChannel
) -> None:
    peer.answers.append(spec.Basic.CancelOk(TAG))
    channel.cancel(soon())
    peer.say_bytes(stream([X]))
    with pytest.raises(ConnectionLostError, match="for a consumer that there is not"):
        channel.connection.receive()


def test_the_broker_cancels(peer: FarEnd, channel: ConsumingChannel) -> None:
    peer.say_bytes(stream([X]))
    peer.say(spec.Basic.Cancel(TAG, True))
    channel.connection.receive()
    assert (channel.consuming, channel.cancelled) == (False, True)
    assert bodies(channel) == [b"x"]
    channel.ack(1, soon())
    assert peer.heard() == own.acknowledge(1)
    # And again, under another name: what comes to the old one would be a lie.
    peer.answers += [spec.Basic.QosOk(), spec.Basic.ConsumeOk("pg-amqp-2")]
    channel.consume("q", 10, {}, soon())
    assert (channel.consuming, channel.cancelled) == (True, False)
    peer.say_bytes(b"".join(Y.frames(2, consumer="pg-amqp-2")))
    channel.connection.receive()
    assert bodies(channel) == [b"y"]


def test_the_broker_cancels_another(peer: FarEnd, channel: ConsumingChannel) -> None:
    peer.say(spec.Basic.Cancel("pg-amqp-2", True))
    with pytest.raises(ConnectionLostError, match="a cancel for a consumer that there is not"):
        channel.connection.receive()


def test_both_cancel_at_once(peer: FarEnd, channel: ConsumingChannel) -> None:
    peer.answers += [spec.Basic.Cancel(TAG, True), spec.Basic.CancelOk(TAG)]
    channel.cancel(soon())
    assert (channel.consuming, channel.cancelled) == (False, True)


def test_a_refused_consumer(peer: FarEnd, channel: ConsumingChannel) -> None:
    peer.say(spec.Basic.Cancel(TAG, True))
    channel.connection.receive()
    peer.answers += [spec.Basic.QosOk(), NO_QUEUE, spec.Channel.OpenOk()]
    with pytest.raises(ChannelClosedError, match="no queue") as caught:
        channel.consume("q", 10, {}, soon())
    assert (caught.value.code, channel.consuming) == (404, False)
    assert peer.heard().endswith(REOPENING)
    # The channel is open again.
    peer.answers.append(spec.Queue.DeclareOk("q", 7, 0))
    assert count(channel, "q") == 7


def test_a_channel_that_the_broker_closes(peer: FarEnd, channel: ConsumingChannel) -> None:
    peer.say_bytes(stream([X, Y]))
    peer.say(TIMED_OUT)
    with pytest.raises(
        ChannelClosedError, match="acknowledgement on channel 1 timed out"
    ) as caught:
        channel.connection.receive()
    assert caught.value.code == 406
    assert channel.connection.usable
    # The broker delivers them again, and they cannot be acknowledged any more.
    assert (bodies(channel), channel.consuming, channel.pending_bytes) == ([], False, 0)
    channel.ack(2, soon())
    assert peer.heard() == b""
    peer.answers.append(spec.Channel.OpenOk())
    channel.reopen(soon())
    assert peer.heard() == REOPENING
    channel.reopen(soon())
    assert peer.heard() == b""


def test_after_it_was_opened_again_old_deliveries_are_not_acknowledged(
    peer: FarEnd, channel: ConsumingChannel
) -> None:
    peer.say_bytes(stream([X, Y]))
    channel.connection.receive()
    old = channel.take()
    peer.say(TIMED_OUT)
    with pytest.raises(ChannelClosedError):
        channel.connection.receive()
    # A question opens it again by itself.
    peer.answers += [spec.Channel.OpenOk(), spec.Basic.QosOk(), spec.Basic.ConsumeOk("pg-amqp-2")]
    channel.consume("q", 10, {}, soon())
    peer.heard()
    peer.say_bytes(b"".join(X.frames(1, consumer="pg-amqp-2") + Y.frames(2, consumer="pg-amqp-2")))
    channel.connection.receive()
    new = channel.take()
    channel.ack(old[-1].tag, soon())
    assert peer.heard() == b""
    channel.ack(new[0].tag, soon())
    assert peer.heard() == own.acknowledge(1)


def test_what_was_answered_before_the_channel_was_closed_is_not_answered_later(
    peer: FarEnd, channel: ConsumingChannel
) -> None:
    peer.answers += [[spec.Queue.DeclareOk("q", 7, 0), TIMED_OUT], spec.Channel.OpenOk()]
    with pytest.raises(ChannelClosedError):
        count(channel, "q")
    peer.answers.append(spec.Queue.DeclareOk("q", 8, 0))
    assert count(channel, "q") == 8


def test_a_count(peer: FarEnd, channel: ConsumingChannel) -> None:
    peer.say_bytes(stream([X]))
    peer.answers.append(spec.Queue.DeclareOk("a name", 1 << 31, 3))
    assert count(channel, "q") == 1 << 31
    assert peer.heard() == own.look_for_queue("q")
    assert bodies(channel) == [b"x"]


def test_a_broker_that_takes_no_messages(peer: FarEnd, channel: ConsumingChannel) -> None:
    peer.say(spec.Connection.Blocked("memory"), number=0)
    peer.say_bytes(stream([X]))
    channel.connection.receive()
    assert bodies(channel) == [b"x"]


def test_a_lost_connection_takes_with_it_what_was_not_taken(
    peer: FarEnd, channel: ConsumingChannel
) -> None:
    peer.say_bytes(stream([X, Y]))
    channel.connection.receive()
    peer.close()
    with pytest.raises(ConnectionLostError):
        channel.connection.receive()
    assert (bodies(channel), channel.pending_bytes, channel.consuming) == ([], 0, False)
    with pytest.raises(ConnectionLostError, match="closed by the peer"):
        channel.ack(2, soon())


@pytest.mark.parametrize(
    "said",
    [
        spec.Basic.Ack(1),
        spec.Basic.CancelOk(TAG),
        spec.Basic.ConsumeOk(TAG),
        spec.Basic.Return(312, "NO_ROUTE", "", "k"),
        spec.Basic.GetOk(1, False, "", "k", 1),
        spec.Queue.DeclareOk("q", 1, 1),
        spec.Channel.CloseOk(),
    ],
)
def test_what_nobody_has_asked_for(peer: FarEnd, channel: ConsumingChannel, said: object) -> None:
    peer.say(said)
    with pytest.raises(ConnectionLostError, match="received"):
        channel.connection.receive()
    assert not channel.connection.usable


def test_a_broker_that_never_answers_ends_the_connection(
    peer: FarEnd, channel: ConsumingChannel
) -> None:
    with pytest.raises(StalledError):
        channel.cancel(time.monotonic())
    assert not channel.connection.usable


# -- what else may end a wait --------------------------------------------------------------------


@pytest.fixture
def bell(channel: ConsumingChannel) -> Iterator[int]:
    """What another thread writes to."""
    descriptor = os.eventfd(0, os.EFD_NONBLOCK)
    channel.connection.heed(descriptor)
    yield descriptor
    os.close(descriptor)


def test_another_thread_ends_a_wait(channel: ConsumingChannel, bell: int) -> None:
    ringing = threading.Thread(target=os.eventfd_write, args=(bell, 1))
    ringing.start()
    channel.connection.wait(soon())
    ringing.join()
    os.eventfd_read(bell)
    with pytest.raises(StalledError):
        channel.connection.wait(time.monotonic() + 0.01)
    assert channel.connection.usable


def test_the_bell_does_not_keep_from_what_arrives(
    peer: FarEnd, channel: ConsumingChannel, bell: int
) -> None:
    peer.say_bytes(stream([X]))
    channel.connection.wait(soon())
    channel.connection.receive()
    assert bodies(channel) == [b"x"]


def test_a_reply_is_waited_for_while_the_bell_rings(
    peer: FarEnd, channel: ConsumingChannel, bell: int
) -> None:
    os.eventfd_write(bell, 1)
    # Without rest, it would be waited for thousands of times.
    answer = threading.Timer(0.3, peer.say, [spec.Basic.CancelOk(TAG)])
    answer.start()
    waits = 0
    wait = channel.connection.wait

    def counted(deadline: float, *, sending: bool = False) -> None:
        nonlocal waits
        waits += 1
        wait(deadline, sending=sending)

    channel.connection.wait = counted  # type: ignore[method-assign]
    channel.cancel(soon())
    assert waits < 10
    # And it ends the next one.
    wait(soon())


def test_a_silent_broker_is_given_up_though_the_bell_rings(
    peer: FarEnd, channel: ConsumingChannel, bell: int
) -> None:
    os.eventfd_write(bell, 1)
    channel.connection.tune(4096, 1)
    channel.connection.received_at = time.monotonic() - 60
    with pytest.raises(ConnectionLostError, match="no heartbeat within 2 seconds"):
        channel.connection.beat()


# -- the handshake -------------------------------------------------------------------------------


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The peer of the connection that is opened next."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    monkeypatch.setattr(
        "pg_amqp_py.wire.handshake.open_transport", lambda *_: Transport(ours, nothing)
    )
    yield peer
    ours.close()
    peer.close()


@pytest.mark.parametrize(
    ("role", "capabilities"),
    [
        (
            PublishingChannel,
            "authentication_failure_close basic.nack connection.blocked publisher_confirms",
        ),
        (ConsumingChannel, "authentication_failure_close consumer_cancel_notify"),
    ],
)
def test_what_a_role_says_of_itself(
    streams: socket.socket,
    role: type[PublishingChannel] | type[ConsumingChannel],
    capabilities: str,
) -> None:
    confirmed = method(spec.Confirm.SelectOk(), 1)
    if role is PublishingChannel:
        streams.sendall(OPENED)
        connect_publisher(ADDRESS, {"product": "test"}, 5, nothing)
    else:
        streams.sendall(OPENED.removesuffix(confirmed))
        connect_consumer(ADDRESS, {"product": "test"}, 5, nothing)
    told = {"product": "test", "capabilities": dict.fromkeys(capabilities.split(), True)}
    start_ok = method(spec.Connection.StartOk(told, "PLAIN", "\0u\0p", "en_US"))
    assert start_ok in streams.recv(1 << 16)


def test_a_peer_that_speaks_something_else(streams: socket.socket) -> None:
    streams.sendall(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(NotAMQPError, match=r'greets with "HTTP/1\.1 400 Bad'):
        connect_consumer(ADDRESS, {}, 5, nothing)
