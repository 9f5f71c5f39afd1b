"""pg-amqp check: what it says, and its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from pg_amqp_daemon.check.verdict import Figure, Finding, Verdict, report, worst
from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy
from servers.relay import RelayProcess
from support.consumers import Desk
from support.outbox import put, wait_until_empty
from support.patience import LIMIT
from support.sessions import Session

PROGRAM = Path(sys.executable).parent / "pg-amqp"


def check(dsn: str, *arguments: str) -> tuple[int, list[str]]:
    """Its exit status, and its lines."""
    done = subprocess.run(
        [PROGRAM, "check", "--dsn", dsn, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_the_first_line_has_what_is_worst() -> None:
    findings = [
        Finding(Verdict.OK, "a"),
        Finding(Verdict.WARNING, "b | c"),
        Finding(Verdict.UNKNOWN, "d"),
    ]
    assert worst(findings) == Verdict.WARNING
    assert report(findings, [Figure("oldest", 1.5, "s"), Figure("dead", 0)]).splitlines() == [
        "WARNING: b / c | 'oldest'=1.5s 'dead'=0",
        "OK: a",
        "WARNING: b / c",
        "UNKNOWN: d",
    ]
    assert worst([]) == Verdict.OK
    assert report([Finding(Verdict.OK, "a")], []) == "OK: all is well\nOK: a"


def test_all_is_well(database: str, session: Session, consumers: Desk) -> None:
    with RelayProcess(database):
        put(session)
        wait_until_empty(session)
        status, lines = check(database)
    assert (status, lines[0].partition(" |")[0]) == (0, "OK: all is well")
    assert "'pending_1'=0 'oldest_1'=0s 'dead_1'=0" in lines[0]
    assert any("extension 1." in line and "pg-amqp 1." in line for line in lines)
    assert any(line.startswith("OK: broker 1: can be reached") for line in lines)


def test_what_waits_for_too_long(database: str, session: Session) -> None:
    put(session)
    session.execute("UPDATE amqp.outbox SET created_at = now() - interval '2 minutes'")
    status, lines = check(database)
    assert status == 2
    assert "CRITICAL: outbox of broker 1: messages are due and no relay works them" in lines[0]
    assert any(
        line.startswith("WARNING: outbox of broker 1: 1 pending, 1 of them due; the oldest is 12")
        for line in lines
    )
    _, lines = check(database, "--critical", "100")
    assert any(line.startswith("CRITICAL: outbox of broker 1: 1 pending") for line in lines)
    # What is not due yet is not late.
    session.execute("UPDATE amqp.outbox SET next_attempt_at = '2090-01-01'")
    assert check(database)[0] == 0


def test_dead_letters_are_a_warning(database: str, session: Session) -> None:
    put(session, exchange="no such exchange")
    session.execute("ALTER ROLE postgres SET amqp.max_attempts = 1")
    try:
        with RelayProcess(database):
            dead = "SELECT count(*) FROM amqp.outbox_dead"
            wait_for(lambda: session.execute(dead).fetchone() == (1,), LIMIT, "a dead letter")
    finally:
        session.execute("ALTER ROLE postgres RESET amqp.max_attempts")
    status, lines = check(database)
    assert (status, lines[0].partition(" |")[0]) == (
        1,
        "WARNING: outbox of broker 1: dead letters: 1",
    )


def test_a_broker_of_which_one_host_is_away(
    database: str, session: Session, proxy: CuttingProxy
) -> None:
    proxy.refuse()
    session.execute(
        "INSERT INTO amqp.broker SELECT (jsonb_populate_record(b, %s)).* FROM amqp.broker AS b",
        [psycopg.types.json.Jsonb({"port": proxy.port})],
    )
    status, lines = check(database)
    assert status == 1
    assert lines[0].startswith(f"WARNING: broker 1: 127.0.0.1:{proxy.port}")
    session.execute("DELETE FROM amqp.broker WHERE port <> %s", [proxy.port])
    status, lines = check(database)
    assert status == 2
    assert "guest" not in "".join(lines)


def test_a_consumer_that_nobody_works(database: str, consumers: Desk) -> None:
    consumers()
    status, lines = check(database)
    assert status == 2
    assert "no daemon works it" in lines[0]


def test_the_wrong_database(postgres: PostgreSQL) -> None:
    status, lines = check(postgres.dsn())
    assert status == 2
    assert "is it the right database?" in lines[0]
    status, lines = check(make_conninfo(postgres.dsn(), dbname="nowhere"))
    assert status == 2
    assert lines[0].startswith("CRITICAL: database: ")


def test_a_role_that_may_not_look(database: str, session: Session) -> None:
    session.execute("CREATE ROLE blind LOGIN")
    try:
        status, lines = check(make_conninfo(database, user="blind"))
        assert status == 3
        assert "permission denied" in lines[0]
    finally:
        session.execute("DROP ROLE blind")
