"""Messages that RabbitMQ does not take wait in amqp.outbox, if their login is a broker's row's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.gateway import GatewayProcess
from servers.processes import wait_for
from servers.proxy import CuttingProxy
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.messages import Inbox
from support.patience import LIMIT
from support.posting import Client, path_of, request_text, statuses
from support.sessions import Session


@pytest.fixture
def topic(broker: VHost) -> str:
    """The path of a routing key."""
    return path_of(broker.vhost, "amq.topic", "foo")


@pytest.fixture
def storing(
    database: str, session: Session, broker: VHost, proxy: CuttingProxy
) -> Iterator[Client]:
    """A client of a gateway that stores, for the row's broker behind the proxy."""
    session.execute("UPDATE amqp.broker SET port = %s", [proxy.port])
    with GatewayProcess("--outbox", dsn=database) as gateway:
        assert isinstance(gateway, GatewayProcess)
        client = Client(gateway.port)
        wait_for(lambda: client.get("/ready").status == 200, LIMIT, "the rows to be read")
        yield client
        client.close()
        assert not [one for one in gateway.entries() if one["level"] == "error"]


def test_what_comes_while_rabbitmq_is_away_waits_and_is_delivered(
    storing: Client,
    topic: str,
    database: str,
    session: Session,
    proxy: CuttingProxy,
    channel: BlockingChannel,
) -> None:
    inbox = Inbox(channel)
    assert storing.form(topic, body="1").status == 204
    assert session.run("SELECT FROM amqp.outbox") == []
    proxy.refuse()
    proxy.reset()
    fields: dict[str, Any] = {
        "headers": '{"a": 1}',
        "timestamp": 1397597512,
        "priority": 3,
        "mandatory": 1,
        "delivery_mode": 1,
        "type": "t",
    }
    answer = storing.form(topic, body="2", message_id="second", **fields)
    while answer.status != 202:
        assert answer.status == 504
        answer = storing.form(topic, body="2", message_id="second", **fields)
    assert answer.headers["x-message-id"] == "second"
    path, key = topic.rsplit("/", 1)[0], {"routing_key": "foo", "payload": "3"}
    lines = storing.lines(f"/{topic.split('/')[1]}", {"exchange": "amq.topic", **key})
    assert lines.lines == [{"status": 202}]
    managed = path.replace("/", "/api/exchanges/", 1) + "/publish"
    assert storing.request("POST", managed, b'{"routing_key":"foo","payload":"4"}').status == 202
    proxy.pass_all()
    with RelayProcess(database):
        wait_for(lambda: not session.run("SELECT FROM amqp.outbox"), LIMIT, "it to be delivered")
    first, second, *others = inbox.drain()
    assert [one.text for one in (first, second, *others)] == ["1", "2", "3", "4"]
    properties = second.properties
    assert (properties.message_id, properties.type, properties.priority) == ("second", "t", 3)
    assert (properties.timestamp, properties.delivery_mode) == (1397597512, 1)
    assert properties.headers == {"a": 1}
    assert storing.get("/metrics").body.count(b"pg_amqp_gateway_stored_total 3.0") == 1


def test_no_login_but_the_row_s_may_store(
    storing: Client, topic: str, session: Session, proxy: CuttingProxy, broker: VHost
) -> None:
    proxy.refuse()
    proxy.reset()
    assert storing.form(topic).status == 202
    for login in ("guest", "wrong"), ("guest", ""), ("other", "guest"):
        assert storing.form(topic, login=login).status == 503
    assert storing.form("/%2F/amq.topic/foo").status == 503
    assert len(session.run("SELECT FROM amqp.outbox")) == 1


def test_a_change_of_the_row_counts(
    storing: Client, topic: str, session: Session, proxy: CuttingProxy
) -> None:
    proxy.refuse()
    proxy.reset()
    assert storing.form(topic).status == 202
    session.execute("UPDATE amqp.broker SET password = 'another'")
    wait_for(lambda: storing.form(topic).status == 503, LIMIT, "the change to be seen")
    wait_for(
        lambda: storing.form(topic, login=("guest", "another")).status == 202,
        LIMIT,
        "the other password to count",
    )


def test_what_no_row_can_hold_is_a_bad_request(
    storing: Client, topic: str, session: Session, proxy: CuttingProxy
) -> None:
    proxy.refuse()
    proxy.reset()
    assert storing.form(topic, type="\0").status == 400
    assert storing.form(topic, timestamp=10**17).status == 400
    assert storing.form(topic).status == 202
    assert len(session.run("SELECT FROM amqp.outbox")) == 1


def test_a_database_that_is_away_too(
    storing: Client, topic: str, session: Session, proxy: CuttingProxy
) -> None:
    proxy.refuse()
    proxy.reset()
    assert storing.form(topic).status == 202
    session.execute("ALTER SCHEMA amqp RENAME TO elsewhere")
    assert storing.form(topic).status == 503
    session.execute("ALTER SCHEMA elsewhere RENAME TO amqp")
    session.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'pg-amqp gateway %'"
    )
    assert storing.form(topic).status in (202, 503)
    wait_for(lambda: storing.form(topic).status == 202, LIMIT, "it to come back")


def test_whoever_waits_is_told_when_the_session_ends_while_a_fault_is_looked_for(
    storing: Client, topic: str, database: str, session: Session, proxy: CuttingProxy
) -> None:
    session.execute(
        "CREATE FUNCTION public.trip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.body = 'bad' THEN RAISE EXCEPTION 'bad' USING ERRCODE = '22000'; END IF;"
        " IF NEW.body = 'end' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;"
        " RETURN NEW; END $$;"
        " CREATE TRIGGER trip BEFORE INSERT ON amqp.outbox"
        " FOR EACH ROW EXECUTE FUNCTION public.trip()"
    )
    proxy.refuse()
    proxy.reset()
    wait_for(lambda: storing.form(topic).status == 202, LIMIT, "a session that stores")
    those = [socket.create_connection(("127.0.0.1", storing.port), LIMIT) for _ in range(6)]
    with psycopg.connect(database) as other:
        other.execute("LOCK amqp.outbox IN ACCESS EXCLUSIVE MODE")
        # The first one keeps the session busy until the others are there.
        for one, body in zip(those, ["1", "bad", "end", "2", "3", "4"], strict=True):
            one.sendall(request_text(topic, f"body={body}".encode()))
            wait_for(
                lambda: session.value("SELECT count(*) FROM pg_locks WHERE NOT granted"),
                LIMIT,
                "the session to wait",
            )
    answers = [statuses(one.recv(65536)) for one in those]
    assert answers == [[202], [400], [503], [503], [503], [503]]
    for one in those:
        one.close()
