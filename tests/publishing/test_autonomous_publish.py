"""Calls that do not wait for the commit: autonomous_publish() and disconnect()."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import errors

from servers.management import Management
from support.fix_servers import VHost
from support.messages import Inbox, publish
from support.saying import assert_usable, saying_fixtures
from support.sessions import Session

session, observer = saying_fixtures()


def call_autonomously(session: Session, message: str) -> Any:
    row = session.execute(
        "SELECT amqp.autonomous_publish(1, 'amq.topic', 'key', %s)", [message]
    ).fetchone()
    assert row is not None
    return row[0]


def test_autonomous_publish_arrives_at_once_whatever_becomes_of_the_transaction(
    session: Session, inbox: Inbox
) -> None:
    with session.transaction(force_rollback=True):
        publish(session, "never")
        assert call_autonomously(session, "now") is True
        assert inbox.texts() == ["now"]
        with session.transaction(force_rollback=True):
            assert call_autonomously(session, "in a savepoint") is True
    assert inbox.texts() == ["in a savepoint"]
    assert_usable(session, inbox)


def test_autonomous_publish_does_not_take_what_is_pending_with_it(
    session: Session, inbox: Inbox
) -> None:
    with session.transaction():
        publish(session, "one")
        call_autonomously(session, "now")
        publish(session, "two")
        assert inbox.texts() == ["now"]
    assert inbox.texts() == ["one", "two"]


def test_autonomous_publish_survives_an_error_in_its_statement(
    session: Session, inbox: Inbox
) -> None:
    with pytest.raises(errors.DivisionByZero):
        session.execute(
            "SELECT amqp.autonomous_publish(1, 'amq.topic', 'key', i::text), 1 / (3 - i)"
            " FROM generate_series(1, 5) AS i"
        )
    assert inbox.texts() == ["1", "2", "3"]


def test_disconnect_leaves_pending_messages_for_the_commit(
    session: Session, inbox: Inbox, broker: VHost, management: Management
) -> None:
    with session.transaction():
        publish(session, "one")
        session.execute("SELECT amqp.disconnect(1)")
        assert session.execute("SELECT connected FROM amqp.status()").fetchone() == (False,)
        assert inbox.texts() == []
        publish(session, "two")
        session.execute("SELECT amqp.disconnect(1)")
        session.execute("SELECT amqp.disconnect(1)")
    assert inbox.texts() == ["one", "two"]


def test_disconnect_in_a_transaction_that_rolls_back_publishes_nothing(
    session: Session, inbox: Inbox
) -> None:
    with session.transaction(force_rollback=True):
        publish(session, "never")
        session.execute("SELECT amqp.disconnect(1)")
    assert_usable(session, inbox)


def test_disconnect_does_nothing_where_nothing_is_connected(session: Session, inbox: Inbox) -> None:
    for broker in ("1", "99", "NULL"):
        assert session.execute(f"SELECT amqp.disconnect({broker})").fetchone() == ("",)
    assert_usable(session, inbox)
