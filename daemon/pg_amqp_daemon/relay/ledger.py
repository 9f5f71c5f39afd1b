"""What became of a broker's messages, kept until the database has taken it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import psycopg
import structlog

from pg_amqp_daemon.relay.metrics import RelayMetrics
from pg_amqp_daemon.relay.outbox import FREED, Outbox
from pg_amqp_daemon.relay.outcome import Outcome
from pg_amqp_py.wire.waves import Entry, Undelivered

_PIECE = 10_000
"""Messages that are settled at once, at most: it must not take longer than a statement may."""
_AGAIN = 1.0
"""Seconds between attempts to settle what somebody has locked."""

_Known = tuple[int, object]
"""A message: an id alone can come again."""


class Visible(NamedTuple):
    """What of a reading is to be delivered."""

    entries: list[Entry]
    hidden: int
    """How many others there are: what became of them is known, and somebody has locked them."""


class Ledger:
    """What is known of messages and was not taken by the database. Used by one thread."""

    def __init__(
        self, broker_id: int, outbox: Outbox, metrics: RelayMetrics, *, once: bool = False
    ) -> None:
        self.delivered = 0
        """How many messages were reported as delivered."""
        self._once = once
        self._left: set[_Known] = set()
        """What was reported as refused, and not as delivered since; whoever works for ever may
        refuse any number, and does not ask."""
        self._broker_id = broker_id
        self._outbox = outbox
        self._metrics = metrics
        self._open: dict[_Known, Undelivered | None] = {}
        """How each was refused; None if it was delivered."""
        self._locked: dict[_Known, Undelivered | None] = {}
        """Of these, what could not be settled because somebody has locked it."""
        self._freed: set[str] = set()
        self._piece = _PIECE
        self._next_attempt = 0.0
        self._log = structlog.get_logger().bind(broker_id=broker_id)

    @property
    def trouble(self) -> str | None:
        """What the database does not take, and why."""
        count = list(self._locked.values()).count(None)
        if not self._locked:
            return None
        if not count:
            return f"{len(self._locked)} refused messages are locked by another session"
        return f"{count} delivered messages are locked by another session"

    @property
    def left(self) -> int:
        """How many messages `once` has tried and not delivered."""
        return len(self._left)

    @property
    def complete(self) -> bool:
        """Whether the database knows all."""
        return not self._open and not self._locked and not self._freed

    @property
    def reported(self) -> bool:
        """Whether the database knows all but what somebody has locked."""
        return not self._open

    def locked(self, number: int, message_id: object) -> str | None:
        """What became of a message that somebody has locked: `delivered` or `refused`."""
        known = (number, message_id)
        if known not in self._locked:
            return None
        return "delivered" if self._locked[known] is None else "refused"

    def add(self, outcome: Outcome) -> None:
        """Take down what became of messages."""
        for number in outcome.delivered:
            known = (number, outcome.message_ids[number])
            self._open[known] = None
            self._locked.pop(known, None)
        for refusal in outcome.undelivered:
            known = (refusal.id, outcome.message_ids[refusal.id])
            # What was delivered after all stays so.
            if known not in self._open and known not in self._locked:
                self._open[known] = refusal
        self._freed.update(outcome.freed)

    def settle(self) -> None:
        """Report what is not reported yet. Raises psycopg.Error: it is kept then."""
        while self._open:
            self._settle(self._open)
        if self._locked and time.monotonic() >= self._next_attempt:
            # What is locked still goes to the end. To find that out takes time: one piece will do.
            while self._locked and not self._settle(self._locked):
                pass
            self._next_attempt = time.monotonic() + _AGAIN
        # A piece at a time: the others wait meanwhile.
        if self._freed and self._outbox.free(list(self._freed)) < FREED:
            self._freed.clear()

    def _settle(self, source: dict[_Known, Undelivered | None]) -> bool:
        """Report the first of these; whether somebody has locked any."""
        piece = dict(islice(source.items(), self._piece))
        delivered = [known for known, refusal in piece.items() if refusal is None]
        refused = [(known, refusal) for known, refusal in piece.items() if refusal is not None]
        try:
            locked = set(
                self._outbox.settle(
                    [number for number, _ in delivered],
                    [message_id for _, message_id in delivered],
                    [refusal for _, refusal in refused],
                    [message_id for (_, message_id), _ in refused],
                )
            )
        except psycopg.errors.QueryCanceled:
            # It took too long.
            if self._piece == 1:
                raise
            self._piece = max(self._piece // 10, 1)
            return False
        self._piece = min(self._piece * 2, _PIECE)
        for known in piece:
            del source[known]
        passed_over = {known: piece[known] for known in piece if known[0] in locked}
        self._locked.update(passed_over)
        if self._once:
            self._left.update(known for known, _ in refused)
            self._left.difference_update(known for known in delivered if known[0] not in locked)
        self._count(
            [number for number, _ in delivered if number not in locked],
            [refusal for _, refusal in refused if refusal.id not in locked],
        )
        return bool(passed_over)

    def set_aside(self, entry_id: int, message_id: object, text: str) -> None:
        """Report that a message cannot be delivered at all."""
        self.add(Outcome([], [Undelivered(entry_id, "invalid", text)], {entry_id: message_id}))
        self.settle()

    def visible(self, entries: list[Entry]) -> Visible:
        """What of a reading is not known, nor stands behind what could not be put back."""
        if not self._locked:
            return Visible(entries, 0)
        shown: list[Entry] = []
        held: set[str] = set()
        for entry in entries:
            known = (entry.id, entry.message_id)
            if known in self._locked:
                if entry.ordering_key is not None and self._locked[known] is not None:
                    held.add(entry.ordering_key)
            elif entry.ordering_key is None or entry.ordering_key not in held:
                shown.append(entry)
        return Visible(shown, len(entries) - len(shown))

    def _count(self, delivered: Sequence[int], refused: Sequence[Undelivered]) -> None:
        """Tell the metrics and the log what was reported."""
        self.delivered += len(delivered)
        self._metrics.delivered.labels(self._broker_id).inc(len(delivered))
        for refusal in refused:
            self._metrics.refused.labels(self._broker_id, refusal.verdict).inc()
        if refused:
            self._log.warning(
                "messages not delivered",
                messages=len(refused),
                verdict=refused[-1].verdict,
                error=refused[-1].text,
            )
