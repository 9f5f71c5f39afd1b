"""Lines of the log: whole, and without what nobody may read."""

from __future__ import annotations

import io
import sys

import pytest

from pg_amqp_daemon.runtime import logs


class _Pieces(io.StringIO):
    """Remembers what was written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


def test_a_line_of_the_log_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads would tear it otherwise."""
    written = _Pieces()
    monkeypatch.setattr(sys, "stderr", written)
    logs._Logger().msg('{"event": "x"}')
    assert written.pieces == ['{"event": "x"}\n']


def test_a_defect_shows_no_text_that_could_not_be_encoded() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "secret-word\ud800".encode()
    assert "secret-word" in repr(caught.value)
    assert "secret-word" not in logs.name_of(caught.value)
    assert logs.name_of(ValueError("why")) == "ValueError('why')"
