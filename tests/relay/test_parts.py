"""Parts of the relay, each by itself."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pg_amqp_daemon.relay.relay import Relay
from pg_amqp_daemon.relay.worker import Worker
from pg_amqp_daemon.runtime.process import Process
from support.health import watched


def test_a_worker_that_has_ended_is_replaced() -> None:
    supervisor = Relay("", Process())._supervisor
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


@pytest.mark.slow
def test_a_client_that_says_nothing_is_sent_away(database: str) -> None:
    with watched(database) as (relay, _):
        port = int(relay.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as silent:
            assert silent.recv(1) == b""
