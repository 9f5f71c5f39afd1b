"""A channel that the broker closes as soon as it is open."""

from __future__ import annotations

import time

import pytest

from pg_amqp_py.wire.channel import PublishingChannel, State
from pg_amqp_py.wire.errors import ChannelClosedError
from support.broker_end import GONE, OPENED, FarEnd, channel_fixtures, spec

peer_and_channel, peer, channel = channel_fixtures()


def test_what_was_said_before_the_refusal_is_no_answer_to_what_comes_behind(
    peer: FarEnd, channel: PublishingChannel
) -> None:
    # Both are there when it looks.
    peer.say(spec.Channel.OpenOk())
    peer.answers += [GONE]
    with pytest.raises(ChannelClosedError):
        channel.reopen(time.monotonic() + 5)
    peer.answers += OPENED
    channel.reopen(time.monotonic() + 5)
    assert channel.state == State.READY
