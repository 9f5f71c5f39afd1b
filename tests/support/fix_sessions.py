"""The session that most tests publish from, what records what arrives, and brokers by their ids."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.proxy import CuttingProxy
from support.fix_servers import VHost
from support.messages import Inbox
from support.queues import declare
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


@pytest.fixture
def direct(session: Session, broker: VHost, channel: BlockingChannel) -> int:
    """The test's broker, with exchange and queue `events`."""
    declare(channel)
    return session.add_broker(broker.url())


@pytest.fixture
def through(session: Session, broker: VHost, proxy: CuttingProxy, channel: BlockingChannel) -> int:
    """The same through the proxy."""
    declare(channel)
    return session.add_broker(broker.url(port=proxy.port))
