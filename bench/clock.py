"""Measuring: time, rounds in turn, medians, and what the kernel knows of a process."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(
    rounds: int, contestants: Mapping[str, Callable[[], T]], calls: int = 1
) -> dict[str, list[T]]:
    """What each contestant returns, round after round: A B A B, never A A B B.

    What the machine does besides changes slowly, and so meets all of them. `calls` of one are made
    at a stretch: where a call is short, the one before it leaves its traces in the caches.
    """
    results: dict[str, list[T]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            results[name] += [contestant() for _ in range(calls)]
    return results


def median(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(values)


def quantile(values: Iterable[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def cpu(*pids: int) -> float:
    """Seconds of CPU that the threads of processes have used, to the nanosecond.

    Exact for a thread that sleeps; one that runs may be a few milliseconds further.
    """
    threads = (thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


class Memory(NamedTuple):
    """Of a process, in bytes."""

    private: int
    """What no other process shares, and what would be free if it ended."""
    peak: int
    """The most that was ever resident, with what is shared, since `forget_peak`."""
    resident: int


def memory(pid: int) -> Memory:
    """What a process has in memory now."""
    rollup = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"))
    status = _kilobytes(Path(f"/proc/{pid}/status"))
    return Memory(rollup["Private_Dirty"], status["VmHWM"], status["VmRSS"])


def forget_peak(pid: int) -> None:
    """Let the peak of `memory` begin at what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _kilobytes(file: Path) -> dict[str, int]:
    """Fields of the form `Name:  12 kB`, in bytes."""
    lines = (line.split() for line in file.read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[-1] == "kB"}
