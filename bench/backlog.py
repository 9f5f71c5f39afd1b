"""What an outbox that holds much costs whoever writes to it and whoever reads it.

The backlog is of a broker that has no relay, as when one of several brokers is down for long.
"""

from __future__ import annotations

from functools import partial

from bench.clock import in_turn, median, timed
from bench.finding import Cell, Finding, Plot, Table
from bench.lab import Lab, prepared
from bench.relay import deliver, running
from pg_amqp_daemon.relay.outbox import Outbox, relay_database

_NOBODY = 99
"""The broker of the backlog. It has no row in amqp.broker."""
_FILL = (
    "SELECT count(amqp.publish_outbox(99, 'events', 'bench', %s::bytea, 2))"
    " FROM generate_series(1, %s)"
)
_PUBLISH = "SELECT amqp.publish_outbox(1, 'events', 'bench', 'x'::text)"
_CALLS = 50
_READ = 10_000
_READ_BYTES = 8 << 20
"""What the relay reads at once."""
_DELIVERED = 20_000
_COLUMNS = {
    "publish": "`publish_outbox`, µs a call",
    "look": "a look of the relay that finds nothing, µs",
    "read": "reading 10,000 of the backlog, µs a message",
    "relay": f"relay, {_DELIVERED:,} messages to another broker, µs a message",
}


def measure(lab: Lab) -> Finding:
    """Microseconds of each, from no backlog to a million rows."""
    found: dict[int, dict[str, float]] = {}
    filled = 0
    for backlog in lab.sizes.backlogs:
        lab.say(f"backlog: {backlog:,} rows")
        lab.session.execute(_FILL.encode(), [b"x" * 100, backlog - filled])
        filled = backlog
        found[backlog] = {"publish": _publish(lab), **_look(lab, backlog), "relay": _relay(lab)}
    lab.session.execute("TRUNCATE amqp.outbox")
    lab.purge()
    rows: list[list[Cell]] = [
        [backlog, *(figures.get(name) for name in _COLUMNS)] for backlog, figures in found.items()
    ]
    series: dict[str, list[tuple[float, float]]] = {
        shown.replace("`", ""): [
            (backlog, figures[name]) for backlog, figures in found.items() if name in figures
        ]
        for name, shown in _COLUMNS.items()
    }
    table = Table("Medians", ["rows that wait for another broker", *_COLUMNS.values()], rows)
    plot = Plot("backlog", "Backlog of the outbox", "rows that wait", "µs", series)
    return Finding([table], [plot])


def _publish(lab: Lab) -> float:
    """A call, in a transaction that is open: without the disk."""
    with lab.connect() as session:
        session.execute("BEGIN")
        call = prepared(session, _PUBLISH)
        call()
        times = in_turn(lab.sizes.rounds, {"": call}, _CALLS)[""]
        session.execute("ROLLBACK")
    return median(times) * 1e6


def _look(lab: Lab, backlog: int) -> dict[str, float]:
    """What the relay's query takes, of a broker with nothing to do and of the other one."""
    database = relay_database(lab.postgres.dsn())
    with database.connected():
        # Often enough for PostgreSQL to settle for a plan.
        look = partial(timed, partial(Outbox(database, 1).due, None, -1, _READ, _READ_BYTES))
        looks = in_turn(lab.sizes.rounds, {"": look}, _CALLS)[""]
        found = {"look": median(looks) * 1e6}
        if backlog:
            read = partial(
                timed, partial(Outbox(database, _NOBODY).due, None, -1, _READ, _READ_BYTES)
            )
            reads = in_turn(lab.sizes.rounds, {"": read})[""]
            found["read"] = median(reads) / min(backlog, _READ) * 1e6
    return found


def _relay(lab: Lab) -> float:
    with running(lab) as (relay, channel):
        action = partial(deliver, lab, relay, channel, _DELIVERED)
        times = in_turn(lab.sizes.rounds, {"": action})[""]
    lab.purge()
    return median(delivery.elapsed for delivery in times) / _DELIVERED * 1e6
