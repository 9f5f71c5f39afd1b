"""One publish per transaction, one client: how long it takes, and where the time goes.

All layers of a call are measured in the same minutes, in blocks of a few calls each: the
differences between them are a tenth of what the machine's mood may change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from bench.clock import cpu, in_turn, median, quantile
from bench.finding import Cell, Finding, Goal, Table
from bench.lab import BODY, IN_C, PEER, Lab, Session, prepared
from bench.limit import repeated
from bench.roundtrip import MISSING

_CALLS = 20
_REST = 0.01
"""Seconds before each block: the broker may still be busy with what nobody waited for."""
_PUBLISH = f"SELECT amqp.publish(1, 'events', 'bench', '{BODY}'::text)"
_PERSISTENT = f"SELECT amqp.publish(1, 'events', 'bench', '{BODY}'::text, 2)"
_NOTHING = f"SELECT bench.nothing(1, 'events', 'bench', '{BODY}'::text)"

SELECT_1 = "`SELECT 1`"
_EMPTY = "a PL/Python function with the same 18 parameters that does nothing"
_CAPTURE = "`publish`, `amqp.capture = on`"
_UNCONFIRMED = "`publish`, `amqp.publisher_confirms = off`"
_CONFIRMED = "`publish`, confirmed"
_CONFIRMED_PERSISTENT = "`publish`, confirmed, persistent"
_ROUND_TRIP = "raw round trip: one message written, its confirm read"
_ROUND_TRIP_PERSISTENT = "raw round trip, persistent"
_SEND = "raw write of one message, its confirm read later"
_PAIR = "limit: `SELECT 1`, then a raw round trip"
_PAIR_PERSISTENT = "limit: `SELECT 1`, then a raw round trip, persistent"
_PAIR_UNCONFIRMED = "limit: `SELECT 1`, then a raw write"

# What each session executes, and its settings.
_LAYERS: dict[str, tuple[str, dict[str, str]]] = {
    SELECT_1: ("SELECT 1", {}),
    _EMPTY: (_NOTHING, {}),
    _CAPTURE: (_PUBLISH, {"capture": "on"}),
    _UNCONFIRMED: (_PUBLISH, {"publisher_confirms": "off"}),
    _CONFIRMED: (_PUBLISH, {}),
    _CONFIRMED_PERSISTENT: (_PERSISTENT, {}),
}


_LIMITS = {
    _CONFIRMED: _PAIR,
    _CONFIRMED_PERSISTENT: _PAIR_PERSISTENT,
    _UNCONFIRMED: _PAIR_UNCONFIRMED,
    IN_C: _PAIR,
    PEER: _PAIR,
}
"""What each cannot be faster than."""


class _Calls(NamedTuple):
    """A block of calls."""

    elapsed: list[float]
    cpu: float | None
    """Seconds of CPU in the backend, a call; None where it does not do all of it."""


def measure(lab: Lab) -> Finding:
    """Every layer, from SELECT 1 to a confirmed publish, and the round trips beside them."""
    lab.say("single: one publish per transaction, one client")
    with ExitStack() as stack:

        def session(dsn: str | None = None, **settings: str) -> Session:
            return stack.enter_context(lab.connect(dsn, **settings))

        contestants = {
            name: _block(session(**settings), statement)
            for name, (statement, settings) in _LAYERS.items()
        }
        if lab.in_c:
            contestants[IN_C] = _block(session(), lab.in_c)
        if lab.peer:
            contestants[PEER] = _block(session(lab.peer), _PUBLISH)
        for name, raw in _raw(lab).items():
            contestants[name] = _raw_block(raw)
        for name, raw in _pairs(lab, prepared(session(), "SELECT 1")).items():
            contestants[name] = _raw_block(raw)
        found = in_turn(lab.sizes.single_blocks, contestants)
    lab.purge()
    return _finding(found)


def _raw(lab: Lab) -> dict[str, Callable[[], float]]:
    """What the broker takes by itself."""
    transient, persistent = (repeated(1, BODY.encode(), mode) for mode in (None, 2))
    return {
        _ROUND_TRIP: partial(lab.limit.round_trip, transient),
        _ROUND_TRIP_PERSISTENT: partial(lab.limit.round_trip, persistent),
        _SEND: partial(lab.limit.send, transient),
    }


def _pairs(lab: Lab, select_1: Callable[[], float]) -> dict[str, Callable[[], float]]:
    """The same behind a SELECT 1: a broker that has slept for longer takes longer to wake.

    So a statement and a round trip cost more than each of them measured alone.
    """
    raw = _raw(lab)

    def both(name: str) -> Callable[[], float]:
        return lambda: select_1() + raw[name]()

    return {
        _PAIR: both(_ROUND_TRIP),
        _PAIR_PERSISTENT: both(_ROUND_TRIP_PERSISTENT),
        _PAIR_UNCONFIRMED: both(_SEND),
    }


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


def _raw_block(call: Callable[[], float]) -> Callable[[], _Calls]:
    def block() -> _Calls:
        time.sleep(_REST)
        return _Calls([call() for _ in range(_CALLS)], None)

    return block


def _finding(found: dict[str, list[_Calls]]) -> Finding:
    elapsed = {
        name: [call * 1e6 for block in blocks for call in block.elapsed]
        for name, blocks in found.items()
    }
    medians = {name: median(calls) for name, calls in elapsed.items()}
    rows: list[list[Cell]] = []
    for name, calls in elapsed.items():
        used = [block.cpu for block in found[name] if block.cpu is not None]
        limit = _LIMITS.get(name)
        rows.append(
            [
                name,
                medians[name],
                f"{quantile(calls, 0.25):.0f} to {quantile(calls, 0.75):.0f}",
                medians[name] - medians[SELECT_1] if used and name != SELECT_1 else None,
                medians[name] - medians[limit] if limit else None,
                median(used) * 1e6 if used else None,
            ]
        )
    columns = [
        "one transaction",
        "elapsed, µs",
        "half of all, µs",
        "beyond `SELECT 1`, µs",
        "beyond its limit, µs",
        "CPU of the backend, µs",
    ]
    caption = f"Medians of {len(elapsed[SELECT_1]):,} calls each, one client, autocommit"
    if IN_C not in found:
        caption += f" ({MISSING})"
    return Finding([Table(caption, columns, rows)], goals=_goals(medians))


def _goals(medians: dict[str, float]) -> list[Goal]:
    base, confirmed, unconfirmed = (medians[name] for name in (SELECT_1, _CONFIRMED, _UNCONFIRMED))
    return [
        Goal(
            "one publish per transaction: beyond `SELECT 1` and a raw round trip",
            confirmed - medians[_PAIR],
            "µs",
            30,
            f"both, one after the other: {medians[_PAIR]:.0f} µs; ours {confirmed:.0f} µs",
        ),
        Goal(
            "`amqp.publisher_confirms = off`: beyond `SELECT 1`",
            unconfirmed - base,
            "µs",
            25,
            f"{base:.0f} µs, {medians[_PAIR_UNCONFIRMED]:.0f} µs with a raw write;"
            f" ours {unconfirmed:.0f} µs",
        ),
    ]
