"""Passwords with characters that not everything can represent: in no error, and in no log line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.postgres import PostgreSQL
from support.sessions import Session, open_session


@pytest.fixture
def narrow(request: pytest.FixtureRequest, postgres: PostgreSQL) -> Iterator[Session]:
    """A session in a database with this encoding."""
    with open_session(postgres.dsn()) as admin:
        admin.execute(
            f"CREATE DATABASE narrow ENCODING '{request.param}' LOCALE 'C' TEMPLATE template0"
        )
        with open_session(postgres.dsn("narrow")) as session:
            session.run("CREATE EXTENSION pg_amqp_py CASCADE")
            yield session
        admin.execute("DROP DATABASE narrow WITH (FORCE)")


def texts(session: Session, call: str, *values: object) -> str:
    error = session.error(call, *values)
    return " ".join((error.message, error.detail, error.hint, error.context))


@pytest.mark.parametrize("narrow", ["SQL_ASCII"], indirect=True)
def test_bytes_that_are_no_utf8(narrow: Session) -> None:
    narrow.run("SET client_encoding = 'SQL_ASCII'")
    narrow.run(
        r"INSERT INTO amqp.broker (broker_id, host, password)"
        r" VALUES (1, '127.0.0.1', E'geheim\351xyz')"
    )
    for call in ("SELECT amqp.publish(1, '', 'k', 'x')", "SELECT amqp.ping(1)"):
        said = texts(narrow, call)
        assert "not UTF-8" in said
        for part in ("geheim", "xyz", "0xe9", "\\351", "udce9", "position"):
            assert part not in said


@pytest.mark.parametrize("narrow", ["LATIN1"], indirect=True)
def test_a_character_that_the_database_lacks(narrow: Session) -> None:
    said = texts(narrow, "SELECT amqp.add_broker('amqp://u:geheim%E2%82%AC@127.0.0.1/')")
    assert "could not add the broker" in said
    for part in ("geheim", "0xe2", "0x82", "E2", "byte sequence"):
        assert part not in said.replace("SELECT amqp", "")
