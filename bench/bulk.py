"""Many messages in one transaction, as a share of the broker's limit."""

from __future__ import annotations

from collections.abc import Callable

from bench.clock import in_turn, median
from bench.finding import Cell, Finding, Goal, Table
from bench.lab import PEER, Lab, Session, Spent, transaction
from bench.limit import Stream, repeated
from bench.machine import touch_memory

MODES = {"transient": 1, "persistent": 2}
_BODY = "x" * 100
_GOALS = {"transient": 0.88, "persistent": 0.93}
_PUBLISH = (
    "SELECT count(amqp.publish(1, 'events', 'bench', %s::text, %s::int4))"
    " FROM generate_series(1, %s)"
)
_PEER_PUBLISH = (
    "SELECT count(amqp.publish(1, 'events', 'bench', %s::text)) FROM generate_series(1, %s)"
)
_COLUMNS = ["limit, s", "ours, s", "of it statement, s", "of it COMMIT, s", "share of the limit"]


def measure(lab: Lab) -> Finding:
    """100 bytes, 100,000 and 1,000,000 times, transient and persistent."""
    columns = ["messages", *_COLUMNS]
    if lab.peer:
        columns += ["peer, s", "peer's share"]
    finding = Finding([Table("Medians of all rounds", columns, [])])
    with lab.connect() as session, lab.connect(lab.peer) as peer:
        # A session's first publish loads Python and connects: a figure of its own.
        transaction(session, _PUBLISH, _BODY, 1, 1_000)
        if lab.peer:
            transaction(peer, _PEER_PUBLISH, _BODY, 1_000)
        lab.purge()
        for count, rounds in lab.sizes.bulk:
            for mode in MODES:
                lab.say(f"bulk: {count:,} x 100 B, {mode}")
                found = in_turn(rounds, _contestants(lab, session, peer, count, mode))
                row = compared(found, f"{count:,} {mode}")
                finding.tables[0].rows.append(row)
                finding.goals.append(goal(found, f"{count:,} x 100 B, {mode}", _GOALS[mode]))
    return finding


def _contestants(
    lab: Lab, session: Session, peer: Session, count: int, mode: str
) -> dict[str, Callable[[], Spent]]:
    number = MODES[mode]
    contestants = against_limit(
        lab,
        repeated(count, _BODY.encode(), number),
        lambda: transaction(session, _PUBLISH, _BODY, number, count),
    )
    # Its call has no delivery mode: what it sends is transient.
    if lab.peer and mode == "transient":
        contestants[PEER] = lab.purged(lambda: transaction(peer, _PEER_PUBLISH, _BODY, count))
    return contestants


def against_limit(
    lab: Lab, stream: Stream, ours: Callable[[], Spent]
) -> dict[str, Callable[[], Spent]]:
    """The limit for these bytes, and ours; the queue is emptied after each.

    Before each, as much memory as it takes is used once: see the page.
    """

    def limit() -> Spent:
        return Spent(lab.limit.publish(stream))

    def touched(action: Callable[[], Spent]) -> Callable[[], Spent]:
        def both() -> Spent:
            touch_memory(len(stream.frames))
            return action()

        return both

    return {
        "limit": lab.purged(touched(limit)),
        "ours": lab.purged(touched(ours)),
    }


def share(found: dict[str, list[Spent]], name: str = "ours") -> float:
    """How much of the limit's pace is kept."""
    return _median(found["limit"]) / _median(found[name])


def compared(found: dict[str, list[Spent]], what: str) -> list[Cell]:
    """A row of the table."""
    row: list[Cell] = [
        what,
        _median(found["limit"]),
        _median(found["ours"]),
        median(spent.statement for spent in found["ours"]),
        median(spent.commit for spent in found["ours"]),
        share(found),
    ]
    if PEER in found:
        row += [_median(found[PEER]), share(found, PEER)]
    return row


def goal(found: dict[str, list[Spent]], what: str, bound: float) -> Goal:
    """The share as a figure that has a goal."""
    limit = f"{_median(found['limit']):.3g} s; ours {_median(found['ours']):.3g} s"
    return Goal(f"{what}: share of the limit", share(found), "", bound, limit, at_least=True)


def _median(spent: list[Spent]) -> float:
    return median(one.total for one in spent)
