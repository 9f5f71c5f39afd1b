"""Fixtures for all tests, and the options and marks of this suite."""

import pytest

pytest_plugins = ["support.fix_servers", "support.fix_sessions", "support.fix_consumers"]

SERVERS = {"postgres", "rabbitmq", "influxdb"}
"""Fixtures that are servers: whoever asks for one, or for what is in it, needs them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the randomised tests of guarantees disturb everything, and how much there is."""
    parser.addoption("--chaos-seconds", type=float, default=60.0, metavar="SECONDS")
    parser.addoption("--chaos-messages", type=int, default=5000, metavar="COUNT")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server; a test that starts one of its own says so itself."""
    for item in items:
        if isinstance(item, pytest.Function) and SERVERS & {*item.fixturenames}:
            item.add_marker(pytest.mark.server)
