"""A database of an earlier version than the program: what its doors say, and pg-amqp check."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from importlib.metadata import version

import pytest

from pg_amqp_daemon.install import scripts
from servers.postgres import PostgreSQL
from servers.relay import PROGRAM, ConsumeProcess, DaemonProcess, ListenProcess, RelayProcess
from support.patience import LIMIT
from support.sessions import Session, open_session
from support.versions import create_version

ADVICE = (
    f"; pg-amqp {version('pg_amqp_py')} needs its own version in the database:"
    " ALTER EXTENSION pg_amqp_py UPDATE, or without the extension pg-amqp install"
)


@pytest.fixture(params=scripts.EARLIER[1:])
def earlier(postgres: PostgreSQL, request: pytest.FixtureRequest) -> Iterator[str]:
    """The connection string of a database with an earlier version and a broker's row."""
    dsn = postgres.dsn("earlier")
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE earlier")
        with open_session(dsn) as session:
            create_version(session, request.param)
            session.run("INSERT INTO amqp.broker (host, port) VALUES ('localhost', 1)")
        yield dsn
        admin.execute("DROP DATABASE earlier WITH (FORCE)")


@pytest.mark.parametrize(
    ("door", "missing"),
    [
        (RelayProcess, 'schema "amqp_inner"'),
        (ConsumeProcess, 'relation "amqp.consumer"'),
        (ListenProcess, 'schema "amqp_inner"'),
    ],
)
def test_each_door_says_what_to_do(earlier: str, door: type[DaemonProcess], missing: str) -> None:
    with door(earlier) as process:
        error = process.wait_for_event("database not usable")["error"]
        assert error == f"{missing} does not exist{ADVICE}"
        # It waits for the update instead of giving up.
        assert process.is_running()


def test_an_earlier_relay_does_not_find_its_lock(session: Session) -> None:
    """As docs/reference/errors.md has it: the text is PostgreSQL's."""
    message = session.error("SELECT amqp.outbox_lock(%s)", 1).message
    assert message.startswith("function amqp.outbox_lock(")
    assert message.endswith(" does not exist")


def test_check_goes_on_and_says_what_to_do(earlier: str) -> None:
    done = subprocess.run(
        [PROGRAM, "check", "--dsn", earlier],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 2
    assert "they should be the same (ALTER EXTENSION pg_amqp_py UPDATE)" in done.stdout
    assert f"consumers: function amqp.inbox_status() does not exist{ADVICE}" in done.stdout
    assert "\nCRITICAL: broker 1: localhost:1: " in done.stdout
