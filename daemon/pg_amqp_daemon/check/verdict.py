"""What was found, as plugins of Nagios say it: a word, its number as exit status, and details.

Exit status and output: Monitoring Plugins Development Guidelines, sections 2.1 and 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple


class Verdict(IntEnum):
    """How bad it is: the exit status."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


_BY_URGENCY = (Verdict.OK, Verdict.UNKNOWN, Verdict.WARNING, Verdict.CRITICAL)


class Finding(NamedTuple):
    """One thing that was looked at."""

    verdict: Verdict
    text: str


class Figure(NamedTuple):
    """A number for whoever draws graphs."""

    name: str
    value: float
    unit: str = ""


def worst(findings: Sequence[Finding]) -> Verdict:
    """The verdict on all of them."""
    return max((one.verdict for one in findings), key=_BY_URGENCY.index, default=Verdict.OK)


def report(findings: Sequence[Finding], figures: Sequence[Figure]) -> str:
    """All of it: what is worst in the first line, with figures, then everything else."""
    verdict = worst(findings)
    at_fault = [one.text for one in findings if one.verdict == verdict != Verdict.OK]
    first = f"{verdict.name}: {'; '.join(at_fault) or 'all is well'}"
    drawn = " ".join(f"'{one.name}'={one.value:g}{one.unit}" for one in figures)
    # A bar begins the figures.
    lines = [first.replace("|", "/") + (f" | {drawn}" if drawn else "")]
    lines += [f"{one.verdict.name}: {one.text}".replace("|", "/") for one in findings]
    return "\n".join(lines)
