"""One publish per transaction, one to 64 clients: transactions a second, CPU of the backends."""

from __future__ import annotations

from functools import partial

from bench.clock import in_turn, median
from bench.finding import Cell, Finding, Goal, Plot, Table
from bench.lab import BODY, IN_C, PEER, Lab
from bench.pgbench import Rate, rate
from bench.roundtrip import MISSING

_PUBLISH = f"SELECT amqp.publish(1, 'events', 'bench', '{BODY}'::text);\n"
_SHARE = 0.85
_CPU = 60
"""The goal where there is nothing in C to compare with."""


def measure(lab: Lab) -> Finding:
    """Beside `SELECT 1`, and beside a function in C that does the same round trip."""
    found: dict[int, dict[str, list[Rate]]] = {}
    for clients in lab.sizes.clients:
        lab.say(f"clients: {clients}")
        contestants = {
            "SELECT 1": partial(rate, lab, "SELECT 1;\n", clients),
            "publish": partial(rate, lab, _PUBLISH, clients),
        }
        if lab.in_c:
            contestants[IN_C] = partial(rate, lab, f"{lab.in_c};\n", clients)
        if lab.peer:
            contestants[PEER] = partial(rate, lab, _PUBLISH, clients, lab.peer)
        found[clients] = in_turn(lab.sizes.clients_rounds, contestants)
        lab.purge()
    return _finding(found)


def _finding(found: dict[int, dict[str, list[Rate]]]) -> Finding:
    names = [*next(iter(found.values()))]
    columns = ["clients", *(f"{name}, tps" for name in names)]
    columns += [f"{name}, CPU µs" for name in names]
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
    caption = "Transactions a second, and CPU of the backend for each"
    if IN_C not in names:
        caption += f" ({MISSING})"
    return Finding([Table(caption, columns, rows)], [plot], _goals(tps, used))


def _goals(tps: dict[str, dict[int, float]], used: dict[str, dict[int, float]]) -> list[Goal]:
    if IN_C in tps:
        return [
            Goal(
                f"one publish per transaction, {_clients(n)}: share of {IN_C}",
                tps["publish"][n] / limit,
                "",
                _SHARE,
                f"{limit:,.0f} a second; ours {tps['publish'][n]:,.0f}",
                at_least=True,
            )
            for n, limit in tps[IN_C].items()
        ]
    return [
        Goal(
            f"CPU of the backend for a transaction with one publish, {_clients(n)}",
            used["publish"][n],
            "µs",
            _CPU,
            f"`SELECT 1`: {used['SELECT 1'][n]:.0f} µs",
        )
        for n in (min(used["publish"]), max(used["publish"]))
    ]


def _clients(number: int) -> str:
    return "1 client" if number == 1 else f"{number} clients"
