"""What publish_outbox_batch() has written and a queue has not confirmed, for as long as that lasts.

It stays awaited on its connection. Its rows wait meanwhile; when they are due again and it still is
not confirmed, they are put off again and not written: every other queue would get a copy.
"""

from __future__ import annotations

from pg_amqp_py.backend.broker import Broker
from pg_amqp_py.wire.fields import PLACE
from pg_amqp_py.wire.waves import Entry, Run, Wave, why_unconfirmed


class Awaited:
    """The messages of one broker that this session awaits."""

    def __init__(self) -> None:
        self._waves: list[Wave[Entry]] = []
        self._places: set[tuple[object, ...]] = set()
        """Exchange and routing key of what is awaited."""
        self._counted: list[int] = []
        """How many messages of each wave were awaited when `_places` was made."""

    def leave(self, run: Run) -> int:
        """Await what the run has under way, and let the run go on; how many messages that is."""
        before = len(run.undelivered)
        self._waves.append(run.leave(why_unconfirmed))
        self._counted = []
        return len(run.undelivered) - before

    def news(self, broker: Broker) -> list[tuple[Entry, str | None, str]]:
        """What became of messages since the last look: each with verdict and text."""
        found: list[tuple[Entry, str | None, str]] = []
        for wave in self._waves:
            confirmed = wave.batch.confirmed
            wave.batch.collect()
            broker.counters.confirmed += wave.batch.confirmed - confirmed
            found += wave.news()
        self._waves = [wave for wave in self._waves if wave.batch.awaited]
        self._counted = []
        return found

    def why_not(self, entry: Entry) -> str | None:
        """Why a message is not to be written now; None if it may be."""
        if not self._waves:
            return None
        counts = [wave.batch.unanswered for wave in self._waves]
        if counts != self._counted:
            self._counted = counts
            self._places = {other.fields[PLACE] for wave in self._waves for other in wave.awaited}
        return why_unconfirmed(entry) if entry.fields[PLACE] in self._places else None
