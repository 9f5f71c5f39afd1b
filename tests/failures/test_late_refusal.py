"""A refusal of messages whose confirms nobody waited for, noticed by the next question."""

from __future__ import annotations

from pika.adapters.blocking_connection import BlockingChannel

from support.failures import failure_fixtures
from support.queues import declare
from support.sessions import Session

session, through, direct = failure_fixtures()


def test_an_exchange_that_has_gone_is_looked_for_again(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    session.set(publisher_confirms="off")
    for _ in range(10):
        declare(channel, "bad")
        with session.transaction():
            session.publish(direct, "bad", [1])
            channel.exchange_delete("bad")
        # The refusal is on its way, and comes before the answer.
        session.run("SELECT amqp.ping(%s)", direct)
        error = session.error("SELECT amqp.publish(%s, 'bad', 'key', 'x')", direct)
        assert error.sqlstate == "42704"
        assert [warning.message for warning in session.warnings()] == [
            f"amqp: broker {direct} refused messages of an earlier transaction"
        ]
