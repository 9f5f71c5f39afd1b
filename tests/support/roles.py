"""Roles: one that may do nothing, one that may publish, and a superuser who looks on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from support.fix_servers import VHost
from support.patience import LIMIT
from support.queues import declare
from support.sessions import Session, open_session

numbers = count(1)

OPEN = {
    "publish": "SELECT amqp.publish(%s, 'events', 'key', '1')",
    "autonomous_publish": "SELECT amqp.autonomous_publish(%s, 'events', 'key', '1')",
    "disconnect": "SELECT amqp.disconnect(%s)",
    "ping": "SELECT amqp.ping(%s)",
    "status": "SELECT amqp.status() WHERE %s > 0",
    "pending": "SELECT amqp.pending() WHERE %s > 0",
    "exchange_declare": "SELECT amqp.exchange_declare(%s, 'events', 'topic', false, true)",
}
CLOSED = {
    "add_broker(text)": "SELECT amqp.add_broker('amqp://other') + %s",
    "publish_outbox_batch(int, int)": "SELECT amqp.publish_outbox_batch(%s)",
    "exchange_delete(int, text, bool)": "SELECT amqp.exchange_delete(%s, 'other')",
    "exchange_bind(int, text, text, text, jsonb)": "SELECT amqp.exchange_bind(%s, 'e2', 'events')",
    "exchange_unbind(int, text, text, text, jsonb)": (
        "SELECT amqp.exchange_unbind(%s, 'e2', 'events')"
    ),
    "queue_declare(int, text, bool, bool, bool, bool, jsonb)": "SELECT amqp.queue_declare(%s, 'q')",
    "queue_bind(int, text, text, text, jsonb)": "SELECT amqp.queue_bind(%s, 'events', 'events')",
    "queue_unbind(int, text, text, text, jsonb)": (
        "SELECT amqp.queue_unbind(%s, 'events', 'events', 'x')"
    ),
    "queue_purge(int, text)": "SELECT amqp.queue_purge(%s, 'events')",
    "queue_delete(int, text, bool, bool)": "SELECT amqp.queue_delete(%s, 'other')",
}


def role_fixtures() -> tuple[Any, Any, Any, Any]:
    """The fixtures `session` (a superuser's), `role`, `publisher` and `broker_id`."""

    @pytest.fixture
    def session(database: str) -> Iterator[Session]:
        """A superuser's session."""
        with open_session(database) as session:
            yield session

    @pytest.fixture
    def role(session: Session) -> Iterator[str]:
        """A role that may log in, and nothing else."""
        name = f"somebody_{next(numbers)}"
        session.run(f"CREATE ROLE {name} LOGIN")
        yield name
        # A backend that ends removes its temporary tables: not while we drop what the role owns.
        wait_for(
            lambda: (
                not session.run(
                    """SELECT FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()
                     AND backend_type = 'client backend'
                   UNION ALL SELECT FROM pg_class WHERE relpersistence = 't'"""
                )
            ),
            LIMIT,
            "the role's sessions to end",
        )
        session.run(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")

    @pytest.fixture
    def publisher(session: Session, role: str) -> str:
        """A role that may publish."""
        session.run(f"GRANT USAGE ON SCHEMA amqp TO {role}")
        return role

    @pytest.fixture
    def broker_id(session: Session, broker: VHost, channel: BlockingChannel) -> int:
        """The test's broker, with exchange and queue events."""
        declare(channel)
        return session.add_broker(broker.url())

    return session, role, publisher, broker_id
