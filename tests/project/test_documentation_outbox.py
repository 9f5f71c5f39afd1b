"""Every example in docs/how-to/outbox.md runs: the SQL in psql, the commands as a reader would."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from servers.postgres import PostgreSQL
from servers.processes import free_port
from servers.relay import PROGRAM, RelayProcess
from support.examples import commands, examples, here, psql
from support.fix_servers import VHost
from support.messages import Inbox
from support.outbox import put, wait_until_empty
from support.sessions import open_session

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/outbox.md").read_text()


@pytest.fixture(autouse=True)
def _roles(postgres: PostgreSQL, database: str) -> Iterator[None]:
    """Remove the roles of the examples: they belong to all databases."""
    yield
    for role in "amqp_relay", "amqp_cron":
        with suppress(psycopg.errors.UndefinedObject):
            with open_session(database) as connection:
                connection.execute(f"DROP OWNED BY {role}".encode())
            with open_session(postgres.dsn()) as connection:
                connection.execute(f"DROP ROLE {role}".encode())


def test_there_are_commands_to_try() -> None:
    assert [arguments[0] for arguments in commands(DOCUMENT)].count("relay") == 4


def test_the_examples(database: str, broker: VHost, postgres: PostgreSQL) -> None:
    with open_session(database, broker) as session:
        session.execute("SELECT amqp.exchange_declare(1, 'events', 'topic', false, true)")
        printed = psql(database, "\n".join(examples(DOCUMENT)))
        assert "WARNING" not in printed


def test_the_relay_can_do_its_work_with_the_privileges_that_are_granted(
    database: str, broker: VHost, postgres: PostgreSQL, inbox: Inbox
) -> None:
    (granting,) = (example for example in examples(DOCUMENT) if "ROLE amqp_relay" in example)
    with open_session(database, broker) as session:
        session.execute(granting.encode())
        session.execute("ALTER ROLE amqp_relay SET amqp.keep_delivered = '1 day'")
        session.execute("ALTER ROLE amqp_relay SET amqp.max_attempts = 1")
        put(session, "delivered")
        put(session, "dead", exchange="no-such-exchange")
        for arguments in commands(DOCUMENT):
            if arguments[0] == "relay" and "--dsn" in arguments:
                dsn = here(arguments[-1], postgres, database, "amqp_relay")
                with RelayProcess(dsn) as relay:
                    relay.wait_for_event("working the outbox")
                    wait_until_empty(session)
                    assert relay.events("database not usable") == []
        assert inbox.texts() == ["delivered"]
        for table in "outbox_dead", "outbox_delivered":
            found = session.execute(f"SELECT count(*) FROM amqp.{table}").fetchone()
            assert found == (1,), table


def test_the_commands_that_take_everything_from_the_environment(
    database: str, broker: VHost, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in conninfo_to_dict(database).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))
    once, metrics = (
        next(arguments for arguments in commands(DOCUMENT) if option in arguments)
        for option in ("--once", "--listen-metrics")
    )
    with open_session(database, broker) as session:
        put(session, "once")
        subprocess.run([PROGRAM, *once], check=True)
        assert inbox.texts() == ["once"]
        put(session, "for ever")
        address = metrics[-1].replace("9810", str(free_port()))
        with RelayProcess(None, *metrics[1:-1], address) as relay:
            wait_until_empty(session)
            assert relay.terminate() == 0
        assert inbox.texts() == ["for ever"]


def test_installing_the_outbox_alone(postgres: PostgreSQL) -> None:
    (arguments,) = (arguments for arguments in commands(DOCUMENT) if arguments[0] == "install")
    with open_session(postgres.dsn()) as connection:
        connection.execute("CREATE DATABASE alone")
        dsn = here(arguments[-1], postgres, postgres.dsn("alone"))
        said = subprocess.check_output([PROGRAM, *arguments[:-1], dsn], text=True)
        assert "installed" in said
        psql(postgres.dsn("alone"), "SELECT amqp.publish_outbox(1, 'e', 'k', 'message')")
        connection.execute("DROP DATABASE alone WITH (FORCE)")


def test_the_settings_have_these_defaults() -> None:
    source = (Path(__file__).parents[2] / "sql/outbox/functions/outbox_settle.sql.in").read_text()
    table = dict(re.findall(r"^\| `(amqp\.\w+)` \| `([^`]+)`", DOCUMENT, re.MULTILINE))
    found = dict(re.findall(r"current_setting\('(amqp\.\w+)', true\), ''\), '(\w+)'", source))
    assert table == found
