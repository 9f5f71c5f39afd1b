"""Publishing to a broker that is down: what a call costs between two attempts to connect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bench.clock import in_turn, median
from bench.finding import Cell, Finding, Goal, Table
from bench.lab import Lab, Session, prepared
from servers.processes import free_port

_CALLS = 20
_BROKER = "INSERT INTO amqp.broker (broker_id, host, port) VALUES (2, '127.0.0.1', %s)"
_PUBLISH = "SELECT amqp.publish(2, 'events', 'bench', 'x'::text)"
_INSERT = "INSERT INTO bench.plain (note) VALUES ('x')"
_GOAL = 100

_ERROR = "`publish`, `amqp.on_failure = error`, autocommit"
_WARN = "`publish`, `amqp.on_failure = warn`, autocommit"
_OUTBOX = "`publish`, `amqp.on_failure = outbox`, in one open transaction"
_OUTBOX_COMMIT = "`publish`, `amqp.on_failure = outbox`, autocommit"
# Statement, how amqp.on_failure is set, and whether a transaction stays open around all calls.
_CONTESTANTS = {
    "`SELECT 1`, autocommit": ("SELECT 1", "error", False),
    _ERROR: (_PUBLISH, "error", False),
    _WARN: (_PUBLISH, "warn", False),
    "INSERT of one row, in one open transaction": (_INSERT, "error", True),
    _OUTBOX: (_PUBLISH, "outbox", True),
    "INSERT of one row, autocommit": (_INSERT, "error", False),
    _OUTBOX_COMMIT: (_PUBLISH, "outbox", False),
}


def measure(lab: Lab) -> Finding:
    """Under each amqp.on_failure; the first call, which tries to connect, is not counted.

    Later ones that try again, each time the backoff is over, are few and leave the median alone.
    """
    lab.say("down: publishing to a broker that is down")
    lab.session.execute("CREATE TABLE bench.plain (id bigserial PRIMARY KEY, note text)")
    lab.session.execute(_BROKER.encode(), [free_port()])
    contestants: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        for name, (statement, on_failure, opened) in _CONTESTANTS.items():
            session = stack.enter_context(_session(lab, on_failure, opened))
            contestants[name] = prepared(session, statement)
            contestants[name]()
        found = in_turn(lab.sizes.down_blocks, contestants, _CALLS)
    lab.session.execute("DELETE FROM amqp.broker WHERE broker_id = 2")
    lab.session.execute("DROP TABLE bench.plain; TRUNCATE amqp.outbox")
    return _finding({name: median(times) * 1e6 for name, times in found.items()})


@contextmanager
def _session(lab: Lab, on_failure: str, opened: bool) -> Iterator[Session]:
    with lab.connect(on_failure=on_failure) as session:
        if opened:
            session.execute("BEGIN")
        yield session
        if opened:
            session.execute("ROLLBACK")


def _finding(medians: dict[str, float]) -> Finding:
    rows: list[list[Cell]] = [[*item] for item in medians.items()]
    base = medians["`SELECT 1`, autocommit"]
    insert = medians["INSERT of one row, in one open transaction"]
    limits = {
        _ERROR: f"`SELECT 1`: {base:.0f} µs",
        _WARN: f"`SELECT 1`: {base:.0f} µs",
        _OUTBOX: f"an INSERT: {insert:.0f} µs",
    }
    goals = [
        Goal(f"broker down: {name}", medians[name], "µs", _GOAL, limit)
        for name, limit in limits.items()
    ]
    return Finding(
        [Table("Medians of calls within the backoff", ["a call", "µs"], rows)], goals=goals
    )
