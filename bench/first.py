"""The first statement of a new session."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bench.clock import in_turn, median, quantile, timed
from bench.finding import Cell, Finding, Goal, Table
from bench.lab import PEER, Lab

_PYTHON = "PL/Python alone: a function that does nothing"
_PUBLISH = "`publish`, confirmed"
_OUTBOX = "`publish_outbox`"
_CALL = "SELECT amqp.publish(1, 'events', 'bench', 'x'::text)"
_STATEMENTS = {
    "`SELECT 1`": "SELECT 1",
    "INSERT of one row": "INSERT INTO bench.plain DEFAULT VALUES",
    _OUTBOX: "SELECT amqp.publish_outbox(1, 'events', 'bench', 'x'::text)",
    _PYTHON: "SELECT bench.nothing()",
    _PUBLISH: _CALL,
}
_SHARE = 2.5
"""The goal is 25 ms where PL/Python alone takes 10."""


def measure(lab: Lab) -> Finding:
    """Elapsed time of each kind of first statement, new session after new session."""
    lab.say("first: the first statement of a session")
    lab.session.execute("CREATE TABLE bench.plain (id bigserial PRIMARY KEY, at timestamptz)")
    contestants: dict[str, Callable[[], float]] = {
        name: partial(_first, lab, statement) for name, statement in _STATEMENTS.items()
    }
    if lab.peer:
        contestants[PEER] = partial(_first, lab, _CALL, lab.peer)
    found = in_turn(lab.sizes.first_sessions, contestants)
    lab.session.execute("DROP TABLE bench.plain; TRUNCATE amqp.outbox")
    lab.purge()
    return _finding({name: [one * 1e3 for one in times] for name, times in found.items()})


def _first(lab: Lab, statement: str, dsn: str | None = None) -> float:
    with lab.connect(dsn) as session:
        return timed(lambda: session.pgconn.exec_(statement.encode()))


def _finding(found: dict[str, list[float]]) -> Finding:
    rows: list[list[Cell]] = [
        [name, median(times), quantile(times, 0.9)] for name, times in found.items()
    ]
    count = min(map(len, found.values()))
    columns = ["first statement", "median, ms", "90 %, ms"]
    table = Table(f"{count} new sessions each", columns, rows)
    python, insert = median(found[_PYTHON]), median(found["INSERT of one row"])
    return Finding(
        [table],
        goals=[
            Goal(
                "first publish of a session (25 ms where PL/Python alone takes 10)",
                median(found[_PUBLISH]),
                "ms",
                _SHARE * python,
                f"PL/Python alone: {python:.1f} ms",
            ),
            Goal(
                "first `publish_outbox` of a session",
                median(found[_OUTBOX]),
                "ms",
                1,
                f"an INSERT: {insert:.2f} ms",
            ),
        ],
    )
