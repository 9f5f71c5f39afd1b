"""Timestamps at the end of what PostgreSQL knows, and NULLs under capture."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from support.fix_servers import VHost
from support.messages import Inbox
from support.sessions import Session

LAST = [
    "1970-01-01 00:00:00.999999+00",
    "2026-01-01 00:00:00.999999+00",
    "9999-12-31 23:59:59.999999+00",
    "10000-01-01 00:00:00+00",
    "294276-12-31 23:59:59.999999+00",
]


@pytest.mark.parametrize("style", ["ISO", "German", "SQL", "Postgres"])
@pytest.mark.parametrize("timestamp", LAST)
def test_the_second_is_never_rounded_up(
    session: Session, inbox: Inbox, timestamp: str, style: str
) -> None:
    session.execute(f"SET DateStyle = '{style}'; SET TimeZone = 'UTC'".encode())
    with session.transaction():
        session.execute(
            """SELECT amqp.publish(1, 'amq.topic', 'k', 'x', "timestamp" => %s::timestamptz)""",
            [timestamp],
        )
        ((expected, shown),) = session.execute(
            """SELECT extract(epoch FROM date_trunc('second', %s::timestamptz))::bigint,
                      extract(epoch FROM "timestamp")::bigint FROM amqp.pending()""",
            [timestamp],
        ).fetchall()
    assert shown == expected
    assert [delivery.properties.timestamp for delivery in inbox.drain()] == [expected]


def test_capture_takes_no_null_for_a_broker(session: Session, broker: VHost) -> None:
    session.execute("SET amqp.capture = on")
    with pytest.raises(Exception, match="broker_id must not be null") as raised:
        session.execute("SELECT amqp.publish(NULL, 'amq.topic', 'k', 'x')")
    assert raised.value.sqlstate == "22004"  # type: ignore[attr-defined]


def test_capture_and_broker_minus_one(
    session: Session, broker: VHost, channel: BlockingChannel, inbox: Inbox
) -> None:
    """Python's hash(-1) is hash(-2): what is captured is not sent, and what is not is."""
    session.execute("INSERT INTO amqp.broker SELECT -1, host, port, vhost FROM amqp.broker")
    for number in (-1, 1):
        with session.transaction():
            session.execute("SET LOCAL amqp.capture = on")
            session.execute("SELECT amqp.publish(%s, 'amq.topic', 'k', 'captured')", [number])
            session.execute("SET LOCAL amqp.capture = off")
            session.execute("SELECT amqp.publish(%s, 'amq.topic', 'k', 'sent')", [number])
            session.execute("SET LOCAL amqp.capture = on")
            session.execute("SELECT amqp.publish(%s, 'amq.topic', 'k', 'captured')", [number])
            session.execute("SET LOCAL amqp.capture = off")
            captured = session.execute("SELECT message, captured FROM amqp.pending()").fetchall()
            assert captured == [("captured", True), ("sent", False), ("captured", True)]
            pending = "SELECT pending FROM amqp.status() WHERE broker_id = %s"
            assert session.execute(pending, [number]).fetchall() == [(1,)]
        assert inbox.texts() == ["sent"]
