"""How often a relay tries to give back the space of the outbox, without a server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
import structlog

from pg_amqp_daemon.relay import upkeep as upkeep_module
from pg_amqp_daemon.relay.upkeep import Upkeep


class Outbox:
    """One whose space can be given back, or not."""

    def __init__(self) -> None:
        self.obstacle: psycopg.Error | None = None
        self.tried = 0
        self.forgotten = 0

    def settle(self, *nothing: list[object]) -> list[int]:
        assert nothing == ([], [], [], [])
        self.forgotten += 1
        return []

    def compact(self) -> bool:
        self.tried += 1
        if self.obstacle is not None:
            raise self.obstacle
        return False


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def times_tried_within_a_minute(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> int:
    clock = Clock()
    monkeypatch.setattr(upkeep_module, "time", clock)
    log = structlog.testing.CapturingLogger()
    nobody = cast(Any, SimpleNamespace())
    upkeep = Upkeep(1, nobody, cast(Any, outbox), nobody, log)
    for _ in range(60):
        upkeep.forget()
        upkeep.compact()
        clock.now += 1
    return outbox.tried


def test_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox()
    assert times_tried_within_a_minute(outbox, monkeypatch) == 12
    # What was delivered and kept goes also where nothing is delivered any more.
    assert outbox.forgotten == 6


def test_rarely_where_something_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    # Publishers wait behind the lock that each attempt takes.
    outbox = Outbox()
    outbox.obstacle = psycopg.errors.ObjectNotInPrerequisiteState("The table has a trigger.")
    assert times_tried_within_a_minute(outbox, monkeypatch) == 1
