"""The page: what was measured goes between its markers, all other text stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bench.finding import Cell, Finding, Goal, Plot, Table, shown
from bench.machine import run_of

PLOTS = "benchmarks"
"""Folder of the plots, beside the page."""


def render(page: str, machine: Mapping[str, str], findings: Mapping[str, Finding]) -> str:
    """The page with these findings; what was not measured this time stays.

    Raises ValueError for a finding that has no place there.
    """
    goals = [goal for finding in findings.values() for goal in finding.goals]
    page = _put(page, "machine", _table(["", ""], [[*item] for item in machine.items()]))
    page = _put(page, "summary", _summary(goals))
    for name, finding in findings.items():
        text = _finding(finding)
        if finding.run != run_of(machine):
            text += f"\n\nFrom another run: {finding.run}."
        page = _put(page, name, text)
    return page


def _put(page: str, name: str, text: str) -> str:
    between = re.compile(f"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    page, count = between.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)
    if count != 1:
        raise ValueError(f'the page has {count} places for "{name}", not one')
    return page


def _summary(goals: Iterable[Goal]) -> str:
    rows: list[Sequence[Cell]] = [
        [
            goal.figure,
            f"{shown(goal.measured)} {goal.unit}".strip(),
            goal.limit,
            f"{'at least' if goal.at_least else 'at most'} {goal.goal:.3g} {goal.unit}".strip(),
            "yes" if goal.kept else "**no**",
        ]
        for goal in goals
    ]
    return _table(["figure", "measured", "limit", "goal", "kept?"], rows)


def _finding(finding: Finding) -> str:
    tables = [f"{table.caption}:\n\n{_of(table)}" for table in finding.tables]
    return "\n\n".join([*tables, *map(_image, finding.plots)])


def _image(plot: Plot) -> str:
    return f"![{plot.title}]({PLOTS}/{plot.name}.svg)"


def _of(table: Table) -> str:
    return _table(table.columns, table.rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    lines = [[*columns], ["---", *["---:"] * (len(columns) - 1)]]
    # Short rows lack what was not measured for them.
    missing: list[Cell] = [None] * len(columns)
    for row in rows:
        cells = [*row, *missing[len(row) :]]
        lines.append([shown(cell).replace("|", "\\|") for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
