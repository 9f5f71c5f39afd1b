"""The settings, from when they are mere placeholders to when the server knows them."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from support.sessions import Session, open_session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()

PENDING = "SELECT count(*) FROM amqp.pending()"
CAPTURED = "SELECT amqp.publish(1, 'events', 'key', 'x')"


@pytest.fixture
def role(database: str) -> Iterator[str]:
    """A role with a setting of its own."""
    name = "capturing"
    with open_session(database) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN".encode())
        connection.execute(f"GRANT USAGE ON SCHEMA amqp TO {name}".encode())
        connection.execute(f"ALTER ROLE {name} SET amqp.capture = on".encode())
        yield name
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


def captures(session: Session) -> bool:
    """Whether amqp.capture is on for the extension: else there is no broker 1 to publish to."""
    with session.transaction(force_rollback=True):
        try:
            session.run(CAPTURED)
        except psycopg.errors.UndefinedObject:
            return False
        return bool(session.value(PENDING) == 1)


def test_values_from_before_the_first_use_count(database: str, role: str) -> None:
    with open_session(database) as plain:
        assert not captures(plain)
    with open_session(database) as told:
        told.run("SET amqp.capture = on")
        assert captures(told)
        told.run("RESET amqp.capture")
        assert not captures(told)
    dsn = psycopg.conninfo.make_conninfo(database, user=role)
    with open_session(dsn) as capturing:
        assert captures(capturing)
        capturing.run("SET amqp.capture = off")
        assert not captures(capturing)
        capturing.run("RESET amqp.capture")
        assert captures(capturing)


def test_a_local_value_ends_with_its_transaction_or_savepoint(database: str) -> None:
    with open_session(database) as session:
        with session.transaction():
            session.run("SET LOCAL amqp.capture = on")
            # The first use of the session.
            assert captures(session)
            with session.transaction(force_rollback=True):
                session.run("SET LOCAL amqp.capture = off")
                assert not captures(session)
            assert captures(session)
        assert not captures(session)
        with session.transaction(force_rollback=True):
            session.run("SET amqp.capture = on")
            assert captures(session)
        assert not captures(session)


def test_the_server_shows_them_once_they_are_used(database: str) -> None:
    shown = "SELECT name, setting, short_desc <> '' FROM pg_settings WHERE name LIKE 'amqp.%'"
    with open_session(database) as session:
        assert session.run(shown) == []
        session.run("SET amqp.connect_timeout = '7s'")
        session.run("SELECT * FROM amqp.status()")
        assert sorted(session.run(shown)) == [
            ("amqp.capture", "off", True),
            ("amqp.confirm_timeout", "5s", True),
            ("amqp.connect_timeout", "7s", True),
            ("amqp.on_failure", "error", True),
            ("amqp.publisher_confirms", "on", True),
            ("amqp.synchronous_commit", "on", True),
        ]


def test_another_library_has_one_of_the_same_name(database: str) -> None:
    define = """
        import ctypes
        GD["kept"] = value = ctypes.c_char_p()
        server = ctypes.PyDLL(None)
        server.DefineCustomStringVariable(
            b"amqp.capture", b"theirs", None, ctypes.byref(value), b"x", 6, 0, None, None, None)
    """
    with open_session(database) as session:
        session.run(f"DO LANGUAGE plpython3u $${define}$$")
        for _ in range(2):
            error = session.error("SELECT * FROM amqp.status()")
            assert error.sqlstate == "42710"
            assert 'parameter "amqp.capture" is defined by another library' in error.message
        assert session.run("SHOW amqp.capture") == [("x",)]


def test_the_server_keeps_the_defaults(database: str) -> None:
    with open_session(database) as session:
        session.run("SELECT * FROM amqp.status()")
        for _ in range(20):
            session.run("SELECT amqp.pending() FROM generate_series(1, 100)")
        kept = "SELECT boot_val FROM pg_settings WHERE name LIKE 'amqp.%' ORDER BY name"
        assert session.run(kept) == [("off",), ("5s",), ("5s",), ("error",), ("on",), ("on",)]
