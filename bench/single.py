"""One publish per transaction, one client: how long it takes, and where the time goes.

All layers of a call are measured in the same minutes, in blocks of a few calls each: the
differences between them are a tenth of what the machine's mood may change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from bench.clock import cpu, in_turn, median, quantile
from bench.finding import Cell, Finding, Goal, Table
from bench.lab import PEER, Lab, Session, prepared
from bench.limit import repeated

_BODY = "x" * 100
_CALLS = 20
_REST = 0.01
"""Seconds before each block: the broker may still be busy with what nobody waited for."""
_PUBLISH = f"SELECT amqp.publish(1, 'events', 'bench', '{_BODY}'::text)"
_PERSISTENT = f"SELECT amqp.publish(1, 'events', 'bench', '{_BODY}'::text, 2)"
_NOTHING = f"SELECT bench.nothing(1, 'events', 'bench', '{_BODY}'::text)"

SELECT_1 = "`SELECT 1`"
_EMPTY = "a PL/Python function with the same 18 parameters that does nothing"
_CAPTURE = "`publish`, `amqp.capture = on`"
_UNCONFIRMED = "`publish`, `amqp.publisher_confirms = off`"
_CONFIRMED = "`publish`, confirmed"
_CONFIRMED_PERSISTENT = "`publish`, confirmed, persistent"
_ROUND_TRIP = "raw round trip: one message written, its confirm read"
_ROUND_TRIP_PERSISTENT = "raw round trip, persistent"

# What each session executes, and its settings.
_LAYERS: dict[str, tuple[str, dict[str, str]]] = {
    SELECT_1: ("SELECT 1", {}),
    _EMPTY: (_NOTHING, {}),
    _CAPTURE: (_PUBLISH, {"capture": "on"}),
    _UNCONFIRMED: (_PUBLISH, {"publisher_confirms": "off"}),
    _CONFIRMED: (_PUBLISH, {}),
    _CONFIRMED_PERSISTENT: (_PERSISTENT, {}),
}


class _Calls(NamedTuple):
    """A block of calls."""

    elapsed: list[float]
    cpu: float
    """Seconds of CPU in the backend, a call."""


def measure(lab: Lab) -> Finding:
    """Every layer, from SELECT 1 to a confirmed publish, and the round trips beside them."""
    lab.say("single: one publish per transaction, one client")
    with ExitStack() as stack:
        contestants: dict[str, Callable[[], _Calls]] = {}
        for name, (statement, settings) in _LAYERS.items():
            session = stack.enter_context(lab.connect(**settings))
            contestants[name] = _block(session, statement)
        if lab.peer:
            session = stack.enter_context(lab.connect(lab.peer))
            contestants[PEER] = _block(session, _PUBLISH)
        for name, mode in ((_ROUND_TRIP, None), (_ROUND_TRIP_PERSISTENT, 2)):
            contestants[name] = _round_trips(lab, mode)
        found = in_turn(lab.sizes.single_blocks, contestants)
    lab.purge()
    return _finding(found)


def _block(session: Session, statement: str) -> Callable[[], _Calls]:
    call, pid = prepared(session, statement), session.info.backend_pid
    # What only the first call of a session costs is a figure of its own.
    call()

    def block() -> _Calls:
        time.sleep(_REST)
        before = cpu(pid)
        elapsed = [call() for _ in range(_CALLS)]
        return _Calls(elapsed, (cpu(pid) - before) / _CALLS)

    return block


def _round_trips(lab: Lab, mode: int | None) -> Callable[[], _Calls]:
    one = repeated(1, _BODY.encode(), mode)

    def block() -> _Calls:
        time.sleep(_REST)
        return _Calls([lab.limit.round_trip(one) for _ in range(_CALLS)], 0)

    return block


def _finding(found: dict[str, list[_Calls]]) -> Finding:
    elapsed = {
        name: [call * 1e6 for block in blocks for call in block.elapsed]
        for name, blocks in found.items()
    }
    base = median(elapsed[SELECT_1])
    rows: list[list[Cell]] = []
    for name, calls in elapsed.items():
        used = median(block.cpu for block in found[name]) * 1e6 or None
        quartiles = f"{quantile(calls, 0.25):.0f} to {quantile(calls, 0.75):.0f}"
        beyond = None if name in (SELECT_1, *_RAW) else median(calls) - base
        rows.append([name, median(calls), quartiles, beyond, used])
    columns = [
        "one transaction",
        "elapsed, us",
        "half of all, us",
        "beyond `SELECT 1`, us",
        "CPU of the backend, us",
    ]
    count = len(elapsed[SELECT_1])
    table = Table(f"Medians of {count:,} calls each, one client, autocommit", columns, rows)
    return Finding([table], goals=_goals({name: median(of) for name, of in elapsed.items()}))


_RAW = (_ROUND_TRIP, _ROUND_TRIP_PERSISTENT)


def _goals(medians: dict[str, float]) -> list[Goal]:
    base, trip = medians[SELECT_1], medians[_ROUND_TRIP]
    return [
        Goal(
            "one publish per transaction: beyond `SELECT 1` and a raw round trip",
            medians[_CONFIRMED] - base - trip,
            "us",
            30,
            f"{base:.0f} us + {trip:.0f} us; ours {medians[_CONFIRMED]:.0f} us",
        ),
        Goal(
            "`amqp.publisher_confirms = off`: beyond `SELECT 1`",
            medians[_UNCONFIRMED] - base,
            "us",
            25,
            f"{base:.0f} us; ours {medians[_UNCONFIRMED]:.0f} us",
        ),
    ]
