"""What amqp.publish_outbox() costs in the transaction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from bench.clock import cpu, in_turn, median, timed
from bench.finding import Cell, Finding, Table
from bench.lab import Lab
from bench.pgbench import Rate, rate

_BODY = b"x" * 100
_BULK = (
    "SELECT count(amqp.publish_outbox(1, 'events', 'bench', %s::bytea, 2))"
    " FROM generate_series(1, %s)"
)
# What a row in such a table costs without a function around it.
_BARE = """
INSERT INTO amqp.outbox (broker_id, exchange, routing_key, body, delivery_mode)
SELECT 1, 'events', 'bench', %s::bytea, 2 FROM generate_series(1, %s)
"""
_INSERT = "INSERT INTO bench.orders (note) VALUES ('an order');\n"
_PUBLISH = "SELECT amqp.publish_outbox(1, 'events', 'bench', 'an order'::bytea, 2);\n"
_SCRIPTS = {
    "without": f"BEGIN;\n{_INSERT}COMMIT;\n",
    "with": f"BEGIN;\n{_INSERT}{_PUBLISH}COMMIT;\n",
}


class _Row(NamedTuple):
    """Microseconds."""

    elapsed: float
    cpu: float


def measure(lab: Lab) -> Finding:
    """Many rows in one statement, and one beside an order in each of many transactions."""
    return Finding([_bulk(lab), _clients(lab)])


def _bulk(lab: Lab) -> Table:
    count = lab.sizes.outbox_rows
    lab.say(f"outbox: {count:,} rows in one statement")
    contestants: dict[str, Callable[[], _Row]] = {
        "an INSERT into `amqp.outbox`": partial(_fill, lab, _BARE, count),
        "`publish_outbox`": partial(_fill, lab, _BULK, count),
    }
    found = in_turn(lab.sizes.rounds, contestants)
    rows: list[list[Cell]] = [
        [name, median(row.elapsed for row in each), median(row.cpu for row in each)]
        for name, each in found.items()
    ]
    caption = f"{count:,} rows of 100 B in one statement, medians of {lab.sizes.rounds} rounds"
    return Table(caption, ["a row", "elapsed, µs", "CPU of the backend, µs"], rows)


def _fill(lab: Lab, query: str, count: int) -> _Row:
    pid = lab.session.info.backend_pid
    before = cpu(pid)
    elapsed = timed(lambda: lab.session.execute(query.encode(), [_BODY, count]))
    used = cpu(pid) - before
    lab.session.execute("TRUNCATE amqp.outbox")
    return _Row(elapsed / count * 1e6, used / count * 1e6)


def _clients(lab: Lab) -> Table:
    lab.session.execute("CREATE TABLE bench.orders (id bigserial PRIMARY KEY, note text)")
    rows: list[list[Cell]] = []
    for clients in lab.sizes.outbox_clients:
        lab.say(f"outbox: {clients} clients")
        contestants: dict[str, Callable[[], Rate]] = {
            name: partial(rate, lab, script, clients) for name, script in _SCRIPTS.items()
        }
        found = in_turn(lab.sizes.clients_rounds, contestants)
        tps = [median(one.tps for one in found[name]) for name in _SCRIPTS]
        used = [median(one.cpu for one in found[name]) * 1e6 for name in _SCRIPTS]
        rows.append([clients, *tps, tps[1] / tps[0], *used])
        lab.session.execute("TRUNCATE amqp.outbox, bench.orders")
    lab.session.execute("DROP TABLE bench.orders")
    columns = ["clients", "without, tps", "with, tps", "share", "without, CPU µs", "with, CPU µs"]
    caption = "Transactions that insert an order, without and with one `publish_outbox`"
    return Table(caption, columns, rows)
