"""Realistic slips, each with the tests that must notice it."""

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


SLIPS: list[Slip] = [
    Slip(
        "the memory of method frames grows without bound",
        "extension/pg_amqp_py/wire/encode.py",
        """            if len(self._methods) >= _KEPT_ENVELOPES:
                self._methods.clear()
""",
        "",
        ("tests/wire/test_encode.py",),
    ),
]
