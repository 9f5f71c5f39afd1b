"""Fixtures for all tests, and the options of this suite."""

import pytest

pytest_plugins = ["support.fix_servers", "support.fix_sessions"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the randomised test of the outbox's guarantees disturbs everything."""
    parser.addoption("--chaos-seconds", type=float, default=60.0, metavar="SECONDS")
