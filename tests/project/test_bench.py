"""`make bench`: it measures, counts what it should, and writes its page. No time is looked at."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from bench import roundtrip
from bench.__main__ import GROUPS, PAGE
from bench.clock import in_turn
from bench.finding import Finding, Goal, Table, shown
from bench.limit import EXCHANGE, QUEUE, Confirms, Limit, encoded, repeated
from bench.page import render
from pg_amqp_py.wire.encode import decode_messages
from pg_amqp_py.wire.message import Envelope
from servers.postgres import PostgreSQL, bindir
from servers.processes import temporary_folder
from servers.rabbitmq import RabbitMQ
from support.sessions import open_session

PROJECT = Path(__file__).parents[2]
MACHINE = {"CPU": "one", "Measured": "today", "Commit": "abc"}


def ack(tag: int, *, multiple: bool = False) -> bytes:
    """The frame of a Basic.Ack."""
    return b"\1\0\1\0\0\0\x0d\0\x3c\0\x50" + tag.to_bytes(8, "big") + bytes([multiple]) + b"\xce"


def bench(folder: Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", f"--folder={folder}", *arguments],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "tests")},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def places(*names: str) -> str:
    return "".join(f"<!-- begin {name} -->\nold\n<!-- end {name} -->\nby hand\n" for name in names)


@pytest.fixture
def queue(rabbitmq: RabbitMQ) -> Iterator[BlockingChannel]:
    """A channel; what the limit publishes arrives in the queue."""
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as connection:
        channel = connection.channel()
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        channel.queue_declare(QUEUE, durable=True)
        channel.queue_bind(QUEUE, EXCHANGE, QUEUE)
        yield channel
        channel.queue_delete(QUEUE)
        channel.exchange_delete(EXCHANGE)


@pytest.mark.slow
@pytest.mark.server
def test_a_quick_run_writes_its_page_and_its_results(tmp_path: Path) -> None:
    done = bench(tmp_path, "--quick", "--only=single,down")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| `publish`, confirmed |" in page
    assert "| PostgreSQL |" in page
    assert page.count("| at most 30 µs |") == 1
    assert page.count("| at most 100 µs |") == 3
    assert [*json.loads((tmp_path / "results.json").read_text())["findings"]] == ["single", "down"]

    (tmp_path / "benchmarks.md").unlink()
    assert bench(tmp_path, "--quick", "--write-only").returncode == 0
    assert (tmp_path / "benchmarks.md").read_text() == page


@pytest.mark.slow
@pytest.mark.server
def test_consuming_is_measured_beside_its_limits(tmp_path: Path) -> None:
    done = bench(tmp_path, "--quick", "--only=consume", timeout=180)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())["findings"]["consume"]
    tables = Finding.from_json(found).tables
    assert [len(table.rows) for table in tables] == [
        6,
        2,
        3,
        *([5] if shutil.which("influxd") else []),
        1,
        3,
    ]
    for table in tables:
        for row in table.rows:
            figures = [cell for cell in row if isinstance(cell, (int, float))]
            assert len(figures) >= 2, row
            assert all(0 <= figure < math.inf for figure in figures), row
        assert all(row[1] for row in table.rows[1:]), table
    assert not found["goals"]


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_the_gateway_is_measured_beside_what_else_takes_messages(tmp_path: Path) -> None:
    pytest.importorskip("aio_pika")
    done = bench(tmp_path, "--quick", "--only=gateway", timeout=180)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())["findings"]["gateway"]
    assert [len(table["rows"]) for table in found["tables"]] == [6, 2]
    assert len(found["goals"]) == 6


@pytest.mark.slow
@pytest.mark.server
def test_a_request_is_measured_beside_the_same_in_c(tmp_path: Path) -> None:
    done = bench(tmp_path, "--quick", "--only=request")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())["findings"]["request"]
    if roundtrip.MISSING in found["tables"][0]["caption"]:
        pytest.skip(roundtrip.MISSING)
    assert len(found["tables"][0]["rows"]) == 5
    assert all(0 < row[1] < math.inf for row in found["tables"][0]["rows"])
    assert len(found["goals"]) == 1


def test_an_unknown_group_is_refused(tmp_path: Path) -> None:
    done = bench(tmp_path, "--quick", "--only=bulk,nothing")
    assert done.returncode == 2
    assert "no such group: nothing" in done.stderr


def test_the_limit_waits_for_every_message_it_wrote(
    rabbitmq: RabbitMQ, queue: BlockingChannel
) -> None:
    limit = Limit(rabbitmq.amqp_port)
    limit.publish(repeated(3_000, b"x" * 100, 1))
    limit.publish(repeated(2_000, b"", 2))
    limit.round_trip(repeated(1, b"last but one", None))
    limit.send(repeated(1, b"last", None))
    assert queue.queue_declare(QUEUE, passive=True).method.message_count == 5_002
    limit.close()


def test_the_round_trip_in_c_publishes_what_is_committed(
    postgres: PostgreSQL, database: str, rabbitmq: RabbitMQ, queue: BlockingChannel
) -> None:
    with temporary_folder() as folder, open_session(database) as session:
        library = roundtrip.build(postgres.bindir, folder)
        if library is None:
            pytest.skip(roundtrip.MISSING)
        session.execute("CREATE SCHEMA bench")
        session.execute(roundtrip.CREATE.format(library=library).encode())
        publish = roundtrip.statement(rabbitmq.amqp_port, repeated(1, b"body", None)).encode()
        session.execute(publish)
        session.execute("BEGIN")
        session.execute(publish)
        session.execute("ROLLBACK")
        session.execute(publish)
        assert queue.queue_declare(QUEUE, passive=True).method.message_count == 2
        assert queue.basic_get(QUEUE, auto_ack=True)[2] == b"body"


def test_who_asks_in_c_is_answered_in_c(
    postgres: PostgreSQL, database: str, rabbitmq: RabbitMQ, queue: BlockingChannel
) -> None:
    with temporary_folder() as folder, open_session(database) as session:
        library = roundtrip.build(postgres.bindir, folder)
        if library is None:
            pytest.skip(roundtrip.MISSING)
        session.execute("CREATE SCHEMA bench")
        session.execute(roundtrip.CREATE.format(library=library).encode())
        with roundtrip.echo(rabbitmq.amqp_port, QUEUE, folder):
            for body in (b"one", b"x" * 10_000):
                ask = roundtrip.request(rabbitmq.amqp_port, QUEUE, body)
                assert session.value(ask) == body


@pytest.mark.server
def test_without_a_compiler_there_is_no_round_trip_in_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = bindir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert roundtrip.build(programs, tmp_path) is None


def test_confirms_are_counted_once_in_whatever_order_and_pieces_they_come() -> None:
    confirms = Confirms()
    stream = ack(2) + ack(1) + ack(5) + ack(4, multiple=True) + ack(7) + ack(7, multiple=True)
    seen = []
    for at in range(0, len(stream), 5):
        confirms.feed(stream[at : at + 5])
        seen.append(confirms.count)
    assert sorted(seen) == seen
    assert confirms.count == 7


def test_an_answer_that_confirms_nothing_is_no_confirm() -> None:
    nack = ack(1).replace(b"\0\x3c\0\x50", b"\0\x3c\0\x78")
    with pytest.raises(ValueError, match="does not confirm"):
        Confirms().feed(nack)


def test_a_stream_holds_its_messages() -> None:
    stream = repeated(3, b"body", 2)
    message = (Envelope(EXCHANGE, QUEUE, delivery_mode=2), b"body")
    assert stream.messages == 3
    assert [*decode_messages(stream.frames)] == [message] * 3
    assert encoded([message] * 3) == stream


def test_rounds_are_taken_in_turn() -> None:
    calls: list[str] = []
    results = in_turn(2, {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, calls=2)
    assert calls == [*"aabbaabb"]
    assert [len(of) for of in results.values()] == [4, 4]


def test_only_what_is_between_markers_is_written_anew() -> None:
    table = Table("A caption", ["what", "µs"], [["a", 1.234], ["b", None], ["c"]])
    goals = [
        Goal("fast", 0.9, "", 0.88, "1 s", at_least=True),
        Goal("small", 31.0, "µs", 30, "17 µs"),
    ]
    page = render(
        places("machine", "summary", "one", "other"),
        MACHINE,
        {"one": Finding([table], goals=goals, run="today, commit abc")},
    )
    assert "| a | 1.23 |\n| b | - |\n| c | - |" in page
    assert "| fast | 0.900 | 1 s | at least 0.88 | yes |" in page
    assert "| small | 31.0 µs | 17 µs | at most 30 µs | **no** |" in page
    assert "another run" not in page
    assert page.count("by hand") == 4
    assert page.count("old") == 1
    assert "<!-- begin other -->\nold\n<!-- end other -->" in page


def test_what_an_earlier_run_found_says_so() -> None:
    finding = Finding(run="yesterday, commit def")
    page = render(places("machine", "summary", "one"), MACHINE, {"one": finding})
    assert "From another run: yesterday, commit def." in page


def test_the_page_has_a_place_for_each_group() -> None:
    findings = {name: Finding() for name in GROUPS}
    render(PAGE.read_text(), MACHINE, findings)
    with pytest.raises(ValueError, match='0 places for "nowhere"'):
        render(PAGE.read_text(), MACHINE, {"nowhere": Finding()})


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04567, "0.0457"), (1.5, "1.50"), (12345.6, "12,346"), (12345, "12,345"), (0.0, "0")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert shown(value) == text
