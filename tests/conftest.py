"""Fixtures for all tests, and the options and marks of this suite."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")
_ENOUGH = 8 << 30
"""Bytes that may be taken there; several times what ever was."""

# A test's database is three hundred files, and there are thousands: on a disk, making and removing
# them takes a third of the time of all tests.
if (
    "TMPDIR" not in os.environ
    and _MEMORY.is_dir()
    and shutil.disk_usage(_MEMORY).free > _ENOUGH
    and not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
):
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)

pytest_plugins = [
    "support.fix_servers",
    "support.fix_sessions",
    "support.fix_consumers",
    "support.fix_listeners",
    "support.fix_gateway",
    "support.fix_mqtt",
    "support.fix_stomp",
    "support.fix_live",
]

SERVERS = {"postgres", "rabbitmq", "influxdb"}
"""Fixtures that are servers: whoever asks for one, or for what is in it, needs them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the randomised tests of guarantees disturb everything, and how much there is."""
    parser.addoption("--chaos-seconds", type=float, default=30.0, metavar="SECONDS")
    parser.addoption("--chaos-messages", type=int, default=5000, metavar="COUNT")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server; a test that starts one of its own says so itself.

    Files with slow tests go first: at the end, all processes shall have something to do.
    """
    for item in items:
        if isinstance(item, pytest.Function) and SERVERS & {*item.fixturenames}:
            item.add_marker(pytest.mark.server)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
