"""An arena against a bytearray, which it stands for."""

from __future__ import annotations

import random
import resource
from pathlib import Path

import pytest

from pg_amqp_py.wire.memory import Arena

MB = 1 << 20


def pages() -> list[int]:
    """Of this process: all, and those in memory (proc(5), "statm")."""
    return [int(number) for number in Path("/proc/self/statm").read_text().split()]


def test_it_holds_what_a_bytearray_holds() -> None:
    chance = random.Random(1)
    expected = bytearray(b"begun")
    arena = Arena(expected)
    for _ in range(2_000):
        if chance.random() < 0.9:
            data = chance.randbytes(chance.choice([0, 1, 100, 10_000, 300_000]))
            expected += data
            arena += data
        else:
            end = chance.randrange(len(expected) + 1)
            del expected[end:]
            del arena[end:]
        assert len(arena) == len(expected)
    assert arena.view() == expected


@pytest.mark.parametrize("size", [0, 1, 4 * MB - 1, 4 * MB, 4 * MB + 1, 9 * MB])
def test_it_begins_with_what_there_was(size: int) -> None:
    arena = Arena(bytearray(b"x" * size))
    arena += b"y" * (9 * MB)
    assert arena.view() == b"x" * size + b"y" * (9 * MB)


def test_what_is_forgotten_takes_no_memory() -> None:
    def resident() -> int:
        return pages()[1] * resource.getpagesize()

    arena, part = Arena(bytearray()), b"x" * MB
    before = resident()
    for _ in range(64):
        arena += part
    assert resident() - before > 60 * MB
    del arena[32 * MB :]
    assert resident() - before < 40 * MB
    del arena[0:]
    assert resident() - before < 10 * MB


def test_memory_that_there_is_not() -> None:
    arena = Arena(bytearray(b"kept"))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = pages()[0] * resource.getpagesize()
    part = b"x" * (64 * MB)
    resource.setrlimit(resource.RLIMIT_AS, (used + 70 * MB, limits[1]))
    try:
        with pytest.raises(MemoryError):
            arena += part
        with pytest.raises(MemoryError):
            Arena(bytearray(64 * MB))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert bytes(arena.view()) == b"kept"
