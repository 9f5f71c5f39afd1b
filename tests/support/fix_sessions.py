"""The session that most tests publish from, and the queue that records what arrives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from support.fix_servers import VHost
from support.messages import Inbox
from support.sessions import Session, open_session


@pytest.fixture
def session(database: str, broker: VHost) -> Iterator[Session]:
    """A session in autocommit mode; it has broker 1."""
    with open_session(database, broker) as session:
        yield session


@pytest.fixture
def inbox(channel: BlockingChannel) -> Inbox:
    """What is published to amq.topic."""
    return Inbox(channel)
