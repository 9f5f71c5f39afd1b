"""`make demo` and `make live`: what they show, and that they leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pika
import pytest

from servers.processes import temporary_folder, wait_for
from support.patience import LIMIT
from support.sessions import open_session

pytestmark = pytest.mark.server

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo makes its temporary folder: what is in here afterwards, it left."""
    with temporary_folder() as folder:
        yield folder


def start(
    folder: Path, *arguments: str, module: str = "demo", columns: int = 80
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(folder), "COLUMNS": str(columns), "PYTHONUNBUFFERED": "1"},
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
@pytest.mark.parametrize("columns", [80, 100])
def test_demo_shows_what_was_committed_and_clears_up(folder: Path, columns: int) -> None:
    with start(folder, columns=columns) as demo:
        shown, _ = demo.communicate(timeout=LIMIT)
    assert demo.returncode == 0
    assert 70 < max(map(len, shown.splitlines())) <= columns
    assert ("ROLLBACK;" in shown.splitlines()) == (columns < 100), "what arrived stands below"
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
    assert arrived.count('{"total": 24.50}') == 2
    assert "gap-reason: row" in arrived
    assert "attic: 7 left" in arrived
    assert "much more" in arrived.split("attic: 7 left")[1]
    assert "closing soon (retained)" in arrived.split("another one subscribes")[1]
    assert {"204", "404"} < set(left)
    assert "by_post" in arrived
    assert "lost" not in arrived
    assert 'headers: {"late": false, "rows": 3}' in arrived
    assert "make demo KEEP=1" in shown.split("What to do next:")[1]
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
        shown, _ = demo.communicate(timeout=LIMIT)
    assert demo.returncode == 0
    assert "pg-amqp tail --exchange events" in shown.split("What to do next:")[1]
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
            said, _ = stop.communicate(timeout=LIMIT)
    assert "stopped" in said
    assert_nothing_left(folder)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_live_page_is_there_until_it_is_interrupted(
    folder: Path, ending: signal.Signals
) -> None:
    with start(folder, module="demo.live") as demo:
        lines = iter(demo.stdout or ())
        address = next(line for line in lines if line.startswith("The page:")).split()[-1]
        port = next(line for line in lines if " -p " in line).partition(" -p ")[2].split()[0]
        for path, words in (("", b"<h1>Orders, live</h1>"), ("config.json", b'"ws://127.0.0.1:')):
            with urlopen(address + path) as answer:
                assert words in answer.read()
        dsn = f"host=127.0.0.1 port={port} user=postgres dbname=shop"
        with open_session(dsn) as session:
            wait_for(lambda: session.run("SELECT FROM orders"), 60, "orders")
        demo.send_signal(ending)
        demo.send_signal(ending)
        assert demo.wait(30) == 128 + ending
    assert_nothing_left(folder)
