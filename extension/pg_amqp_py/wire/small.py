"""The short way of a small transaction: one send, and nothing but confirms to be read.

Nearly every transaction is of this kind, and a batch that is pumped would cost it more than all the
rest. Whatever else happens (a part of a frame, a refusal, silence, a connection that breaks)
is left to a batch, which goes on from what is known by then.
"""

from __future__ import annotations

from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.channel import State
from pg_amqp_py.wire.errors import ConnectionLostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from pg_amqp_py.wire.confirms import Opening
    from pg_amqp_py.wire.encode import Encoder
    from pg_amqp_py.wire.transport import Bytes

    class _Channel(Protocol):
        """What this needs of a PublishingChannel, where all of it is explained."""

        state: str
        opening: Opening

        @property
        def encoder(self) -> Encoder: ...

        def quiet(self) -> bool: ...
        def claim(self, count: int) -> int: ...
        def send_some(self, data: Bytes) -> int: ...
        def await_confirms(self, tag: int, end: int) -> int: ...
        def leave_unattended(self) -> None: ...


_SMALL = 1 << 14
"""Bytes of a stream that goes out with one call: less than a socket's buffer holds."""
_READY, _UNATTENDED = State.READY, State.UNATTENDED


def write_small(
    channel: _Channel, stream: Bytes, starts: Sequence[int], *, confirm: bool
) -> Batch | None:
    """Write messages if they are few enough to go out at once, and all is well.

    Returns None if they are confirmed (written, without `confirm`), else the batch to go on with.
    """
    state = channel.state
    if len(stream) > _SMALL or (
        state is not _READY and (confirm or state is not _UNATTENDED or not channel.quiet())
    ):
        return Batch(stream, starts, channel.encoder.frame_max)
    first = channel.claim(len(starts))
    try:
        sent = channel.send_some(stream)
    except ConnectionLostError:
        sent = 0
    if sent < len(stream):
        return _go_on(channel, stream, starts, first, sent, first)
    if not confirm:
        if state is _READY:
            channel.leave_unattended()
        return None
    end = first + len(starts)
    unconfirmed = channel.await_confirms(first, end)
    return None if unconfirmed == end else _go_on(channel, stream, starts, first, sent, unconfirmed)


def _go_on(
    channel: _Channel,
    stream: Bytes,
    starts: Sequence[int],
    first: int,
    sent: int,
    unconfirmed: int,
) -> Batch:
    batch = Batch(stream, starts, channel.encoder.frame_max)
    batch.go_on(channel.opening, first, sent, unconfirmed)
    return batch
