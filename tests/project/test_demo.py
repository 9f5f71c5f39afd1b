"""`make demo`: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pika
import pytest

from servers.processes import temporary_folder, wait_for
from support.sessions import open_session

pytestmark = pytest.mark.server

PROJECT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "demo"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo makes its temporary folder: what is in here afterwards, it left."""
    with temporary_folder() as folder:
        yield folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DEMO, *arguments],
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def processes_of(folder: Path) -> list[str]:
    """Return the commands of the processes that know the folder."""
    known = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
            home = b"HOME=" + bytes(folder)
            if command.count(bytes(folder)) or home in environment:
                known.append(command.replace(b"\0", b" ").decode())
    return known


def assert_nothing_left(folder: Path) -> None:
    assert processes_of(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_demo_shows_what_was_committed_and_clears_up(folder: Path) -> None:
    with start(folder) as demo:
        shown, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0
    assert max(map(len, shown.splitlines())) <= 100
    arrived = "".join(line.partition(" | ")[2] for line in shown.splitlines())
    for committed in ("Ada", "Cleo", "Dora", "all orders are in", "correlation_id: run-7"):
        assert committed in arrived
    for rolled_back in ("Bob", "a mistake"):
        assert rolled_back in shown
        assert rolled_back not in arrived
    assert "pending: 3" in shown
    assert "pending: 0" in shown
    assert "two payments" in arrived.split("RabbitMQ is back")[1]
    left = [line.partition(" |")[0].strip() for line in shown.splitlines()]
    assert {"attic", "cellar"} < set(left)
    assert 'invalid input syntax for type numeric: "warm"' in left
    assert '{"total": 24.50}' in arrived.split("answered")[1]
    assert_nothing_left(folder)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_clears_up(folder: Path, ending: signal.Signals) -> None:
    with start(folder) as demo:
        assert demo.stdout
        wait_for(lambda: "RabbitMQ" in next(demo.stdout or iter(())), 30, "both servers to start")
        wait_for(lambda: len(processes_of(folder)) > 5, 30, "both servers to run")
        demo.send_signal(ending)
        demo.send_signal(ending)
        assert demo.wait(30) == 128 + ending
    assert_nothing_left(folder)


@pytest.mark.slow
def test_kept_demo_stays_up_until_it_is_stopped(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "demo.json"
    with start(folder, "--keep", f"--state={state}") as demo:
        shown, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0
    try:
        words = shown.split()
        port = words[words.index("-p") + 1]
        with open_session(
            f"host=127.0.0.1 port={port} user=postgres", autocommit=False
        ) as connection:
            assert connection.execute("SELECT count(*) FROM orders").fetchone() == (3,)
        url = next(word for word in reversed(words) if word.startswith("amqp://"))
        pika.BlockingConnection(pika.URLParameters(url)).close()
        # Another process that got the id of one that is gone is left alone.
        kept = json.loads(state.read_text())
        kept["marks"][str(os.getpid())] = "PG_AMQP_PY_PROCESS=not-ours"
        state.write_text(json.dumps(kept))
    finally:
        with start(folder, "--stop", f"--state={state}") as stop:
            said, _ = stop.communicate(timeout=60)
    assert "stopped" in said
    assert_nothing_left(folder)
