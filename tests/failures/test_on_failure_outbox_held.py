"""`amqp.on_failure = outbox` beside messages in the outbox that cannot go."""

from __future__ import annotations

import pytest

from support.messages import Inbox
from support.outbox import in_outbox, put, settle
from support.sessions import Session


@pytest.fixture(autouse=True)
def diverting(session: Session) -> None:
    session.execute("SET amqp.on_failure = outbox")


def publish(session: Session, text: str) -> None:
    session.execute("SELECT amqp.publish(1, 'amq.topic', 'k', %s)", [text])


def test_behind_a_dead_letter(session: Session, inbox: Inbox) -> None:
    for text in "ab":
        put(session, text, ordering_key="k")
    settle(session, refused=[(1, "invalid", "no")])
    publish(session, "direct")
    assert inbox.texts() == ["direct"]
    assert in_outbox(session) == [(2,)]


def test_behind_one_that_waits(session: Session, inbox: Inbox) -> None:
    put(session, "a", ordering_key="k", deliver_at="2090-01-01+00")
    put(session, "b", ordering_key="k")
    publish(session, "direct")
    assert inbox.texts() == ["direct"]


def test_what_can_go_is_stood_behind(session: Session, inbox: Inbox) -> None:
    put(session, "a", ordering_key="k", deliver_at="2090-01-01+00")
    put(session, "b", ordering_key="k")
    for parameters in {"ordering_key": "l"}, {}:
        number = put(session, "ready", **parameters)
        publish(session, "behind")
        assert inbox.texts() == []
        assert len(in_outbox(session)) == 4
        session.execute("DELETE FROM amqp.outbox WHERE id >= %s", [number])
    # Of the same key, but before what waits.
    session.execute("UPDATE amqp.outbox SET id = 0 WHERE id = 2")
    publish(session, "behind")
    assert inbox.texts() == []


def test_thousands_that_cannot_go(session: Session, inbox: Inbox) -> None:
    session.execute(
        """SELECT amqp.publish_outbox(1, 'amq.topic', 'k', n::text, ordering_key => 'k')
           FROM generate_series(1, 5000) AS n"""
    )
    settle(session, refused=[(1, "invalid", "no")])
    publish(session, "direct")
    assert inbox.texts() == ["direct"]
    put(session, "the newest")
    publish(session, "behind")
    assert inbox.texts() == []
    session.execute("DELETE FROM amqp.outbox WHERE id > 5000")
    session.execute("UPDATE amqp.outbox SET ordering_key = NULL WHERE id = 2")
    publish(session, "behind")
    assert inbox.texts() == []
