"""Parts of the relay, each by itself."""

from __future__ import annotations

import io
import socket
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pg_amqp_daemon.relay.relay import Relay
from pg_amqp_daemon.relay.worker import Worker
from pg_amqp_daemon.runtime import logs
from pg_amqp_daemon.runtime.lease import LEASE, Lease
from support.health import watched


def test_a_lease_counts_from_the_question() -> None:
    lease = Lease()
    lease.prove(time.monotonic())
    assert lease.valid
    lease.prove(time.monotonic() - LEASE)
    assert not lease.valid


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


def test_a_worker_that_has_ended_is_replaced() -> None:
    supervisor = Relay("")._supervisor
    stopped = threading.Event()
    dead = SimpleNamespace(alive=False, stop=stopped.set, connected=False)
    supervisor.workers[1] = cast(Any, dead)
    supervisor.keep({1})
    worker = supervisor.workers[1]
    try:
        assert isinstance(worker, Worker)
        assert stopped.is_set()
    finally:
        worker.stop()
        worker.abort()


def test_a_client_that_says_nothing_is_sent_away(database: str) -> None:
    with watched(database) as (relay, _):
        port = int(relay.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as silent:
            assert silent.recv(1) == b""
