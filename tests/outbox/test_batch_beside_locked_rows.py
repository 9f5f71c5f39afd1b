"""A batch whose readings are cut short by bytes, where somebody has locked what was read first."""

from __future__ import annotations

from support.messages import Inbox
from support.outbox import in_outbox, put
from support.sessions import Session, open_session


def test_locked_messages_are_not_counted_again_in_the_next_reading(
    session: Session, database: str, inbox: Inbox
) -> None:
    large = "x" * (9 << 20)
    for text in (large, large, "a", "b"):
        put(session, text)
    with open_session(database, autocommit=False) as other:
        other.execute("SELECT FROM amqp.outbox WHERE id <= 2 FOR UPDATE")
        # The first two are all that one reading may have; of four, two are left.
        assert session.value("SELECT amqp.publish_outbox_batch(batch_limit => 4)") == 4
    assert inbox.texts() == [large, large, "a", "b"]
    assert in_outbox(session) == [(1,), (2,)]
