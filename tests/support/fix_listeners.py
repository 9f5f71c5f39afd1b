"""Fixtures: listeners of a test's own database and virtual host, and a daemon that listens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.relay import ListenProcess
from support.fix_servers import VHost
from support.listeners import Switchboard, switchboard


@pytest.fixture
def listeners(database: str, broker: VHost) -> Iterator[Switchboard]:
    """Makes listeners."""
    with switchboard(database, broker) as make:
        yield make


@pytest.fixture
def listening(database: str) -> Iterator[ListenProcess]:
    """A daemon that listens."""
    with ListenProcess(database) as process:
        yield process
