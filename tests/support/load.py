"""Clients that post all the time, and whether what they were told was true."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from servers.gateway import GatewayProcess
from servers.processes import wait_for
from support.messages import Inbox
from support.patience import LIMIT
from support.posting import Client


class Load:
    """Clients that post all the time, each message with an id of its own."""

    def __init__(
        self,
        gateway: GatewayProcess,
        path: str,
        clients: int = 8,
        *,
        may_be_closed: bool = False,
        **fields: Any,
    ) -> None:
        self._may_be_closed = may_be_closed
        self.answers: dict[str, int] = {}
        """Statuses by message_id."""
        self._gateway = gateway
        self._path = path
        self._fields = {"delivery_mode": 2, **fields}
        self._ended = threading.Event()
        self._threads = ThreadPoolExecutor(clients)
        self._running = [self._threads.submit(self._post, number) for number in range(clients)]

    def count(self, status: int) -> int:
        """How many were answered so."""
        return Counter(self.answers.copy().values())[status]

    def wait_for(self, status: int, more: int = 20) -> None:
        """Wait until so many more are answered so."""
        enough = self.count(status) + more
        wait_for(lambda: self.count(status) >= enough, LIMIT, f"answers with {status}")

    def end(self) -> None:
        """Post no more."""
        self._ended.set()
        for one in self._running:
            one.result(LIMIT)
        self._threads.shutdown()

    def _post(self, client_number: int) -> None:
        client = Client(self._gateway.port)
        number = 0
        while not self._ended.is_set():
            number += 1
            message_id = f"{client_number}.{number}"
            try:
                answer = client.form(self._path, message_id=message_id, **self._fields)
            except (OSError, http.client.HTTPException):
                if not self._may_be_closed:
                    raise
                # It has ended: what was not answered was not confirmed.
                break
            self.answers[message_id] = answer.status
            if answer.status == 503:
                assert answer.headers["retry-after"]
                self._ended.wait(0.02)
        client.close()


@contextmanager
def load(
    gateway: GatewayProcess,
    path: str,
    clients: int = 8,
    *,
    may_be_closed: bool = False,
    **fields: Any,
) -> Iterator[Load]:
    """Clients that post until the end of the block."""
    running = Load(gateway, path, clients, may_be_closed=may_be_closed, **fields)
    try:
        yield running
    finally:
        running.end()


def assert_honest(answers: dict[str, int], arrived: Counter[str]) -> None:
    """What was confirmed has arrived, what surely was not published has not, and nothing twice."""
    assert set(arrived.values()) <= {1}
    for message_id, status in answers.items():
        assert status in (204, 422, 503, 504)
        if status == 204:
            assert arrived[message_id] == 1
        elif status in (422, 503):
            assert arrived[message_id] == 0


def ids(inbox: Inbox) -> Counter[str]:
    """How often each message_id arrived."""
    return Counter(one.properties.message_id for one in inbox.drain())
