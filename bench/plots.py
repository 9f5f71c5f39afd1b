"""Plots as SVG files that change only where their numbers do."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
# Ids that depend on what they name, and letters that stay letters.
mpl.rcParams["svg.hashsalt"] = "pg_amqp_py"
mpl.rcParams["svg.fonttype"] = "none"

import matplotlib.pyplot as plt  # noqa: E402 -- behind what says how

from bench.finding import Plot  # noqa: E402

_MARKERS = "osD^vx*"


def draw(plot: Plot, folder: Path) -> None:
    """Write the plot into a folder."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    ticks = sorted({x for points in plot.series.values() for x, _ in points})
    if ticks[0] > 0:
        axes.set_xscale("log")
    else:
        # A backlog of nothing has a place, too.
        axes.set_xscale("symlog", linthresh=ticks[1] / 10)
    axes.set_xticks(ticks, [f"{x:,.0f}" for x in ticks])
    axes.minorticks_off()
    axes.set_yscale("log")
    for marker, (name, points) in zip(_MARKERS, plot.series.items(), strict=False):
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, label=name)
    axes.set_title(plot.title)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    axes.grid(which="major", alpha=0.4)
    # Beside the lines, wherever they run.
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(folder / f"{plot.name}.svg", metadata={"Date": None})
    plt.close(figure)
