"""Memory of a backend that has published, and of one with much to publish."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bench.clock import forget_peak, in_turn, median, memory
from bench.finding import Cell, Finding, Goal, Table
from bench.lab import PEER, Lab
from bench.limit import repeated

_BODY = "x" * 100
_PYTHON = "PL/Python alone: a function that does nothing"
_PUBLISH = "`publish`"
_CALL = "SELECT amqp.publish(1, 'events', 'bench', 'x'::text)"
_STATEMENTS = {"`SELECT 1`": "SELECT 1", _PYTHON: "SELECT bench.nothing()", _PUBLISH: _CALL}
_MANY = "SELECT count(amqp.publish(1, 'events', 'bench', %s::text)) FROM generate_series(1, %s)"


def measure(lab: Lab) -> Finding:
    """Of a backend after its first statement, and while a large transaction is pending."""
    lab.say("memory: of a backend after its first statement")
    contestants: dict[str, Callable[[], float]] = {
        name: partial(_private, lab, statement) for name, statement in _STATEMENTS.items()
    }
    if lab.peer:
        contestants[PEER] = partial(_private, lab, _CALL, lab.peer)
    found = in_turn(lab.sizes.memory_sessions, contestants)
    medians = {name: median(sizes) / 2**20 for name, sizes in found.items()}
    rows: list[list[Cell]] = [[*item] for item in medians.items()]
    table = Table(
        "Private dirty memory of a backend (medians)",
        ["after its first statement", "MB"],
        rows,
    )
    goal = Goal(
        "private memory of a backend after its first publish",
        medians[_PUBLISH],
        "MB",
        8,
        f"PL/Python alone: {medians[_PYTHON]:.1f} MB",
    )
    pending = _pending(lab)
    return Finding([table, *pending.tables], goals=[goal, *pending.goals])


def _private(lab: Lab, statement: str, dsn: str | None = None) -> float:
    with lab.connect(dsn) as session:
        session.pgconn.exec_(statement.encode())
        return memory(session.info.backend_pid).private


def _pending(lab: Lab) -> Finding:
    """What the messages of one transaction take, against their bytes on the wire."""
    count = lab.sizes.memory_pending
    lab.say(f"memory: {count:,} messages pending")
    wire = len(repeated(1, _BODY.encode(), None).frames) * count
    with lab.connect() as session:
        pid = session.info.backend_pid
        # A million calls are expensive enough for PostgreSQL to load its compiler, whoever is
        # called: 45 MB of a library, and 10 MB of private memory.
        session.execute("SET jit = off")
        session.execute(_MANY.encode(), [_BODY, 1])
        forget_peak(pid)
        before = memory(pid)
        session.execute("BEGIN")
        session.execute(_MANY.encode(), [_BODY, count])
        pending = memory(pid)
        session.execute("COMMIT")
        after = memory(pid)
    lab.purge()
    grown, peak = pending.private - before.private, after.peak - before.resident
    rows: list[list[Cell]] = [
        ["on the wire", wire / 2**20, 1.0],
        ["private memory, messages pending", grown / 2**20, grown / wire],
        ["peak of all memory, up to after COMMIT", peak / 2**20, peak / wire],
        ["private memory after COMMIT", (after.private - before.private) / 2**20, None],
    ]
    table = Table(
        f"{count:,} x 100 B pending: growth of the backend",
        ["", "MB", "share of the bytes on the wire"],
        rows,
    )
    limit = f"{wire / 2**20:,.0f} MB on the wire"
    figures = {"private memory": grown, "peak memory": peak}
    what = f"for {count:,} x 100 B pending, by bytes on the wire"
    goals = [Goal(f"{name} {what}", size / wire, "", 1.3, limit) for name, size in figures.items()]
    return Finding([table], goals=goals)
