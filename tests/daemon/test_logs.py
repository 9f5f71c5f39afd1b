"""Lines of the log: whole, and without what nobody may read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog

from pg_amqp_daemon.runtime import logs


@contextmanager
def standard_error() -> Iterator[int]:
    """A pipe instead of it: what is at the other end, which nobody empties."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with pytest.MonkeyPatch.context() as patch, os.fdopen(writer, "w") as file:
        patch.setattr(sys, "stderr", file)
        yield reader
    os.close(reader)


def test_a_line_of_the_log_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads would tear it otherwise."""
    pieces: list[bytes] = []

    def write(_fd: int, data: bytes) -> int:
        pieces.append(data)
        return len(data)

    with standard_error():
        monkeypatch.setattr(os, "write", write)
        logs._Logger().msg('{"event": "x"}')
    assert pieces == [b'{"event": "x"}\n']


def test_what_nobody_takes_is_left_out_and_counted() -> None:
    """The program would stand still otherwise, and everything that it delivers."""
    with standard_error() as taken:
        logs.configure()
        log = structlog.get_logger()
        for number in range(30):
            log.info("x" * 3000, number=number)
        os.read(taken, 1 << 20)
        log.info("here again")
        lines = [json.loads(line) for line in os.read(taken, 1 << 20).splitlines()]
    said, last = lines
    assert last["event"] == "here again"
    assert said.keys() == {"event", "level", "timestamp", "lines"}
    assert said["event"] == "lines left out, because nobody took them"
    assert said["level"] == "warning"
    assert 0 < said["lines"] < 30


def test_a_long_line_arrives_whole() -> None:
    with standard_error() as taken:
        logs._Logger().msg("x" * 20_000)
        assert os.read(taken, 1 << 20) == b"x" * 20_000 + b"\n"


def test_a_defect_shows_no_text_that_could_not_be_encoded() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "secret-word\ud800".encode()
    assert "secret-word" in repr(caught.value)
    assert "secret-word" not in logs.name_of(caught.value)
    assert logs.name_of(ValueError("why")) == "ValueError('why')"
