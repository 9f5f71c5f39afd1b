"""A session with a function that publishes a text, for tests that speak of nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.fix_servers import VHost
from support.messages import Inbox, publish
from support.sessions import Session, open_session

SAY = """
CREATE FUNCTION say(message text) RETURNS boolean LANGUAGE sql
AS $$ SELECT amqp.publish(1, 'amq.topic', 'key', message) $$
"""


def saying_fixtures() -> tuple[Any, Any]:
    """The fixtures `session`, which has broker 1 and the function say(text), and `observer`."""

    @pytest.fixture
    def session(database: str, broker: VHost) -> Iterator[Session]:
        """A session in autocommit mode."""
        with open_session(database, broker) as session:
            session.execute(SAY)
            yield session

    @pytest.fixture
    def observer(session: Session, database: str) -> Iterator[Session]:
        """Another session in the same database."""
        with open_session(database) as observer:
            yield observer

    return session, observer


def assert_usable(session: Session, inbox: Inbox) -> None:
    """Nothing was published, and the session's next transaction publishes as ever."""
    assert inbox.texts() == []
    with session.transaction():
        publish(session, "after")
    assert inbox.texts() == ["after"]
