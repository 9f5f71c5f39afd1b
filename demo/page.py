"""How the demo looks: SQL beside what came of it, or above it where the terminal is narrow."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

NO_BREAK = "\N{NO-BREAK SPACE}"
LEFT = 49
"""Width of SQL."""
_WIDE = 100
_BOLD, _PLAIN = ("\033[1m", "\033[0m")


class Page:
    """What is printed, as wide as the terminal is, or 80 columns where there is none."""

    def __init__(self) -> None:
        columns = shutil.get_terminal_size().columns
        self._beside = columns >= _WIDE
        self.right = (_WIDE if self._beside else columns) - (LEFT + 3 if self._beside else 4)
        """Width of what came of it."""
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def title(self, title: str) -> None:
        """Begin a chapter."""
        print(f"\n{self.bold('-- ' + title)}")

    def heading(self, left: str, right: str, *, right_first: bool = False) -> None:
        """Say what the two columns are."""
        print()
        self.rows([left], [right], right_first=right_first)

    def rows(self, left: Iterable[str], right: Iterable[str], *, right_first: bool = False) -> None:
        """Print two columns, or one after the other."""
        if self._beside:
            for pair in zip_longest(left, right, fillvalue=""):
                self._print_row(*pair)
        else:
            below = [f"  | {line}".replace(NO_BREAK, " ").rstrip() for line in right]
            print(*([*below, *left] if right_first else [*left, *below]), sep="\n")
        sys.stdout.flush()

    def _print_row(self, left: str, right: str) -> None:
        invisible = len(left) - len(left.replace(_BOLD, "").replace(_PLAIN, ""))
        print(f"{left:{LEFT + invisible}} | {right}".replace(NO_BREAK, " ").rstrip())

    def bold(self, text: str) -> str:
        """Make it bold, where it can be."""
        return f"{_BOLD}{text}{_PLAIN}" if self._colours else text

    def message(self, place: str, properties: dict[str, Any], body: str) -> Iterator[str]:
        """The lines that show a message."""
        yield self.bold(place)
        for name, value in properties.items():
            shown = json.dumps(value) if isinstance(value, dict) else value
            yield from wrapped(f"{name}: {shown}", width=self.right)
        if properties.get("content_type") == "application/json":
            # Lines break only between the members of an object.
            body = re.sub("(?<!,) ", NO_BREAK, body)
        yield from textwrap.wrap(body, self.right, initial_indent="  ", subsequent_indent="   ")


def wrapped(*lines: str, width: int) -> list[str]:
    """Indented below what stands before them."""
    return [
        part
        for line in lines
        for part in textwrap.wrap(
            line, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
    ]
