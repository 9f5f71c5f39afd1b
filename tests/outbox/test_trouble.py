"""What keeps messages from being delivered lasts as long as anything is in the way."""

from __future__ import annotations

from support.outbox import put, settle, status
from support.sessions import Session, open_session


def test_trouble_lasts_while_somebody_has_locked_a_row(session: Session, database: str) -> None:
    for _ in range(2):
        put(session)
    session.run("SELECT amqp_inner.outbox_note(1, 'away')")
    with open_session(database, autocommit=False) as other:
        other.execute("SELECT FROM amqp.outbox WHERE id = 2 FOR UPDATE")
        # Though one of the two was delivered.
        assert settle(session, delivered=[1, 2]) == [2]
        assert status(session)["trouble"] == "away"
    assert settle(session, delivered=[2]) == []
    assert status(session)["trouble"] is None
