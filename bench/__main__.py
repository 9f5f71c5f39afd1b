"""The program: measure, remember, write the page."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from bench import (
    backlog,
    bodies,
    bulk,
    clients,
    consume,
    down,
    first,
    gateway,
    growth,
    listen,
    memory,
    outbox,
    relay,
    request,
    single,
    triggers,
)
from bench.finding import Finding, Plot
from bench.lab import Lab, open_lab
from bench.machine import describe, run_of
from bench.page import PLOTS, render
from bench.sizes import FULL, QUICK, Sizes

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs" / "reference" / "benchmarks.md"
BUILD = PROJECT / "build" / "bench"

GROUPS: dict[str, Callable[[Lab], Finding]] = {
    "bulk": bulk.measure,
    "bodies": bodies.measure,
    "single": single.measure,
    "clients": clients.measure,
    "triggers": triggers.measure,
    "first": first.measure,
    "memory": memory.measure,
    "down": down.measure,
    "relay": relay.measure,
    "outbox": outbox.measure,
    "consume": consume.measure,
    "listen": listen.measure,
    "gateway": gateway.measure,
    "request": request.measure,
    "size": growth.measure_size,
    "count": growth.measure_count,
    "savepoints": growth.measure_savepoints,
    "backlog": backlog.measure,
}
"""Groups of figures, by the name of their markers in the page, in the order of measuring."""


@click.command()
@click.option("--quick", is_flag=True, help="Smaller numbers: to see that it works.")
@click.option("--only", metavar="NAMES", help=f"Measure only some of: {', '.join(GROUPS)}.")
@click.option(
    "--peer-dsn",
    help="Another database with an amqp.publish() of its own. Its broker 1 is changed.",
)
@click.option("--write-only", is_flag=True, help="Measure nothing: write the page anew.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Where the results go, and those of --quick with their page. Default: build/bench.",
)
def main(
    quick: bool, only: str | None, peer_dsn: str | None, write_only: bool, folder: Path | None
) -> None:
    """Measure pg_amqp_py, each figure beside its limit, and write docs/reference/benchmarks.md.

    What a quick run shows is of no use but to see that it works: its page does not go there.
    """
    sizes = QUICK if quick else FULL
    folder = folder or (BUILD / "quick" if quick else BUILD)
    folder.mkdir(parents=True, exist_ok=True)
    if not write_only:
        measure(sizes, _chosen(only), peer_dsn, folder / "results.json")
    write_page(folder / "results.json", folder / PAGE.name if quick else PAGE)


def _chosen(only: str | None) -> list[str]:
    names = only.split(",") if only else list(GROUPS)
    unknown = set(names) - set(GROUPS)
    if unknown:
        raise click.BadParameter(f"no such group: {', '.join(sorted(unknown))}")
    return names


def measure(sizes: Sizes, names: list[str], peer: str | None, file: Path) -> None:
    """Measure these groups. What earlier runs have found of the others stays in the file.

    It is written after each group: what is measured is not lost when the next one fails.
    """
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"findings": {}}
    load = " ".join(f"{load:.2f}" for load in os.getloadavg())
    with open_lab(sizes, peer) as lab:
        results["machine"] = machine = {**describe(lab), "Load before": load}
        for name in names:
            results["findings"][name] = dataclasses.asdict(GROUPS[name](lab)) | {
                "run": run_of(machine)
            }
            file.write_text(json.dumps(results, indent=1))


def write_page(file: Path, page: Path) -> None:
    """Write the page with what is in the results, and its plots beside it."""
    results = json.loads(file.read_text())
    # In the order of the page, whatever was measured last.
    known = results["findings"]
    findings = {name: Finding.from_json(known[name]) for name in GROUPS if name in known}
    page.write_text(render(PAGE.read_text(), results["machine"], findings))
    plots = [plot for finding in findings.values() for plot in finding.plots]
    if plots:
        _draw(plots, page.parent / PLOTS)
    click.echo(f"written: {page}")


def _draw(plots: Iterable[Plot], folder: Path) -> None:
    # Loading matplotlib takes a second, and it is installed for the whole benchmark only.
    from bench.plots import draw

    folder.mkdir(exist_ok=True)
    for plot in plots:
        draw(plot, folder)


if __name__ == "__main__":
    main()
