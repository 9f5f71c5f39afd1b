"""Fixtures of tests that speak STOMP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.fix_servers import VHost
from support.stomp_client import StompClient

Stompers = Callable[..., StompClient]


@pytest.fixture
def stompers(broker: VHost) -> Iterator[Stompers]:
    """Makes STOMP clients on it, and closes them."""
    made: list[StompClient] = []

    def make(version: str = "1.2", **options: Any) -> StompClient:
        made.append(StompClient(broker, version, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()
