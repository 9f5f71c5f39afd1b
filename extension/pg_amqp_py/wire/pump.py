"""The loop that writes a batch and reads its answers, in both directions until all is settled.

What becomes of the messages is the batch's own account (wire.batch); here bytes are moved, and
waits given up.
"""

from __future__ import annotations

import math
import time

from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError, StalledError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pg_amqp_py.wire.batch import Attempt, Batch
    from pg_amqp_py.wire.confirms import Confirms, Opening, Returned
    from pg_amqp_py.wire.encode import Encoder
    from pg_amqp_py.wire.transport import Bytes

    class _Channel(Protocol):
        """What this needs of a PublishingChannel, where all of it is explained."""

        opening: Opening

        @property
        def encoder(self) -> Encoder: ...
        @property
        def blocked(self) -> str | None: ...
        @property
        def usable(self) -> bool: ...

        def prepare(self, deadline: float, *, wait: bool) -> None: ...
        def claim(self, count: int) -> int: ...
        def give_back(self, count: int) -> None: ...
        def begin(self, confirms: Confirms, on_return: Callable[[Returned], None]) -> None: ...
        def end(self) -> None: ...
        def leave_unattended(self) -> None: ...
        def await_late(
            self, confirms: Confirms, take_return: Callable[[Returned], bool]
        ) -> None: ...
        def take_late_refusal(self) -> ChannelClosedError | None: ...
        def send_some(self, data: Bytes) -> int: ...
        def wait(self, deadline: float, *, sending: bool = False) -> None: ...
        def receive(self) -> None: ...
        def recover(self, deadline: float) -> None: ...
        def abandon(self, reason: ConnectionLostError) -> None: ...


_NOT_WRITTEN = "received a confirm of what was not written yet"
_TOO_MANY = "received more messages than were published"


class Patience:
    """How many seconds to wait without a byte or a confirm."""

    __slots__ = ("confirming", "outlasts_block", "writing")

    def __init__(
        self, writing: float, *, confirming: float | None = None, outlasts_block: bool = False
    ) -> None:
        self.writing = writing
        """As long as something is to be written."""
        self.confirming = writing if confirming is None else confirming
        """Once all is written."""
        self.outlasts_block = outlasts_block
        """Whether a broker that has said that it is blocked is waited for without end."""


def _never() -> bool:
    return False


def write(
    batch: Batch,
    channel: _Channel,
    patience: Patience,
    *,
    confirm: bool = True,
    stop: Callable[[], bool] = _never,
) -> None:
    """Write what is pending of a batch, and await its confirms unless `confirm` is false.

    Returns when nothing is pending, or, once `stop` returns true, when what was written by
    then is answered. Raises ConnectionLostError, or StalledError when `patience` is at its end;
    what was confirmed by then is settled. If the channel is still usable after a StalledError, all
    is written, and the answers that are missing may come at any time: Batch.collect() looks for
    them, and so does the next call.
    """
    attempt = _resume(batch, channel)
    if attempt is None:
        batch.fit(channel.encoder)
    while attempt is not None or (batch.pending and not stop()):
        if attempt is None:
            channel.prepare(time.monotonic() + patience.writing, wait=confirm)
            attempt = _begin(batch, channel)
        try:
            _Pump(batch, attempt, channel, patience, confirm=confirm, stop=stop).work()
        except ChannelClosedError as refusal:
            batch.end(settle=confirm)
            batch.blame(refusal, attempt)
            channel.recover(time.monotonic() + patience.writing)
        except ConnectionLostError as lost:
            batch.end(settle=confirm)
            batch.blame_connection(lost, attempt)
            raise
        except BaseException:
            if channel.usable:
                batch.collect()
                channel.await_late(attempt.confirms, batch.take_return)
            else:
                batch.end(settle=confirm)
            raise
        else:
            if not confirm:
                batch.accept()
                if attempt.confirms.outstanding:
                    channel.leave_unattended()
            batch.end(settle=confirm)
        attempt = None


def _begin(batch: Batch, channel: _Channel) -> Attempt:
    ranges = batch.next()
    first_tag = channel.claim(sum(map(len, ranges)))
    return batch.begin(channel.opening, ranges, first_tag)


def _resume(batch: Batch, channel: _Channel) -> Attempt | None:
    """The attempt that was left waiting for answers, if they can still come here."""
    attempt = batch.left()
    if attempt is None:
        return None
    if attempt.opening is channel.opening:
        _free_tags(attempt, channel)
        return attempt
    # What was answered after the wait was given up and before that connection went.
    batch.collect()
    if attempt.opening.channel is channel:
        # Somebody else has noticed that the broker has closed the channel: for one of these
        # messages, or for a later one.
        if attempt.confirms.routed and not batch.rewrite:
            # For a later one.
            batch.accept()
        elif (refusal := channel.take_late_refusal()) is not None:
            batch.blame(refusal, attempt)
    batch.end(settle=False)
    return None


def _free_tags(attempt: Attempt, channel: _Channel) -> None:
    channel.give_back(attempt.excess)
    attempt.excess = 0


class _Pump:
    """Writes one attempt, and reads its answers at the same time.

    A broker that cannot deliver its answers stops reading: whoever only wrote would
    wait for it for ever.
    """

    def __init__(
        self,
        batch: Batch,
        attempt: Attempt,
        channel: _Channel,
        patience: Patience,
        *,
        confirm: bool,
        stop: Callable[[], bool],
    ) -> None:
        self._batch = batch
        self._attempt = attempt
        self._channel = channel
        self._patience = patience
        self._confirm = confirm
        self._stop = stop
        self._deadline = 0.0
        self._most_returned = len(batch.returned) + attempt.confirms.count

    def work(self) -> None:
        """Go on until all is written and, if confirms are awaited, answered."""
        unwritten, confirms = self._attempt.unwritten, self._attempt.confirms
        self._channel.begin(confirms, self._on_return)
        try:
            self._set_deadline()
            while unwritten.left or (self._confirm and confirms.outstanding):
                self._step()
        except ChannelClosedError:
            self._finish_message()
            raise
        finally:
            self._channel.end()

    def _step(self) -> None:
        attempt, channel = self._attempt, self._channel
        unwritten, confirms = attempt.unwritten, attempt.confirms
        if unwritten.left and self._stop():
            attempt.cut()
            _free_tags(attempt, channel)
        outstanding = confirms.outstanding
        outlast = channel.blocked is not None and self._patience.outlasts_block
        sent = unwritten.send(channel.send_some) if unwritten.left else 0
        if not sent:
            deadline = math.inf if outlast else self._deadline
            channel.wait(deadline, sending=unwritten.left)
        if unwritten.left or not sent:
            channel.receive()
        if unwritten.left and confirms.answered > attempt.written:
            # Whoever lies once is believed nothing.
            confirms.cut(0)
            channel.abandon(lost := ConnectionLostError(_NOT_WRITTEN))
            raise lost
        if sent or confirms.outstanding < outstanding or outlast:
            self._set_deadline()

    def _set_deadline(self) -> None:
        patience = self._patience
        writing = self._attempt.unwritten.left
        self._deadline = time.monotonic() + (patience.writing if writing else patience.confirming)

    def _finish_message(self) -> None:
        """Write the rest of a message that is half written: it must precede anything else."""
        unwritten, channel = self._attempt.unwritten, self._channel
        self._attempt.stop_at_message_end()
        try:
            while unwritten.left:
                if not unwritten.send(channel.send_some):
                    channel.wait(self._deadline, sending=True)
        except (ConnectionLostError, StalledError):
            # Whatever becomes of the connection, the refusal says which messages are settled.
            pass

    def _on_return(self, returned: Returned) -> None:
        if len(self._batch.returned) >= self._most_returned:
            raise ConnectionLostError(_TOO_MANY)
        self._batch.returned.append(returned)
