"""amqp.publish_mqtt() reaches MQTT clients as the transaction ends."""

from __future__ import annotations

import subprocess

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from servers.processes import wait_for
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.mqtt import retained, subscriber, version_of
from support.patience import LIMIT
from support.sessions import Session


def test_a_subscriber_sees_what_is_committed_and_nothing_else(
    mqtt_session: Session, broker: VHost
) -> None:
    publish = "SELECT amqp.publish_mqtt(1, 'orders/7/placed', %s)"
    with subscriber(broker, "orders/#") as client:
        mqtt_session.run("BEGIN")
        mqtt_session.run(publish, "rolled back")
        mqtt_session.run("ROLLBACK")
        mqtt_session.run("BEGIN")
        mqtt_session.run(publish, "kept")
        mqtt_session.run("SAVEPOINT s")
        mqtt_session.run(publish, "taken back")
        mqtt_session.run("ROLLBACK TO s")
        mqtt_session.run("COMMIT")
        mqtt_session.run("SELECT amqp.publish_mqtt(1, 'orders/8/placed', '{\"a\": 1}'::jsonb)")
        assert [(one.topic, one.text) for one in client.wait_for_seen(2)] == [
            ("orders/7/placed", "kept"),
            ("orders/8/placed", '{"a": 1}'),
        ]
        assert {one.qos for one in client.seen} == {1}


def test_topics_arrive_exactly(mqtt_session: Session, broker: VHost) -> None:
    topics = ["a", "a b/c d", "ü/😀/日本", "$x/%2F/%2e", "x" * 255, "-/_/~", "a\nb/c\td", "'\"\\/&"]
    with subscriber(broker, "#") as client:
        for topic in topics:
            mqtt_session.run("SELECT amqp.publish_mqtt(1, %s, %s)", topic, topic)
        client.wait_for_seen(len(topics))
        assert [(one.topic, one.text) for one in client.seen] == [(one, one) for one in topics]


def test_what_reaches_mqtt_5(mqtt_session: Session, broker: VHost) -> None:
    if version_of(broker) != MQTTProtocolVersion.MQTTv5:
        pytest.skip("this RabbitMQ does not speak MQTT 5")
    publish = """SELECT amqp.publish_mqtt(
        1, 'properties', 'x', content_type => 'text/plain', correlation_id => 'c',
        response_topic => 'answers/7', expiration => '60000', headers => '{"a": 1, "b": "ü"}',
        retain => %s)"""
    with subscriber(broker, "properties") as client, RelayProcess(mqtt_session.info.dsn):
        for retain in (False, True):
            mqtt_session.run(publish, retain)
        expiries = []
        for seen in client.wait_for_seen(2):
            found = seen.properties
            assert found is not None
            assert found.ContentType == "text/plain"
            assert found.CorrelationData == b"c"
            assert found.ResponseTopic == "answers/7"
            assert sorted(found.UserProperty) == [("a", "1"), ("b", "ü")]
            expiries.append(getattr(found, "MessageExpiryInterval", 0))
        # RabbitMQ 4.0 shows that of the retained one, which came by MQTT.
        assert 0 < max(expiries) <= 60


def test_qos_is_the_delivery_mode(mqtt_session: Session, broker: VHost) -> None:
    with subscriber(broker, "q/#") as client:
        for qos in (0, 1, None):
            mqtt_session.run("SELECT amqp.publish_mqtt(1, 'q/x', 'x', qos => %s)", qos)
        found = [one.qos for one in client.wait_for_seen(3)]
    # Older ones take what comes by AMQP for QoS 1.
    expected = [0, 1, 1] if version_of(broker) == MQTTProtocolVersion.MQTTv5 else [1, 1, 1]
    assert found == expected


def test_nothing_but_retain_is_kept(mqtt_session: Session, broker: VHost) -> None:
    mqtt_session.run("SELECT amqp.publish_mqtt(1, 'status', 'passing by')")
    assert retained(broker, "status") is None


def test_mosquitto_sees_it(mqtt_session: Session, broker: VHost) -> None:
    """The client that everybody has."""
    login = ["-p", str(broker.rabbitmq.mqtt_port), "-u", f"{broker.vhost}:guest"]
    command = ["mosquitto_sub", *login, "-P", "guest", "-t", "orders/#", "-q", "1", "-C", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as mosquitto:

        def has_seen() -> bool:
            # It does not say when it has subscribed.
            mqtt_session.run("SELECT amqp.publish_mqtt(1, 'orders/7', 'seen')")
            return mosquitto.poll() is not None

        wait_for(has_seen, LIMIT, "mosquitto_sub to see a message")
        assert mosquitto.stdout is not None
        assert mosquitto.stdout.read() == "seen\n"


def test_a_failure_is_that_of_publish(mqtt_session: Session) -> None:
    error = mqtt_session.error("SELECT amqp.publish_mqtt(9, 'a', 'x')")
    assert (error.sqlstate, error.message) == ("42704", "amqp: broker 9 does not exist")
    error = mqtt_session.error("SELECT amqp.publish_mqtt(1, 'a', 'x', exchange => 'none')")
    assert error.sqlstate == "42704"


def test_what_is_wrong_with_a_topic_is_no_warning(mqtt_session: Session) -> None:
    mqtt_session.set(on_failure="warn")
    for parameters in (
        "'a.b', 'x'",
        "NULL, 'x'",
        "'a', 'x', qos => 2",
        "'a', 'x', expiration => 'soon', retain => true",
    ):
        error = mqtt_session.error(f"SELECT amqp.publish_mqtt(1, {parameters})")
        assert error.sqlstate in ("22004", "22023")
    assert mqtt_session.warnings() == []
