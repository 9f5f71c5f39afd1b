"""One publish per transaction, one to 64 clients: transactions a second, CPU of the backends."""

from __future__ import annotations

from functools import partial

from bench.clock import in_turn, median
from bench.finding import Cell, Finding, Goal, Plot, Table
from bench.lab import PEER, Lab
from bench.pgbench import Rate, rate

_PUBLISH = f"SELECT amqp.publish(1, 'events', 'bench', '{'x' * 100}'::text);\n"
_SELECT_1 = "SELECT 1;\n"


def measure(lab: Lab) -> Finding:
    """Beside `SELECT 1`, which is the limit of client, server and machine."""
    found: dict[int, dict[str, list[Rate]]] = {}
    for clients in lab.sizes.clients:
        lab.say(f"clients: {clients}")
        contestants = {
            "SELECT 1": partial(rate, lab, _SELECT_1, clients),
            "publish": partial(rate, lab, _PUBLISH, clients),
        }
        if lab.peer:
            contestants[PEER] = partial(rate, lab, _PUBLISH, clients, lab.peer)
        found[clients] = in_turn(lab.sizes.clients_rounds, contestants)
        lab.purge()
    return _finding(found)


def _finding(found: dict[int, dict[str, list[Rate]]]) -> Finding:
    names = [*next(iter(found.values()))]
    columns = ["clients", *(f"{name}, tps" for name in names)]
    columns += [f"{name}, CPU us" for name in names]
    tps = {name: {n: median(one.tps for one in found[n][name]) for n in found} for name in names}
    used = {
        name: {n: median(one.cpu for one in found[n][name]) * 1e6 for n in found} for name in names
    }
    rows: list[list[Cell]] = [
        [n, *(tps[name][n] for name in names), *(used[name][n] for name in names)] for n in found
    ]
    plot = Plot(
        "clients",
        "One publish per transaction",
        "clients",
        "transactions a second",
        {name: [*rates.items()] for name, rates in tps.items()},
    )
    goals = [
        Goal(
            f"CPU of the backend for a transaction with one publish, {n} client{'s'[: n > 1]}",
            used["publish"][n],
            "us",
            60,
            f"`SELECT 1`: {used['SELECT 1'][n]:.0f} us",
        )
        for n in (min(found), max(found))
    ]
    caption = "Transactions a second, and CPU of the backend for each"
    return Finding([Table(caption, columns, rows)], [plot], goals)
