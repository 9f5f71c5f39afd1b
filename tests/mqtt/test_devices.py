"""What devices publish becomes rows: QoS 0 and 1, last wills, MQTT 5, and topics of any kind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from servers.processes import wait_for
from servers.relay import ConsumeProcess
from support.fix_servers import VHost
from support.mqtt import MqttClient, subscriber, version_of
from support.patience import LIMIT
from support.sessions import Session

DEVICES = """
CREATE TABLE readings (device text, what text, value text, at timestamptz);
SELECT amqp.queue_declare(1, 'device_data');
SELECT amqp.queue_bind(1, 'device_data', 'amq.topic', amqp.mqtt_key('dev/+/temp'));
SELECT amqp.queue_bind(1, 'device_data', 'amq.topic', amqp.mqtt_key('dev/+/status'));
INSERT INTO amqp.consumer (name, broker_id, queue, target_table, columns)
VALUES ('devices', 1, 'device_data', 'readings',
    '{"device": "mqtt_topic[2]", "what": "mqtt_topic[3]", "value": "body", "at": "now"}');
"""
ROWS = "SELECT device, what, value FROM readings ORDER BY device, what, value"


@pytest.fixture
def devices(database: str, mqtt_session: Session) -> Iterator[Session]:
    """A session, with a consumer of what devices publish that works."""
    mqtt_session.run(DEVICES)
    with ConsumeProcess(database):
        yield mqtt_session


def wait_for_rows(session: Session, count: int) -> list[tuple[str, str, str]]:
    """Wait until there are so many rows."""
    wait_for(
        lambda: session.value("SELECT count(*) FROM readings") >= count, LIMIT, f"{count} rows"
    )
    return session.run(ROWS)


def test_each_quality_of_service_becomes_a_row(devices: Session, broker: VHost) -> None:
    with MqttClient(broker) as device:
        device.publish("dev/7/temp", "20.5", 0)
        device.wait_for_acknowledged(device.publish("dev/7/temp", "21.5", 1))
        device.wait_for_acknowledged(device.publish("dev/8/temp", "-3", 1, retain=True))
        device.publish("dev/9/other", "nobody asks", 1)
        assert wait_for_rows(devices, 3) == [
            ("7", "temp", "20.5"),
            ("7", "temp", "21.5"),
            ("8", "temp", "-3"),
        ]


@pytest.mark.parametrize("qos", [0, 1])
def test_a_last_will_becomes_a_row(devices: Session, broker: VHost, qos: int) -> None:
    device = MqttClient(broker, will=("dev/7/status", "offline", qos))
    device.wait_for_acknowledged(device.publish("dev/7/status", "online"))
    device.die()
    assert wait_for_rows(devices, 2) == [("7", "status", "offline"), ("7", "status", "online")]


def test_a_goodbye_is_no_last_will(devices: Session, broker: VHost) -> None:
    with MqttClient(broker, will=("dev/7/status", "offline", 1)):
        pass
    with MqttClient(broker) as other:
        other.wait_for_acknowledged(other.publish("dev/8/status", "online"))
        assert wait_for_rows(devices, 1) == [("8", "status", "online")]


def test_a_body_becomes_a_number(database: str, mqtt_session: Session, broker: VHost) -> None:
    mqtt_session.run(DEVICES.replace("value text", "value numeric"))
    with ConsumeProcess(database), MqttClient(broker) as device:
        for body in ("21.50", "warm", "-1e3"):
            device.publish("dev/7/temp", body)
        wait_for_rows(mqtt_session, 2)
        count = "SELECT dead FROM amqp.inbox_status() WHERE consumer = 'devices'"
        wait_for(lambda: mqtt_session.value(count) == 1, LIMIT, "the one that is no number")
    found = mqtt_session.run("SELECT value::text FROM readings ORDER BY value")
    assert found == [("-1000",), ("21.50",)]
    ((error,),) = mqtt_session.run("SELECT error FROM amqp.inbox_dead")
    assert error == 'invalid input syntax for type numeric: "warm"'


def test_topics_of_any_kind_come_as_they_can(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    """A dot is a level; all else comes exactly, and nothing comes where it was not asked for."""
    mqtt_session.run("CREATE TABLE topics (topic text, key text, body text)")
    mqtt_session.run("SELECT amqp.queue_declare(1, 'all')")
    mqtt_session.run("SELECT amqp.queue_bind(1, 'all', 'amq.topic', amqp.mqtt_key('x/#'))")
    mqtt_session.run(
        "INSERT INTO amqp.consumer (name, broker_id, queue, target_table, columns) VALUES"
        ' (\'all\', 1, \'all\', \'topics\', \'{"topic": "mqtt_topic", "key": "routing_key",'
        ' "body": "body"}\')'
    )
    exact = ["x", "x/ü/😀", "x/a b", "x/%2F", "x/'\"\\", "x//y", "x/*/y", "x/$y", "x/" + "y" * 250]
    with ConsumeProcess(database), MqttClient(broker) as device:
        for topic in (*exact, "y/x", "xx", "x/1.5"):
            device.wait_for_acknowledged(device.publish(topic, topic))
        wait_for(
            lambda: mqtt_session.value("SELECT count(*) FROM topics") >= len(exact) + 1,
            LIMIT,
            "all topics",
        )
    found = dict(mqtt_session.run("SELECT body, topic FROM topics"))
    assert found == {**{topic: topic for topic in exact}, "x/1.5": "x/1/5"}


def test_what_mqtt_5_says_becomes_columns(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    if version_of(broker) != MQTTProtocolVersion.MQTTv5:
        pytest.skip("this RabbitMQ does not speak MQTT 5")
    mqtt_session.run(
        "CREATE TABLE said (content_type text, correlation text, colour text, answer text);"
        " SELECT amqp.queue_declare(1, 'said');"
        " SELECT amqp.queue_bind(1, 'said', 'amq.topic', amqp.mqtt_key('said'));"
        " INSERT INTO amqp.consumer (name, broker_id, queue, target_table, columns) VALUES"
        " ('said', 1, 'said', 'said', '{\"content_type\": \"content_type\", \"correlation\":"
        ' "correlation_id", "colour": "headers.colour",'
        ' "answer": "headers.x-reply-to-topic"}\')'
    )
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ContentType = "text/plain"
    properties.CorrelationData = b"c"
    properties.UserProperty = ("colour", "blue")
    properties.ResponseTopic = "answers/7"
    with ConsumeProcess(database), MqttClient(broker) as device:
        device.publish("said", "x", properties=properties)
        wait_for(lambda: mqtt_session.value("SELECT count(*) FROM said"), LIMIT, "a row")
    assert mqtt_session.run("SELECT * FROM said") == [("text/plain", "c", "blue", "answers.7")]


def test_there_and_back(devices: Session, broker: VHost) -> None:
    """What SQL publishes to a topic, a consumer of that topic stores."""
    with subscriber(broker, "dev/+/temp") as client:
        devices.run("SELECT amqp.publish_mqtt(1, 'dev/7/temp', '1')")
        assert client.wait_for_seen(1)[0].topic == "dev/7/temp"
    assert wait_for_rows(devices, 1) == [("7", "temp", "1")]
