"""Refusals for which RabbitMQ closes the whole connection, or lets none be opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from servers.management import Management
from servers.proxy import CuttingProxy
from support.failures import failure_fixtures
from support.fix_servers import VHost
from support.sessions import Session

session, through, direct = failure_fixtures()
Limit = Callable[[str, int], AbstractContextManager[None]]


@pytest.fixture
def user(broker: VHost, management: Management) -> Iterator[str]:
    """A user whose name, and whose right, say nothing of limits."""
    name = f"limit-{broker.vhost}"
    management.create_user(name, "secret")
    management.grant(broker.vhost, name)
    yield name
    management.delete_user(name)


@pytest.fixture
def limited(management: Management, broker: VHost, user: str) -> Limit:
    """Sets a limit of the user or of the vhost, and takes it back."""

    @contextmanager
    def limit(what: str, value: int) -> Iterator[None]:
        kind, name = what.split("/")
        path = kind, broker.vhost if kind == "vhost-limits" else user, name
        management.request("PUT", *path, body={"value": value})
        yield
        management.request("DELETE", *path)

    return limit


def test_an_exchange_type_that_there_is_not(
    session: Session, proxy: CuttingProxy, through: int
) -> None:
    connections = proxy.connections
    error = session.error("SELECT amqp.exchange_declare(%s, 'events', 'topical')", through)
    assert error.sqlstate == "22023"
    assert error.message == 'amqp: the broker refused to declare exchange "events"'
    # RabbitMQ 4 says PRECONDITION_FAILED (406).
    assert "unknown exchange type 'topical' (" in error.detail
    assert "direct, fanout, headers and topic" in error.hint
    # What was refused is not tried again.
    assert proxy.connections == connections
    assert session.value("SELECT amqp.exchange_declare(%s, 'events', 'topic')", through)


def test_an_exchange_that_is_there_with_another_type(session: Session, direct: int) -> None:
    session.run("SELECT amqp.exchange_declare(%s, 'events', 'topic')", direct)
    error = session.error("SELECT amqp.exchange_declare(%s, 'events', 'fanout')", direct)
    assert error.sqlstate == "55000"
    assert "inequivalent arg 'type'" in error.detail


def test_arguments_that_no_frame_holds(session: Session, proxy: CuttingProxy, through: int) -> None:
    connections, sent = proxy.connections, proxy.bytes_to_server
    arguments = json.dumps({"x": "y" * 131_072})
    error = session.error("SELECT amqp.queue_declare(%s, 'q', arguments => %s)", through, arguments)
    assert error.sqlstate == "54000"
    assert error.message == "amqp: arguments are too large"
    assert "the limit is 131072" in error.detail
    assert not error.hint
    # Nothing of it was sent, and the connection goes on.
    assert session.value("SELECT amqp.queue_declare(%s, 'q')", through)
    assert proxy.connections == connections
    assert proxy.bytes_to_server - sent < 1_000


@pytest.mark.parametrize(
    "what",
    ["user-limits/max-connections", "user-limits/max-channels", "vhost-limits/max-connections"],
)
def test_a_limit_that_is_reached(
    session: Session, broker: VHost, user: str, limited: Limit, what: str
) -> None:
    broker_id = session.add_broker(broker.url(user, "secret"))
    with limited(what, 0):
        error = session.error("SELECT amqp.publish(%s, 'amq.topic', 'key', 'x')", broker_id)
        assert error.sqlstate == "53300"
        assert "NOT_ALLOWED" in error.message
        assert "limit" in error.message
        assert "set_user_limits" in error.hint
    assert session.run("SELECT amqp.ping(%s)", broker_id)


def test_a_name_that_speaks_of_limits_is_none(
    session: Session, broker: VHost, management: Management, user: str
) -> None:
    management.request("DELETE", "permissions", broker.vhost, user)
    broker_id = session.add_broker(broker.url(user, "secret"))
    error = session.error("SELECT amqp.ping(%s)", broker_id)
    assert error.sqlstate == "08004"
    assert "permissions" in error.hint


def test_a_token_that_is_longer_than_the_broker_takes(session: Session, broker: VHost) -> None:
    token = "0123456789" * 1_000
    broker_id = session.add_broker(broker.url("guest", token))
    error = session.error("SELECT amqp.ping(%s)", broker_id)
    assert error.sqlstate == "54000"
    assert "the broker ended the connection in the login" in error.message
    assert "initial_frame_max" in error.hint
    assert "0123456789" not in str(error)


def test_a_password_that_no_frame_holds_is_said_before_connecting(
    session: Session, broker: VHost, proxy: CuttingProxy
) -> None:
    broker_id = session.add_broker(broker.url("guest", "p" * 131_072, port=proxy.port))
    error = session.error("SELECT amqp.ping(%s)", broker_id)
    assert error.sqlstate == "54000"
    assert "username and password have 131077 bytes" in error.message
    assert "pppp" not in str(error)
    assert proxy.connections == 0
