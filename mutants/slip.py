"""What a slip is."""

from __future__ import annotations

from typing import NamedTuple


class Slip(NamedTuple):
    """A change to the code that somebody could make by mistake."""

    what: str
    """What goes wrong by it, in a few words."""
    file: str
    old: str
    """The text that it replaces, which occurs once in the file."""
    new: str
    tests: tuple[str, ...]
    """What pytest is given: files, or single tests."""
