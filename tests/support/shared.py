"""A database and a virtual host that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.management import Management
from servers.postgres import PostgreSQL
from servers.rabbitmq import RabbitMQ
from support.fix_servers import VHost
from support.queues import declare, numbers_in, open_channel
from support.sessions import Session, open_session


def shared_fixtures() -> tuple[Any, Any, Any]:
    """The fixtures `database`, `broker` and `session` for a module whose tests share the first two.

    Errors must leave nothing behind, so it is right that they do, and it is faster.
    """

    @pytest.fixture(scope="module")
    def database(request: pytest.FixtureRequest, postgres: PostgreSQL) -> Iterator[str]:
        """A database with the extension."""
        name = f"shared_by_{request.module.__name__.replace('.', '_')}"
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template_amqp")
            yield postgres.dsn(name)
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @pytest.fixture(scope="module")
    def broker(
        request: pytest.FixtureRequest, rabbitmq: RabbitMQ, management: Management
    ) -> Iterator[VHost]:
        """A virtual host."""
        vhost = f"shared_by_{request.module.__name__.replace('.', '_')}"
        management.create_vhost(vhost)
        yield VHost(rabbitmq, vhost)
        management.delete_vhost(vhost)

    @pytest.fixture
    def session(database: str, broker: VHost) -> Iterator[Session]:
        """A session that finds no broker rows and an empty queue events."""
        with open_channel(broker.url()) as channel:
            _, queue = declare(channel)
            channel.queue_purge(queue)
        with open_session(database) as session:
            session.run("DELETE FROM amqp.broker")
            yield session

    return database, broker, session


def assert_works(session: Session, broker_id: int, channel: BlockingChannel, queue: str) -> None:
    """Publish and receive once more, without a word."""
    session.warnings()
    session.run("SELECT amqp.disconnect(%s)", broker_id)
    session.publish(broker_id, queue, [77])
    assert numbers_in(channel, queue, 1) == [77]
    assert session.warnings() == []
