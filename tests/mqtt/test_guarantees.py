"""What devices publish with QoS 1 is stored, while RabbitMQ restarts and daemons are killed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from servers.management import Management
from servers.processes import wait_for
from servers.rabbitmq import RabbitMQ
from servers.relay import ConsumeProcess
from support.fix_servers import VHost
from support.mqtt import version_of
from support.patience import LIMIT
from support.sessions import Session

pytestmark = pytest.mark.slow

DEVICES = 1000
EACH = 3
AT_ONCE = 40
LONG = 6 * LIMIT
PATIENCE = 15.0
"""Seconds after which a device connects again."""

TABLES = """
CREATE TABLE arrived (device text, number integer);
CREATE TABLE counted (device text, number integer, PRIMARY KEY (device, number));
SELECT amqp.queue_declare(1, queue) FROM unnest(ARRAY['arrived', 'counted']) AS queue;
SELECT amqp.queue_bind(1, queue, 'amq.topic', amqp.mqtt_key('meter/+'))
FROM unnest(ARRAY['arrived', 'counted']) AS queue;
INSERT INTO amqp.consumer (name, broker_id, queue, target_table, columns, on_conflict, batch_size)
SELECT name, 1, name, name, '{"device": "mqtt_topic[2]", "number": "body"}', what, 100
FROM (VALUES ('arrived', 'error'), ('counted', 'ignore')) AS c (name, what);
"""


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A node of this module's own, to be broken."""
    with RabbitMQ(plugins=["rabbitmq_management", "rabbitmq_mqtt"]) as node:
        yield node


@pytest.fixture(scope="module")
def management(rabbitmq: RabbitMQ) -> Management:
    """Its HTTP API."""
    return Management(rabbitmq.management_port)


def publish_all(broker: VHost, version: MQTTProtocolVersion, device: int) -> None:
    """Be a device: publish numbers, again and again until each is acknowledged."""
    left = set(range(EACH))

    def has_published() -> bool:
        with suppress(OSError):
            publish_once(broker, version, device, left)
        return not left

    wait_for(has_published, LONG, f"PUBACK for device {device}", interval=0.1)


def publish_once(broker: VHost, version: MQTTProtocolVersion, device: int, left: set[int]) -> None:
    """Publish what is left on one connection; what is acknowledged is left no more."""
    client = Client(CallbackAPIVersion.VERSION2, f"device-{device}", protocol=version)
    client.username_pw_set(f"{broker.vhost}:guest", "guest")
    numbers: dict[int, int] = {}
    client.on_publish = lambda _client, _data, at, *_: left.discard(numbers[at])
    deadline = time.monotonic() + PATIENCE
    try:
        client.connect("127.0.0.1", broker.rabbitmq.mqtt_port, 10)
        while left and time.monotonic() < deadline and not client.loop(0.1):
            if client.is_connected() and not numbers:
                for number in sorted(left):
                    numbers[client.publish(f"meter/{device}", str(number), 1).mid] = number
        client.disconnect()
    finally:
        # Else two of them stay open until it is collected.
        client._reset_sockets()


def test_a_thousand_devices_lose_nothing(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    mqtt_session.run(TABLES)
    version = version_of(broker)
    done = count()
    arrived = "SELECT count(*) FROM counted"
    with ThreadPoolExecutor(AT_ONCE) as pool:
        devices = [pool.submit(publish_all, broker, version, device) for device in range(DEVICES)]
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            with ConsumeProcess(database) as daemon:
                wait_for(
                    lambda: mqtt_session.value(arrived) > share * DEVICES * EACH,  # noqa: B023
                    LONG,
                    "some to be stored",
                )
                if next(done) in (1, 3):
                    broker.rabbitmq.restart()
                daemon.kill()
        with ConsumeProcess(database):
            for device in devices:
                device.result()
            everything = f"""SELECT (SELECT count(*) FROM counted) = {DEVICES * EACH}
                AND (SELECT count(DISTINCT a) FROM arrived AS a) = {DEVICES * EACH}"""
            wait_for(lambda: mqtt_session.value(everything), LONG, "all to be stored")
    expected = {(str(device), number) for device in range(DEVICES) for number in range(EACH)}
    assert set(mqtt_session.run("SELECT device, number FROM counted")) == expected
    copies = Counter(mqtt_session.run("SELECT device, number FROM arrived"))
    assert set(copies) == expected
    print(f"copies without a key: {copies.total() - len(expected)}")
    assert mqtt_session.value("SELECT count(*) FROM amqp.inbox_dead") == 0
    assert threading.active_count() < AT_ONCE
