"""What publishing costs, in things that are counted: a busy machine does not change them.

System calls, Python's instructions, memory and imported modules: whoever adds one to the path of
every transaction shall notice. The figures below are what was counted when they were written. To
change one deliberately, let its test fail, read there what is counted now, and write that.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

import pytest
from psycopg.pq import ExecStatus

from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.message import Envelope
from servers.processes import free_port, temporary_folder
from support.fix_servers import VHost
from support.sessions import Session, open_session

PUBLISH = "SELECT amqp.publish(1, 'amq.topic', 'key', 'x')"
MANY = (
    "SELECT count(amqp.publish(1, 'amq.topic', 'key', repeat('x', 100)))"
    " FROM generate_series(1, {})"
)
DOWN = PUBLISH.replace("1", "2", 1)
UNCONFIRMED = "SET amqp.publisher_confirms = off"


def execute(session: Session, *statements: str) -> None:
    """Execute statements, each a message of its own, with nothing of psycopg's around them.

    All must succeed but a publish to the broker that is down.
    """
    for statement in statements:
        result = session.pgconn.exec_(statement.encode())
        failed = result.status == ExecStatus.FATAL_ERROR
        assert failed == (statement == DOWN), result.error_message.decode()


def warm_up(session: Session, *statements: str) -> None:
    """Load and connect, and let what others have changed in the catalogs be noticed."""
    execute(session, *(statements or [PUBLISH]) * 5)


# ---- System calls ----


def system_calls(session: Session, statement: str, times: int, pause: float = 0) -> Counter[str]:
    """What the backend asked of the kernel for one statement, and how often it was just that.

    What it says to its client, and how it waits for it, is PostgreSQL's own and left out.
    """
    # To a file: who waits for the backend cannot empty a pipe.
    with temporary_folder() as folder:
        trace = folder / "trace"
        command = ["strace", "-yy", f"--attach={session.info.backend_pid}", f"--output={trace}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            first = strace.stderr.readline()
            if "attached" not in first:
                pytest.skip(f"no process can be traced here: {first.strip()}")
            for _ in range(times):
                execute(session, statement)
                time.sleep(pause)
            strace.send_signal(signal.SIGINT)
        lines = trace.read_text().splitlines()
    statements: list[list[str]] = []
    for line in lines:
        name = line.partition("(")[0]
        if name == "recvfrom" and "<UNIX" in line and '"Q' in line:
            statements.append([])
        elif not any(own in line for own in ("<UNIX", "<anon_inode:", "<detached")):
            statements[-1].append(name)
    assert len(statements) == times, lines
    return Counter(" ".join(calls) for calls in statements)


@pytest.mark.parametrize(
    ("setting", "calls"),
    [
        # A look whether the connection is still quiet; then the round trip.
        ("SET amqp.publisher_confirms = on", "poll sendto poll recvfrom"),
        # The confirms of earlier messages; nothing more has arrived.
        (UNCONFIRMED, "poll recvfrom poll sendto"),
    ],
)
def test_system_calls_of_a_publish(session: Session, setting: str, calls: str) -> None:
    execute(session, setting)
    warm_up(session)
    # A confirm has arrived before the next statement, also where nobody has waited for it.
    found = system_calls(session, PUBLISH, 50, pause=0.01)
    # A machine that stands still for 100 ms makes it wait once more.
    assert found[calls] >= 45, found


def test_system_calls_of_many_messages_in_one_statement(session: Session) -> None:
    warm_up(session, MANY.format(1_000))
    found = system_calls(session, MANY.format(1_000), 5)
    # As many as the pieces in which the broker's confirms arrive.
    assert sum(len(calls.split()) * times for calls, times in found.items()) < 0.2 * 5_000, found


def test_system_calls_of_a_transaction_that_publishes_nothing(session: Session) -> None:
    warm_up(session)
    assert system_calls(session, "SELECT 1", 20) == {"": 20}


# ---- Instructions ----

# Tracing is the interpreter's: it goes on over transactions, with the callbacks at their ends.
COUNT_INSTRUCTIONS = """
CREATE FUNCTION instructions() RETURNS bigint LANGUAGE plpython3u AS $$
import sys
if "counted" not in GD:
    counted = GD["counted"] = [0]
    def trace(frame, event, argument):
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        counted[0] += event == "opcode"
        return trace
    sys.settrace(trace)
counted = GD["counted"]
found, counted[0] = counted[0], 0
return found
$$
"""
PROPERTIES = """
SELECT amqp.publish(
    1, 'amq.topic', 'key', 'x', headers => '{"a": 1, "b": "two"}', content_type => 'text/plain',
    correlation_id => 'c', type => 't', message_id => gen_random_uuid()::text, "timestamp" => now())
"""

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")

SLACK = 1.1 if sys.version_info[:2] == (3, 11) else 1.5
"""Counted with Python 3.11. Others have other instructions for the same, about as many."""


def instructions(session: Session, *statements: str, rounds: int = 11) -> float:
    """Python's instructions in the backend for these statements, the ends of transactions too."""

    def count() -> int:
        ((found,),) = session.execute("SELECT instructions()").fetchall()
        assert isinstance(found, int)
        return found

    def counted(*statements: str) -> float:
        found = []
        for _ in range(rounds):
            count()
            execute(session, *statements)
            found.append(count())
        # Now and then one notices a change in the catalogs, and reads the broker's row again.
        return median(found)

    return counted(*statements) - counted()


@pytest.fixture
def traced(session: Session) -> Session:
    """The session, with broker 2, which is down; `instructions` counts in it."""
    execute(session, COUNT_INSTRUCTIONS)
    insert = "INSERT INTO amqp.broker (broker_id, host, port) VALUES (2, '127.0.0.1', %s)"
    session.execute(insert.encode(), [free_port()])
    warm_up(session)
    return session


@pytest.mark.parametrize(
    ("statement", "setting", "counted"),
    [
        pytest.param(PUBLISH, None, 958, id="publish"),
        pytest.param(PUBLISH, UNCONFIRMED, 998, id="unconfirmed"),
        pytest.param(PROPERTIES, None, 1_661, id="properties"),
        # Within its backoff; it is an ERROR.
        pytest.param(DOWN, None, 804, id="broker down"),
        # The callbacks at the end of a transaction alone.
        pytest.param("SELECT 1", None, 32, id="nothing"),
    ],
)
def test_instructions_of_a_transaction(
    traced: Session, statement: str, setting: str | None, counted: int
) -> None:
    if setting:
        execute(traced, setting)
    warm_up(traced, statement)
    assert 0 < instructions(traced, statement) <= counted * SLACK


def test_instructions_of_a_message_among_many(traced: Session) -> None:
    one, many = MANY.format(1), MANY.format(1_001)
    warm_up(traced, many)
    first = instructions(traced, "BEGIN", one, "ROLLBACK", rounds=3)
    pending = instructions(traced, "BEGIN", many, "ROLLBACK", rounds=3)
    committed = instructions(traced, "BEGIN", many, "COMMIT", rounds=3)
    assert 0 < (pending - first) / 1_000 <= 264 * SLACK
    # Reading its confirm. It depends on how many of them the broker sends at once.
    assert 0 < (committed - pending) / 1_000 <= 200 * 1.5


# ---- Memory ----

COUNT_MEMORY = """
CREATE FUNCTION blocks() RETURNS bigint LANGUAGE plpython3u AS $$
import gc, sys
gc.collect()
return sys.getallocatedblocks()
$$;
CREATE FUNCTION held_and_peak() RETURNS bigint[] LANGUAGE plpython3u AS $$
import tracemalloc
if not tracemalloc.is_tracing():
    tracemalloc.start()
found = [*tracemalloc.get_traced_memory()]
tracemalloc.reset_peak()
return found
$$
"""


def test_a_session_does_not_grow_with_every_transaction(session: Session) -> None:
    execute(session, COUNT_MEMORY)
    warm_up(session)
    blocks = "SELECT blocks()"
    warm_up(session, blocks)
    ((before,),) = session.execute(blocks).fetchall()
    execute(session, *[PUBLISH] * 1_000)
    ((after,),) = session.execute(blocks).fetchall()
    assert after - before < 50


def test_pending_messages_take_little_more_than_their_bytes(session: Session) -> None:
    count, stream = 20_000, bytearray()
    Encoder().append(stream, tuple(Envelope("amq.topic", "key")), b"x" * 100)
    wire = len(stream) * count
    execute(session, COUNT_MEMORY)
    warm_up(session, MANY.format(1_000))

    def held_and_peak() -> tuple[int, int]:
        (((held, peak),),) = session.execute("SELECT held_and_peak()").fetchall()
        return held, peak

    held_and_peak()
    execute(session, "BEGIN", MANY.format(count))
    pending, _ = held_and_peak()
    execute(session, "COMMIT")
    after, peak = held_and_peak()
    assert wire < pending < 1.3 * wire
    assert peak < 1.3 * wire
    assert after < 0.01 * wire


LARGE = """
SELECT count(amqp.publish(1, 'amq.topic', 'key', repeat('x', {size})))
FROM generate_series(1, {count})
"""


def page_faults(session: Session) -> int:
    stat = Path("/proc", str(session.info.backend_pid), "stat").read_text()
    # Behind the name, which may have anything in it (proc(5), "minflt").
    return int(stat.rpartition(")")[2].split()[7])


def test_page_faults_of_a_large_message(session: Session) -> None:
    statement = LARGE.format(size=1_000_000, count=1)
    warm_up(session, statement)
    found = []
    for _ in range(11):
        before = page_faults(session)
        execute(session, statement)
        found.append(page_faults(session) - before)
    # Memory that is new each time is 600.
    assert median(found) < 60


@pytest.mark.skipif("[never]" in THP.read_text() if THP.exists() else True, reason="no huge pages")
@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_page_faults_of_large_messages(session: Session, size: int) -> None:
    megabytes = 32
    statement = LARGE.format(size=size, count=megabytes * 1_000_000 // size)
    warm_up(session, "BEGIN", statement, "ROLLBACK")

    def faults() -> float:
        execute(session, "BEGIN")
        before = page_faults(session)
        execute(session, statement)
        after = page_faults(session)
        execute(session, "ROLLBACK")
        return (after - before) / megabytes

    # Small pages are 244 for a megabyte. The kernel may be short of large ones now and then.
    assert median(faults() for _ in range(5)) < 25


# ---- Imports ----

MODULES = """
CREATE FUNCTION modules() RETURNS text[] LANGUAGE plpython3u AS 'import sys; return [*sys.modules]'
"""
# What is large, or loads much.
SPOILT = """
asyncio calendar datetime decimal enum functools inspect json logging pathlib pika re socket ssl
tempfile threading tracemalloc typing unittest urllib weakref
"""


def test_what_the_first_publish_of_a_session_imports(database: str, broker: VHost) -> None:
    with open_session(database, broker) as session:
        execute(session, MODULES)

    def modules(session: Session) -> set[str]:
        ((found,),) = session.execute("SELECT modules()").fetchall()
        return set(found)

    with open_session(database) as session:
        before = modules(session)
        execute(session, PUBLISH)
        imported = modules(session) - before
    assert "pg_amqp_py.wire.small" in imported
    assert not {name.partition(".")[0] for name in imported} & {*SPOILT.split()}
    assert len(imported) <= 48 * SLACK, sorted(imported)
