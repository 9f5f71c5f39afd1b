"""What STOMP clients send, in tables: properties, any body, transactions, receipts, heart-beats."""

from __future__ import annotations

from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from stomp.utils import Frame

from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction
from servers.rabbitmq import RabbitMQ
from servers.relay import ConsumeProcess
from support.consumers import Consumer, desk
from support.fix_servers import VHost
from support.fix_stomp import Stompers
from support.mqtt import version_of
from support.patience import LIMIT

VERSIONS = ("1.0", "1.1", "1.2")


@pytest.fixture
def consumer(database: str, broker: VHost) -> Any:
    """A consumer that keeps whole messages, with a daemon that works it."""
    with desk(database, broker) as make, ConsumeProcess(database):
        yield make()


def rows(consumer: Consumer, count: int) -> list[tuple[Any, ...]]:
    """Body and headers of so many messages."""
    consumer.wait_for_stored(count)
    return consumer.session.run("SELECT body, headers FROM amqp.inbox ORDER BY id")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_send_to_either_kind_of_queue_is_a_row(
    consumer: Consumer, stompers: Stompers, version: str
) -> None:
    client = stompers(version)
    client.send(f"/amq/queue/{consumer.queue}", "1")
    client.send(f"/exchange/amq.direct/{consumer.queue}", "nowhere")
    client.send(f"/reply-queue/{consumer.queue}", "2")
    assert [body for body, _ in rows(consumer, 2)] == [b"1", b"2"]


def test_each_header_is_its_property(consumer: Consumer, stompers: Stompers) -> None:
    headers = {
        "content-type": "text/plain",
        "content-encoding": "gzip",
        "persistent": "true",
        "priority": "5",
        "correlation-id": "42",
        "reply-to": "answers",
        "expiration": "60000",
        "amqp-message-id": "order-1",
        "timestamp": "7",
        "type": "order",
        "user-id": "guest",
        "app-id": "shop",
        "tenant": "Ada",
    }
    stompers().send(f"/amq/queue/{consumer.queue}", "x", headers)
    consumer.wait_for_stored(1)
    assert consumer.session.run(
        """SELECT content_type, content_encoding, delivery_mode, priority, correlation_id, reply_to,
                  expiration, message_id, extract(epoch FROM "timestamp")::int, type, user_id,
                  app_id, headers->>'tenant'
           FROM amqp.inbox"""
    ) == [
        (
            "text/plain",
            "gzip",
            2,
            5,
            "42",
            "answers",
            "60000",
            "order-1",
            7,
            "order",
            "guest",
            "shop",
            "Ada",
        )
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "body", [b"\0", b"a\0b\0", b"\xff\xfe\0", b"", "ü\N{SNOWMAN}".encode(), b"x" * 300_000]
)
def test_any_body_is_stored_as_it_was_sent(
    consumer: Consumer, stompers: Stompers, version: str, body: bytes
) -> None:
    stompers(version).send(f"/amq/queue/{consumer.queue}", body)
    assert [found for found, _ in rows(consumer, 1)] == [body]


@pytest.mark.parametrize(
    "text", ["a:b", "a\\b", "a\nb", "a\rb", "", "\\c", "\\\\", ":x", "ü", "'; DROP TABLE x; --"]
)
def test_hostile_header_values_are_stored_as_they_were_sent(
    consumer: Consumer, stompers: Stompers, text: str
) -> None:
    headers = {"given": text, "correlation-id": text, "beside": "it"}
    stompers().send(f"/amq/queue/{consumer.queue}", "x", headers)
    ((_, found),) = rows(consumer, 1)
    assert (found["given"], found["beside"]) == (text, "it")
    assert consumer.session.value("SELECT correlation_id FROM amqp.inbox") == text


@pytest.mark.parametrize("name", ["a\\cb", "a\\nb", "a\\\\b", "a b", "ü", "x" * 255, "constructor"])
def test_hostile_header_names_are_stored_as_they_were_sent(
    consumer: Consumer, stompers: Stompers, name: str
) -> None:
    client = stompers()
    destination = f"/amq/queue/{consumer.queue}"
    # As it stands on the wire: stomp.py escapes values only.
    client.connection.transport.transmit(
        Frame("SEND", {"destination": destination, name: "v", "receipt": "r"}, b"x")
    )
    client.wait_for_receipt("r")
    ((_, found),) = rows(consumer, 1)
    meant = name.replace("\\c", ":").replace("\\n", "\n").replace("\\\\", "\\")
    assert found[meant] == "v"


@pytest.mark.parametrize("header", ["x" * 256, "correlation-id"])
def test_what_amqp_has_no_room_for_holds_a_queue_up_until_it_expires(
    database: str, broker: VHost, stompers: Stompers, header: str
) -> None:
    """RabbitMQ takes it by STOMP, and ends the connection of whoever is to get it by AMQP."""
    if version_of(broker) == MQTTProtocolVersion.MQTTv5:
        pytest.skip("this RabbitMQ takes neither: the SEND has no receipt")
    with desk(database, broker) as make, ConsumeProcess(database) as daemon:
        consumer = make(arguments={"x-message-ttl": 1000})
        client, destination = stompers(), f"/amq/queue/{consumer.queue}"

        def stored(body: str) -> bool:
            client.send(destination, body)
            return body in consumer.inbox()

        # One that is not taken within a second is gone.
        wait_for(lambda: stored("before"), LIMIT, "a message to be stored", interval=0.2)
        client.send(destination, "x", {header: "v" * 256})
        assert daemon.wait_for_event("connection to broker lost")["error"] == "INTERNAL_ERROR"
        wait_for(lambda: stored("behind"), LIMIT, "a good message to be stored", interval=0.2)
        assert set(consumer.inbox()) == {"before", "behind"}
        assert consumer.dead() == []


def test_a_transaction_of_a_client_s(consumer: Consumer, stompers: Stompers) -> None:
    client, destination = stompers(), f"/amq/queue/{consumer.queue}"
    for name, end in (("one", client.connection.commit), ("two", client.connection.abort)):
        client.connection.begin(name)
        for number in range(3):
            client.connection.send(destination, f"{name} {number}", headers={"transaction": name})
        end(name)
    client.send(destination, "behind")
    bodies = [body.decode() for body, _ in rows(consumer, 4)]
    assert bodies == ["one 0", "one 1", "one 2", "behind"]


def test_a_receipt_says_nothing_of_a_queue(consumer: Consumer, stompers: Stompers) -> None:
    client = stompers()
    client.send("/exchange/amq.topic/nobody", "x")  # It gets its receipt all the same.
    client.connection.send("/exchange/missing/x", "x")
    assert b"no exchange 'missing'" in client.take_error().body
    client.wait_for_end()


def test_acknowledgements(session: Any, stompers: Stompers, channel: Any) -> None:
    """What a client nacks or leaves is there for the next one."""
    channel.queue_declare("Q", durable=True)
    for number in range(3):
        session.run("SELECT amqp.publish_stomp(1, '/queue/Q', %s)", str(number))
    first = stompers()
    first.subscribe("/amq/queue/Q", ack="client-individual")
    taken = [first.take() for _ in range(3)]
    first.connection.ack(
        taken[1].headers["ack"] if "ack" in taken[1].headers else taken[1].headers["message-id"]
    )
    first.close()
    second = stompers()
    second.subscribe("/amq/queue/Q")
    again = [second.take() for _ in range(2)]
    assert [message.body for message in again] == [b"0", b"2"]
    assert {message.headers["redelivered"] for message in again} == {"true"}


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_heart_beats_keep_a_quiet_connection_and_end_a_dead_one(
    rabbitmq: RabbitMQ, stompers: Stompers, version: str
) -> None:
    with CuttingProxy(rabbitmq.stomp_port) as proxy:
        client = stompers(version, port=proxy.port, heartbeats=(1000, 1000))
        client.subscribe("/topic/quiet")
        for _ in range(3):
            client.wait_for_heartbeat()
        proxy.stall(Direction.BOTH)
        client.wait_for_end()
        # The broker has noticed, too: it lets go of the connection.
        proxy.pass_all()
        wait_for(lambda: proxy.open_connections == 0, LIMIT, "the broker to hang up")
