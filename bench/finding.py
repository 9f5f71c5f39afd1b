"""What a group of figures has found: tables, plots, and figures that have a goal. Plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float | None


def shown(value: Cell) -> str:
    """A number with three significant digits; None, which is not measured, as a dash."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, digits)}f}"


@dataclass
class Table:
    """Numbers under a heading each; units are in the headings."""

    caption: str
    columns: list[str]
    rows: list[list[Cell]]


@dataclass
class Plot:
    """Lines on logarithmic axes. `name` is that of its file."""

    name: str
    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float, float]]]


@dataclass
class Goal:
    """A figure that shall be at most, or at least, its goal."""

    figure: str
    measured: float
    unit: str
    goal: float
    limit: str
    """What the figure is to be seen beside, in words."""
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """Whether the goal is reached."""
        return self.measured >= self.goal if self.at_least else self.measured <= self.goal


@dataclass
class Finding:
    """All that one group of figures shows."""

    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    run: str = ""
    """When it was measured, and at which commit."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Finding:
        """Make one from what `dataclasses.asdict` made of it."""
        return cls(
            [Table(**table) for table in data["tables"]],
            [Plot(**plot) for plot in data["plots"]],
            [Goal(**goal) for goal in data["goals"]],
            data["run"],
        )
