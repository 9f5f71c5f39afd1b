"""A relay knows whether its peers live, and tells them that it does."""

from __future__ import annotations

import json
import socket

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg.conninfo import make_conninfo

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.health import watched
from support.messages import Inbox
from support.outbox import in_outbox, put, wait_until_empty
from support.patience import LIMIT
from support.sessions import Session

_HEARTBEAT = 8
"""Bytes of a heartbeat frame."""


def use_proxy(session: Session, proxy: CuttingProxy) -> None:
    """Let broker 1 be reached through a proxy."""
    session.execute("UPDATE amqp.broker SET port = %s", [proxy.port])


@pytest.mark.slow
def test_an_idle_connection_is_not_silent(
    database: str, session: Session, proxy: CuttingProxy
) -> None:
    use_proxy(session, proxy)
    with RelayProcess(database) as relay:
        relay.wait_for_event("connected to broker")
        sent, received = proxy.bytes_to_server, proxy.bytes_to_client
        wait_for(lambda: proxy.bytes_to_server >= sent + 3 * _HEARTBEAT, LIMIT, "heartbeats")
        wait_for(lambda: proxy.bytes_to_client >= received + _HEARTBEAT, LIMIT, "RabbitMQ's")
        assert relay.events("connection to broker lost") == []


@pytest.mark.slow
@pytest.mark.parametrize("idle", [True, False])
@pytest.mark.parametrize("direction", [Direction.BOTH, Direction.TO_CLIENT])
def test_a_silent_broker_is_given_up(
    database: str,
    session: Session,
    proxy: CuttingProxy,
    inbox: Inbox,
    idle: bool,
    direction: Direction,
) -> None:
    """TCP goes on acknowledging what nobody reads."""
    use_proxy(session, proxy)
    with RelayProcess(database) as relay:
        relay.wait_for_event("connected to broker")
        proxy.stall(direction)
        if not idle:
            put(session, "message")
        lost = relay.wait_for_event("connection to broker lost")
        assert lost["error"] == "no heartbeat within 20 seconds"
        proxy.pass_all()
        if not idle:
            wait_until_empty(session)
            assert set(inbox.texts()) == {"message"}
        relay.wait_for_event("connected to broker", 2)
        # Nothing was refused: it is not the message's fault.
        assert relay.events("messages not delivered") == []


@pytest.mark.slow
def test_a_broker_that_blocks_is_waited_for(
    database: str, session: Session, broker: VHost, proxy: CuttingProxy, inbox: Inbox
) -> None:
    """Longer than two heartbeats; it sends some all the while."""
    use_proxy(session, proxy)
    with RelayProcess(database) as relay:
        relay.wait_for_event("connected to broker")
        with broker.rabbitmq.short_of_memory():
            put(session, "message")
            relay.wait_for_event("broker blocked")
            received = proxy.bytes_to_client
            wait_for(
                lambda: proxy.bytes_to_client >= received + 5 * _HEARTBEAT, LIMIT, "heartbeats"
            )
            assert len(in_outbox(session)) == 1
        wait_until_empty(session)
        assert inbox.texts() == ["message"]
        assert relay.events("connection to broker lost") == []


def test_the_broker_knows_who_it_is(
    database: str, session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    with RelayProcess(database) as relay:
        relay.wait_for_event("connected to broker")
        listed = json.loads(
            broker.rabbitmq.rabbitmqctl(
                "list_connections", "vhost", "timeout", "client_properties", "--formatter", "json"
            )
        )
        known = [
            (connection["timeout"], connection["client_properties"])
            for connection in listed
            if connection["vhost"] == broker.vhost
            and "pg-amqp relay" in str(connection["client_properties"])
        ]
    ((timeout, properties),) = known
    assert timeout == 10
    shown = str(properties)
    assert "'pg-amqp'" in shown
    assert "'Python'" in shown
    name = session.value("SELECT current_database()")
    assert f"pg-amqp relay {name} on localhost ({relay.pid} on {socket.gethostname()})" in shown


@pytest.mark.slow
@pytest.mark.parametrize("direction", [Direction.BOTH, Direction.TO_CLIENT])
def test_a_silent_database_is_given_up(
    database: str, session: Session, postgres: PostgreSQL, inbox: Inbox, direction: Direction
) -> None:
    with CuttingProxy(postgres.port) as proxy:
        dsn = make_conninfo(database, host="127.0.0.1", port=proxy.port)
        with watched(dsn) as (relay, health):
            relay.wait_for_event("connected to broker")
            health(200)
            proxy.stall(direction)
            # Several sessions find out, each by itself.
            wait_for(
                lambda: health(503)["brokers"]["1"] != "leading", LIMIT, "the worker to see it"
            )
            # A new one, for the server to see it.
            accepted = proxy.connections
            wait_for(lambda: proxy.connections > accepted, LIMIT, "another attempt")
            put(session, "message")
            proxy.pass_all()
            wait_until_empty(session)
            health(200)
    assert inbox.texts() == ["message"]
