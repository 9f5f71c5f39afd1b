"""The names under which a broker lists connections of the program."""

from __future__ import annotations

import os
import socket

import pytest

from pg_amqp_daemon.runtime.connection_name import connection_name

HERE = f"({os.getpid()} on {socket.gethostname()})"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says nothing of a database."""
    for name in os.environ:
        if name.startswith("PG"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("host=db1.example dbname=shop user=amqp_relay password=secret", "shop on db1.example"),
        ("postgresql://amqp_relay:secret@db1.example/shop", "shop on db1.example"),
        ("host=db1.example,db2.example dbname=shop", "shop on db1.example,db2.example"),
        ("host=/run/postgresql dbname=shop", "shop on localhost"),
        ("hostaddr=192.0.2.1 user=amqp_relay", "amqp_relay on 192.0.2.1"),
        ("service=there", "there on localhost"),
    ],
)
def test_they_say_which_database_and_which_process(dsn: str, shown: str) -> None:
    assert connection_name("relay", dsn) == f"pg-amqp relay {shown} {HERE}"


def test_what_the_environment_says_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATABASE", "shop")
    monkeypatch.setenv("PGHOST", "db1.example")
    monkeypatch.setenv("PGPASSWORD", "secret")
    assert connection_name("relay", "") == f"pg-amqp relay shop on db1.example {HERE}"
    assert connection_name("relay", "dbname=x") == f"pg-amqp relay x on db1.example {HERE}"


def test_without_a_database_there_is_none() -> None:
    assert connection_name("gateway", None) == f"pg-amqp gateway {HERE}"


def test_they_stay_short() -> None:
    name = connection_name("consume " + "c" * 900, f"host={'h' * 900} dbname={'d' * 900}")
    assert len(name) < 300
    assert HERE in name


def test_what_is_no_connection_string_is_left_to_who_connects() -> None:
    assert connection_name("relay", "secret") == f"pg-amqp relay {HERE}"
