"""Bodies of dead letters and dead messages as text, to be looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.sessions import Session, open_session, session_fixture

session = session_fixture()

SHOWN: dict[str, tuple[bytes | None, str | None]] = {
    "text": ("é😀".encode(), "é😀"),
    "empty": (b"", ""),
    "null": (None, None),
    "NUL": (b"a\0b", None),
    "not UTF-8": (b"\xff\xfe", None),
    "a cut character at its end": ("é".encode()[:1], None),
    "long": (b"x" * 5_000, "x" * 1_000),
    "long, of large characters": ("😀".encode() * 5_000, "😀" * 1_000),
    "long, cut within a character": (b"x" + "😀".encode() * 5_000, "x" + "😀" * 999),
    "long, and bad behind what is shown": (b"x" * 5_000 + b"\xff", "x" * 1_000),
    "long, and bad in what is shown": (b"\xff" + b"x" * 5_000, None),
}


@pytest.mark.parametrize("case", SHOWN)
def test_a_body_is_shown_as_text_if_it_is_text(session: Session, case: str) -> None:
    body, text = SHOWN[case]
    assert session.value("SELECT amqp_inner.shown_text(%s)", body) == text


def test_a_large_body_is_shown(session: Session) -> None:
    assert session.value(
        "SELECT amqp_inner.shown_text(convert_to(repeat('x', 100000000), 'UTF8'))"
        " = repeat('x', 1000)"
    )


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def narrow(session: Session, request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session in a database of this encoding."""
    session.run(f"CREATE DATABASE narrow ENCODING '{request.param}' LOCALE 'C' TEMPLATE template0")
    try:
        dsn = f"host={session.info.host} port={session.info.port} user=postgres dbname=narrow"
        with open_session(dsn) as other:
            other.run("CREATE EXTENSION pg_amqp_py CASCADE; SET client_encoding = 'UTF8'")
            yield other
    finally:
        session.run("DROP DATABASE narrow WITH (FORCE)")


def test_in_another_encoding(narrow: Session) -> None:
    is_latin = narrow.value("SELECT getdatabaseencoding()") == "LATIN1"
    assert narrow.value("SELECT amqp_inner.shown_text('\\xc3a9') = chr(233)") == is_latin
    euro = narrow.value("SELECT amqp_inner.shown_text('\\xe282ac') IS NULL")
    assert euro == is_latin
    assert narrow.value("SELECT amqp_inner.shown_text('\\xff')") is None


def test_dead_letters_and_dead_messages_show_it(session: Session) -> None:
    session.run(
        """
        INSERT INTO amqp.outbox_dead (
            id, broker_id, exchange, routing_key, body, message_id, created_at, attempts)
        VALUES (1, 1, 'e', 'k', 'text', 'a', now(), 1), (2, 1, 'e', 'k', '\\xff', 'b', now(), 1);
        INSERT INTO amqp.inbox_dead (
            consumer, sqlstate, error, body, raw_place, raw_properties)
        VALUES ('c', '22P02', 'no', 'text', '', ''), ('c', '22P02', 'no', '\\x00', '', '')
        """
    )
    for view in "dead_letters", "dead_messages":
        shown = session.run(f"SELECT message FROM amqp.{view} ORDER BY id")
        assert shown == [("text",), (None,)]


def test_whoever_reads_the_view_needs_nothing_else(session: Session) -> None:
    session.run(
        """
        INSERT INTO amqp.inbox_dead (consumer, sqlstate, error, body, raw_place, raw_properties)
        VALUES ('c', '22P02', 'no', 'text', '', '');
        CREATE ROLE looks_at_dead;
        GRANT USAGE ON SCHEMA amqp TO looks_at_dead;
        GRANT SELECT ON amqp.dead_messages TO looks_at_dead
        """
    )
    try:
        session.run("SET ROLE looks_at_dead")
        assert session.value("SELECT message FROM amqp.dead_messages") == "text"
        assert session.error("SELECT FROM amqp.inbox_dead").sqlstate == "42501"
    finally:
        session.run("RESET ROLE; DROP OWNED BY looks_at_dead; DROP ROLE looks_at_dead")
