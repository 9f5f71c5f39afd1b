"""The requester's channel, against a broker that says what it is told."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from pg_amqp_py.wire import methods
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.consume.methods import consume_replies, look_for_queue
from pg_amqp_py.wire.encode import Series, decode_messages
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError
from pg_amqp_py.wire.fields import CORRELATION_ID
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.methods import FRAME_MAX
from pg_amqp_py.wire.request.channel import RequestingChannel
from pg_amqp_py.wire.request.requests import SAMPLE, Requests
from support.broker_end import GONE, AnsweredTransport, FarEnd, spec
from support.deliveries import Sent
from support.patience import LIMIT

OPENED = [spec.Channel.OpenOk(), spec.Basic.ConsumeOk("replies")]
OPENING = methods.OPEN_CHANNEL + consume_replies("replies")
SERIES = Series(tuple(Envelope("e", "k")), SAMPLE, FRAME_MAX, CORRELATION_ID)


@pytest.fixture
def streams() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end and the broker's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.fixture
def peer(streams: tuple[socket.socket, socket.socket]) -> FarEnd:
    """The broker."""
    return FarEnd(streams[1])


@pytest.fixture
def channel(streams: tuple[socket.socket, socket.socket], peer: FarEnd) -> RequestingChannel:
    """An open channel."""
    transport = AnsweredTransport(streams[0], lambda: None)
    transport.peer = peer
    connection = Connection(transport, Address("test", 1, "/", "u", "p"))
    channel = RequestingChannel(connection)
    connection.attach(channel)
    peer.answers += OPENED
    channel.open(soon())
    connection.complete()
    assert peer.heard() == OPENING
    return channel


def soon() -> float:
    return time.monotonic() + LIMIT


def ask(channel: RequestingChannel, seconds: float = LIMIT) -> Requests:
    requests = Requests([b"x"], SERIES)
    channel.ask(requests, time.monotonic() + seconds)
    return requests


def test_a_refusal_ends_the_call_and_the_channel_is_opened_again(
    peer: FarEnd, channel: RequestingChannel
) -> None:
    peer.answers.append(GONE)
    with pytest.raises(ChannelClosedError, match="no exchange"):
        ask(channel)
    assert len([*decode_messages(peer.heard())]) == 1
    peer.answers += OPENED
    channel.make_ready(soon())
    assert peer.heard() == methods.CONFIRM_CLOSED_CHANNEL + OPENING
    channel.make_ready(soon())
    assert peer.heard() == b""


def test_a_refusal_that_comes_when_nobody_waits_is_taken_in_before_the_next_request(
    peer: FarEnd, channel: RequestingChannel
) -> None:
    with pytest.raises(StalledError):
        ask(channel, 0)
    peer.heard()
    peer.answers += [GONE, *OPENED]
    channel.make_ready(soon())
    assert peer.heard() == methods.RESUME_FLOW + methods.CONFIRM_CLOSED_CHANNEL + OPENING


def test_a_round_trip_after_a_request_that_was_given_up(
    peer: FarEnd, channel: RequestingChannel
) -> None:
    with pytest.raises(StalledError):
        ask(channel, 0)
    peer.heard()
    for heard in (methods.RESUME_FLOW, b""):
        peer.answers += [spec.Channel.FlowOk(True)] if heard else []
        channel.make_ready(soon())
        assert peer.heard() == heard


@pytest.mark.parametrize("count", [0, 1, 70_000])
def test_how_many_consume_a_queue(peer: FarEnd, channel: RequestingChannel, count: int) -> None:
    peer.answers.append(spec.Queue.DeclareOk("q", 5, count))
    assert channel.consumers("q", soon()) == count
    assert peer.heard() == look_for_queue("q")


def test_no_look_at_a_queue_that_is_secret(peer: FarEnd, channel: RequestingChannel) -> None:
    peer.answers += [spec.Channel.Close(405, "RESOURCE_LOCKED", 50, 10), *OPENED]
    with pytest.raises(ChannelClosedError, match="LOCKED"):
        channel.consumers("q", soon())
    assert peer.heard() == look_for_queue("q") + methods.CONFIRM_CLOSED_CHANNEL + OPENING


@pytest.mark.parametrize(
    "said",
    [
        spec.Basic.Ack(1),
        spec.Basic.Cancel("replies"),
        spec.Queue.DeclareOk("q", 0, 1),
        spec.Channel.FlowOk(True),
    ],
)
def test_what_nobody_asked_for_ends_the_connection(
    peer: FarEnd, channel: RequestingChannel, said: object
) -> None:
    peer.answers.append(said)
    with pytest.raises(ConnectionLostError):
        ask(channel)
    assert not channel.connection.usable


def test_a_request_that_comes_back(peer: FarEnd, channel: RequestingChannel) -> None:
    peer.say(spec.Basic.Return(312, "NO_ROUTE", "e", "k"))
    peer.say_bytes(b"".join(Sent(b"x").frames(1)[1:]))
    requests = ask(channel)
    assert requests.returned == "NO_ROUTE (312)"
    assert requests.answered == 0
