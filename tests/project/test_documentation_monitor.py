"""docs/how-to/monitor.md: its role can look, and its pages answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pg_amqp_daemon.check.check import Limits, check
from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.relay import DaemonProcess
from support.consumers import Desk
from support.examples import blocks, statements
from support.patience import LIMIT
from support.sessions import Session, open_session

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/monitor.md").read_text()


@pytest.fixture
def role(postgres: PostgreSQL, database: str) -> Iterator[str]:
    """The role of the page, which belongs to all databases."""
    yield "amqp_monitor"
    with suppress(psycopg.errors.UndefinedObject):
        with open_session(database) as connection:
            connection.execute("DROP OWNED BY amqp_monitor")
        with open_session(postgres.dsn()) as connection:
            connection.execute("DROP ROLE amqp_monitor")


def test_the_role_can_look_and_sees_no_login(
    database: str, session: Session, consumers: Desk, role: str
) -> None:
    for block in blocks(DOCUMENT, "sql"):
        for statement in statements(block):
            session.execute(statement.encode())
    consumers()
    dsn, limits = make_conninfo(database, user=role), Limits(60, 300)
    assert 'consumer "' in check(dsn, limits)[0].partition("\n")[0]
    with DaemonProcess(database):
        wait_for(lambda: check(dsn, limits)[1] == 0, LIMIT, "all to be well")
        text, _ = check(dsn, limits)
    assert text.partition(" |")[0] == "OK: all is well"
    assert "OK: brokers: not asked" in text
    with open_session(make_conninfo(database, user=role)) as watcher:
        for statement in statements(list(blocks(DOCUMENT, "sql"))[-1]):
            assert watcher.execute(statement.encode()).description
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            watcher.execute("SELECT password FROM amqp.broker")
