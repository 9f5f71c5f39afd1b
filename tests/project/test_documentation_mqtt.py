"""docs/how-to/mqtt.md: its examples do what it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pg_amqp_daemon.relay.metrics import RelayMetrics
from pg_amqp_daemon.runtime.metrics import Metrics
from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.relay import DaemonProcess
from support.examples import commands, examples, here, statements
from support.fix_servers import VHost
from support.mqtt import MqttClient, retained, subscriber
from support.outbox import wait_until_empty
from support.patience import LIMIT
from support.sessions import Session, open_session

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/mqtt.md").read_text()
LAPTOP = "amqp://guest:guest@localhost/"


def type_all(session: Session, broker: VHost, *texts: str) -> None:
    """Type examples as a reader would, on a laptop whose ports are these."""
    for text in texts:
        known = text.replace(LAPTOP, broker.url())
        for statement in statements(known.replace("= 1883", f"= {broker.rabbitmq.mqtt_port}")):
            session.run(statement)


def test_the_examples(database: str, broker: VHost, postgres: PostgreSQL) -> None:
    adding, publish, trigger, replace, port, devices, counted, status = examples(DOCUMENT)
    (arguments,) = commands(DOCUMENT)
    with open_session(database) as session, subscriber(broker, "orders/#") as client:
        type_all(session, broker, adding, port, devices, counted)
        with DaemonProcess(here(arguments[-1], postgres, database)):
            type_all(session, broker, publish)
            assert client.wait_for_seen(1)[0].text == '{"order": 7}'
            wait_until_empty(session)
            assert retained(broker, "shop/status") == "open"
            type_all(session, broker, trigger)
            wait_until_empty(session)
            assert '"wanted": 21.5' in (retained(broker, "rooms/attic/7") or "")
            type_all(session, broker, replace)
            wait_until_empty(session)
            assert retained(broker, "shop/status") is None
            with MqttClient(broker, will=("dev/7/status", "offline", 1)) as device:
                device.publish("dev/7/temp", "21.5")
                for _ in range(2):
                    device.publish("meter/7", '{"number": 1, "value": 2.5}')
                device.die()
            rows = "SELECT device, what, value FROM readings ORDER BY what"
            wait_for(lambda: len(session.run(rows)) == 2, LIMIT, "rows")
            assert session.run(rows) == [("7", "status", "offline"), ("7", "temp", "21.5")]
            stored = "SELECT stored + duplicates FROM amqp.inbox_status() WHERE consumer = %s"
            wait_for(lambda: session.value(stored, "counted") == 2, LIMIT, "both copies")
            assert session.run("SELECT device, number, value::float FROM counted") == [
                ("7", 1, 2.5)
            ]
        assert session.run(status) == [(0, 0, None)]


def test_mosquitto_pub_does_as_it_says(database: str, mqtt_session: Session, broker: VHost) -> None:
    (line,) = re.findall(r"`(mosquitto_pub [^`]+)`", DOCUMENT)
    port, user = str(broker.rabbitmq.mqtt_port), f"{broker.vhost}:guest"
    with subscriber(broker, "dev/+/temp") as client:
        subprocess.run([*line.split(), "-p", port, "-u", user, "-P", "guest"], check=True)
        (seen,) = client.wait_for_seen(1)
    assert (seen.topic, seen.text, seen.qos) == ("dev/7/temp", "21.5", 1)


@pytest.mark.parametrize("name", re.findall(r"`(pg_amqp_\w+)`", DOCUMENT))
def test_the_metrics_that_it_names_are_there(name: str) -> None:
    metrics = Metrics()
    RelayMetrics(metrics)
    families = {family.name for family in metrics.registry.collect()}
    assert name.removesuffix("_total") in families
