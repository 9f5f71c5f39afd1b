"""What becomes of news about messages whose rows somebody has locked, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from pg_amqp_daemon.relay import ledger as ledger_module
from pg_amqp_daemon.relay.ledger import Ledger
from pg_amqp_daemon.relay.metrics import RelayMetrics
from pg_amqp_daemon.relay.outcome import Outcome
from pg_amqp_daemon.runtime.metrics import Metrics
from pg_amqp_py.wire.waves import Undelivered


class Outbox:
    """One in which rows are locked."""

    def __init__(self) -> None:
        self.locked: list[int] = []
        self.settled: list[tuple[list[int], list[int]]] = []
        """What was reported as delivered, and as refused."""

    def settle(
        self,
        delivered: Sequence[int],
        _delivered_message_ids: Sequence[object],
        refused: Sequence[Undelivered],
        _refused_message_ids: Sequence[object],
    ) -> list[int]:
        self.settled.append((list(delivered), [refusal.id for refusal in refused]))
        return self.locked


def test_what_is_delivered_at_last_is_not_reported_as_refused_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger_module, "_AGAIN", 0.0)
    outbox = Outbox()
    ledger = Ledger(1, cast(Any, outbox), RelayMetrics(Metrics()))
    outbox.locked = [1]
    ledger.add(Outcome([], [Undelivered(1, "busy", "later")], {1: "m"}))
    ledger.settle()
    assert ledger.trouble == "1 refused messages are locked by another session"
    outbox.locked = []
    outbox.settled.clear()
    ledger.add(Outcome([1], [], {1: "m"}))
    ledger.settle()
    assert outbox.settled == [([1], [])]
    assert (ledger.complete, ledger.delivered) == (True, 1)


def test_what_was_refused_and_then_delivered_is_not_left_by_a_single_run() -> None:
    ledger = Ledger(1, cast(Any, Outbox()), RelayMetrics(Metrics()), once=True)
    ids: dict[int, object] = dict.fromkeys((1, 2), "m")
    ledger.add(Outcome([], [Undelivered(number, "busy", "later") for number in ids], ids))
    ledger.settle()
    assert ledger.left == 2
    ledger.add(Outcome([2], [Undelivered(1, "busy", "later")], ids))
    ledger.settle()
    assert ledger.left == 1
    ledger.add(Outcome([1], [], ids))
    ledger.settle()
    assert ledger.left == 0
