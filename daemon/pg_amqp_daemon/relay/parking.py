"""Connections that are left waiting for queues which do not confirm, while others go on.

What was written whole is not written again as long as its connection lives: RabbitMQ has it, and
confirms it when the queue goes on. So the connection is kept, and looked at now and then; what
else there is goes out on another one. But not what would meet the same queue: after some hundred
messages RabbitMQ stops reading from whoever publishes to a queue that takes none.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from pg_amqp_daemon.relay.outcome import Outcome
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.channel import PublishingChannel
from pg_amqp_py.wire.errors import ConnectionLostError, StalledError
from pg_amqp_py.wire.fields import PLACE
from pg_amqp_py.wire.pump import Patience, write
from pg_amqp_py.wire.waves import Entry, Run, Undelivered, Wave, target, why_unconfirmed

_MOST = 4
"""Connections; with so many, it is better to wait."""
_LOOK = 0.25
_GLANCE = 0.001
"""Seconds to wait for each connection that is looked at."""
_CERTAIN = 250
"""RabbitMQ reads more than so many messages before it stops: what of them it has not confirmed
waits for a queue, and not behind others."""
_REMEMBERED = 50_000
_SETTLED = 30.0
"""Seconds after which what was confirmed is settled, or kept from being read by the ledger."""

Place = tuple[object, object]
"""Exchange and routing key."""


class _Parked(NamedTuple):
    channel: PublishingChannel
    wave: Wave[Entry]
    texts: tuple[str, ...]
    """With which messages to the same places are put off."""


class Parking:
    """The parked connections of a broker. Used by one thread; `trouble` may be read by others."""

    def __init__(self, tell: Callable[[Outcome], None], log: Any) -> None:
        self.trouble: str | None = None
        """What waits, and for what; None if nothing does."""
        self._tell = tell
        self._log = log
        self._parked: list[_Parked] = []
        self._awaited: dict[tuple[int, object], str] = {}
        """What is awaited there, as id and message_id, and the reason."""
        self._delivered: dict[tuple[int, object], tuple[str, float]] = {}
        """What was confirmed late, and until when that counts: it may have been read again before
        it was known."""
        self.addresses: list[Address] = []
        """Hosts that are configured: what waits at others is written again."""
        self._places: set[Place] = set()
        self._next_look = 0.0

    @property
    def full(self) -> bool:
        """Whether there are so many that nothing more shall be written."""
        return len(self._parked) >= _MOST

    def park(self, channel: PublishingChannel, run: Run) -> None:
        """Leave what the run has under way on its connection."""
        wave = run.leave(why_unconfirmed)
        channel.connection.while_waiting(channel.connection.beat)
        texts = tuple({why_unconfirmed(entry) for entry in wave.awaited})
        self._parked.append(_Parked(channel, wave, texts))
        self._count()

    def why_not(self, entry: Entry) -> str | None:
        """Why a message is not to be written now; None if it may be."""
        if not self._parked and not self._delivered:
            return None
        known = (entry.id, entry.message_id)
        text = self._awaited.get(known)
        if text is None and known in self._delivered:
            text, until = self._delivered[known]
            if time.monotonic() > until:
                # Somebody has put it there anew.
                text = None
        if text is None and self._place(entry) in self._places:
            text = why_unconfirmed(entry)
        return text

    def _place(self, entry: Entry) -> Place:
        # Where each message has a routing key of its own, the exchange must do.
        exchange, routing_key = entry.fields[PLACE]
        return exchange, None if len(self._parked) >= _MOST - 1 else routing_key

    def look(self) -> None:
        """Tell what was answered late, and let go of connections that have no more to say."""
        now = time.monotonic()
        if not self._parked or now < self._next_look:
            return
        self._next_look = now + _LOOK
        for parked in list(self._parked):
            self._look_at(parked)

    def _look_at(self, parked: _Parked) -> None:
        channel, wave, texts = parked
        waits = False
        if channel.connection.address not in self.addresses:
            channel.abandon(ConnectionLostError("the host is not configured any more"))
        try:
            write(wave.batch, channel, Patience(_GLANCE), stop=lambda: True)
            channel.connection.leave()
        except StalledError:
            waits = channel.usable
        except ConnectionLostError as error:
            self._log.warning("connection to broker lost", error=str(error))
        delivered: list[int] = []
        refused: list[Undelivered] = []
        message_ids: dict[int, object] = {}
        for entry, verdict, text in wave.news():
            message_ids[entry.id] = entry.message_id
            if verdict is None:
                delivered.append(entry.id)
                until = time.monotonic() + _SETTLED
                self._delivered[entry.id, entry.message_id] = why_unconfirmed(entry), until
            else:
                refused.append(Undelivered(entry.id, verdict, text))
        while len(self._delivered) > _REMEMBERED:
            del self._delivered[next(iter(self._delivered))]
        if not waits:
            self._parked.remove(parked)
        if message_ids or not waits:
            self._count()
            self._tell(Outcome(delivered, refused, message_ids, freed=() if waits else texts))

    def _count(self) -> None:
        self._awaited.clear()
        self._places.clear()
        counts: Counter[str] = Counter()
        for parked in self._parked:
            for number, entry in enumerate(parked.wave.awaited):
                self._awaited[entry.id, entry.message_id] = why_unconfirmed(entry)
                counts[target(entry)] += 1
                if number < _CERTAIN:
                    self._places.add(self._place(entry))
        texts = [f"{_messages(count)} to {where}" for where, count in counts.most_common(3)]
        everything = "; nothing else is sent any more" if self.full else ""
        self.trouble = (
            f"a queue has not confirmed {', '.join(texts)}{everything}" if texts else None
        )

    def close(self) -> None:
        """Wait for nothing any more."""
        self._next_look = 0.0
        self.look()
        for parked in self._parked:
            parked.channel.connection.leave()
        self._parked.clear()


def _messages(count: int) -> str:
    return f"{count} message{'s' if count > 1 else ''}"
