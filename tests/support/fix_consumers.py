"""Fixtures: consumers of a test's own database and virtual host, and a daemon that works them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.relay import ConsumeProcess
from support.consumers import Desk, desk
from support.fix_servers import VHost


@pytest.fixture
def consumers(database: str, broker: VHost) -> Iterator[Desk]:
    """Makes consumers."""
    with desk(database, broker) as make:
        yield make


@pytest.fixture
def daemon(database: str) -> Iterator[ConsumeProcess]:
    """A daemon that runs."""
    with ConsumeProcess(database) as process:
        yield process
