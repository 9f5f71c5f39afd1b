"""Retained messages: from the outbox to RabbitMQ's store, by the relay."""

from __future__ import annotations

import json

from psycopg.conninfo import conninfo_to_dict

from servers.management import Management
from servers.processes import wait_for
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.messages import Inbox
from support.mqtt import MqttClient, retained, subscriber
from support.outbox import (
    dead,
    in_outbox,
    put,
    status,
    wait_until_dead,
    wait_until_empty,
)
from support.patience import LIMIT
from support.queues import open_channel
from support.sessions import Session, open_session

RETAIN = "SELECT amqp.publish_outbox_mqtt(1, %s, %s, retain => true)"


def keep(session: Session, topic: str, text: str) -> int:
    """Publish a message that is to be retained; its id."""
    number: int = session.value(RETAIN, topic, text)
    return number


def test_whoever_subscribes_later_sees_it(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    with RelayProcess(database):
        mqtt_session.run("SELECT amqp.publish_mqtt(1, 'shop/status', 'open', retain => true)")
        wait_until_empty(mqtt_session)
        assert retained(broker, "shop/status") == "open"


def test_whoever_is_subscribed_sees_it_once(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    with subscriber(broker, "shop/#") as client, RelayProcess(database):
        keep(mqtt_session, "shop/status", "open")
        wait_until_empty(mqtt_session)
        mqtt_session.run("SELECT amqp.publish_mqtt(1, 'shop/status', 'the end')")
        client.wait_for_seen(2)
    assert [(one.text, one.retained) for one in client.seen] == [
        ("open", False),
        ("the end", False),
    ]


def test_it_is_kept_with_the_transaction_and_over_a_restart_of_everything(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    """Between commit and relay, and behind it."""
    mqtt_session.run("BEGIN")
    keep(mqtt_session, "shop/status", "rolled back")
    mqtt_session.run("ROLLBACK")
    keep(mqtt_session, "shop/status", "open")
    broker.rabbitmq.restart()
    with RelayProcess(database):
        wait_until_empty(mqtt_session)
    broker.rabbitmq.restart()
    assert retained(broker, "shop/status") == "open"


def test_an_empty_one_clears_what_is_kept(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    with RelayProcess(database):
        keep(mqtt_session, "shop/status", "open")
        wait_until_empty(mqtt_session)
        assert retained(broker, "shop/status") == "open"
        keep(mqtt_session, "shop/status", "")
        wait_until_empty(mqtt_session)
        assert retained(broker, "shop/status") is None


def test_of_a_topic_the_last_one_stays(database: str, mqtt_session: Session, broker: VHost) -> None:
    with subscriber(broker, "count/#") as client:
        for number in range(300):
            keep(mqtt_session, f"count/{number % 3}", str(number))
        with RelayProcess(database):
            wait_until_empty(mqtt_session)
            client.wait_for_seen(300)
    for topic in range(3):
        seen = [int(one.text) for one in client.seen if one.topic == f"count/{topic}"]
        assert seen == list(range(topic, 300, 3))
        assert retained(broker, f"count/{topic}") == str(297 + topic)


def test_hostile_topics_are_kept_exactly(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    topics = ["a b/c", "ü/😀", "%2F/%2e", "x" * 255, "$x", "'\"\\", "a\nb"]
    with RelayProcess(database):
        for topic in topics:
            keep(mqtt_session, topic, topic)
        wait_until_empty(mqtt_session)
    for topic in topics:
        assert retained(broker, topic) == topic


def test_its_body_may_be_anything(database: str, mqtt_session: Session, broker: VHost) -> None:
    with open_channel(broker.url()) as channel:
        inbox = Inbox(channel)
        with RelayProcess(database):
            bodies = [b"\0\xff\xfe", b"x" * (8 << 20), b"y" * (3 << 20), b""]
            for body in bodies:
                mqtt_session.run(
                    "SELECT amqp.publish_outbox_mqtt(1, 'b', %b, retain => true)", body
                )
            wait_until_empty(mqtt_session)
        assert [message.body for message in inbox.drain()] == bodies


# ---- Beside what goes by AMQP ----


def test_what_is_not_retained_goes_by_amqp_from_the_same_outbox(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    with subscriber(broker, "#") as client, RelayProcess(database):
        mqtt_session.run("SELECT amqp.publish_outbox_mqtt(1, 'a/b', 'once', retain => false)")
        put(mqtt_session, "amqp", routing_key="c.d")
        keep(mqtt_session, "e/f", "kept")
        client.wait_for_seen(3)
    assert sorted((one.topic, one.text) for one in client.seen) == [
        ("a/b", "once"),
        ("c/d", "amqp"),
        ("e/f", "kept"),
    ]
    assert retained(broker, "a/b") is None


def test_a_batch_leaves_it_to_the_relay(mqtt_session: Session, broker: VHost) -> None:
    keep(mqtt_session, "shop/status", "open")
    put(mqtt_session, "amqp")
    with subscriber(broker, "#") as client:
        assert mqtt_session.value("SELECT amqp.publish_outbox_batch()") == 1
        assert mqtt_session.value("SELECT amqp.publish_outbox_batch(1)") == 0
        client.wait_for_seen(1)
    assert in_outbox(mqtt_session, "retain") == [(True,)]


def test_on_failure_outbox_does_not_wait_for_it(mqtt_session: Session, broker: VHost) -> None:
    keep(mqtt_session, "shop/status", "open")
    mqtt_session.set(on_failure="outbox")
    with subscriber(broker, "#") as client:
        mqtt_session.run("SELECT amqp.publish_mqtt(1, 'a', 'at once')")
        client.wait_for_seen(1)
    assert len(in_outbox(mqtt_session)) == 1


def test_without_a_relay_the_status_says_so(mqtt_session: Session) -> None:
    keep(mqtt_session, "shop/status", "open")
    assert (status(mqtt_session)["pending"], status(mqtt_session)["retained"]) == (1, 1)
    assert status(mqtt_session)["trouble"] is None
    mqtt_session.run("UPDATE amqp.outbox SET created_at = now() - interval '2 minutes'")
    assert status(mqtt_session)["trouble"] == "messages are due and no relay works them"


def test_once_delivers_it_and_ends(database: str, mqtt_session: Session, broker: VHost) -> None:
    put(mqtt_session, "amqp")
    keep(mqtt_session, "a", "kept")
    keep(mqtt_session, "b", "later")
    mqtt_session.run(
        "UPDATE amqp.outbox SET next_attempt_at = '2090-01-01' WHERE routing_key = 'b'"
    )
    with RelayProcess(database, "--once") as relay:
        assert relay.wait() == 0
    assert in_outbox(mqtt_session, "routing_key") == [("b",)]
    assert retained(broker, "a") == "kept"
    with RelayProcess(database, "--once") as relay:
        assert relay.wait() == 0


def test_two_relays_share_one_lock(database: str, mqtt_session: Session, broker: VHost) -> None:
    with subscriber(broker, "#") as client, RelayProcess(database) as first:
        first.wait_for_event("working the outbox")
        with RelayProcess(database) as second:
            second.wait_for_event("standing by: another relay works this outbox")
            keep(mqtt_session, "a", "1")
            wait_until_empty(mqtt_session)
            first.kill()
            keep(mqtt_session, "a", "2")
            wait_until_empty(mqtt_session)
        client.wait_for_seen(2)
    assert [one.text for one in client.seen] == ["1", "2"]
    assert retained(broker, "a") == "2"


def test_what_waits_holds_back_its_topic_alone(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    first = keep(mqtt_session, "a", "1")
    mqtt_session.run("UPDATE amqp.outbox SET next_attempt_at = '2090-01-01' WHERE id = %s", first)
    keep(mqtt_session, "a", "2")
    keep(mqtt_session, "b", "3")
    with RelayProcess(database):
        left = "SELECT count(*) FROM amqp.outbox WHERE routing_key = 'b'"
        wait_for(lambda: mqtt_session.value(left) == 0, LIMIT, "the other topic's to be delivered")
        assert retained(broker, "b") == "3"
        assert retained(broker, "a") is None
        mqtt_session.run("UPDATE amqp.outbox SET next_attempt_at = NULL WHERE id = %s", first)
        wait_until_empty(mqtt_session)
    assert retained(broker, "a") == "2"


def test_what_somebody_has_locked_is_published_once(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    locked = keep(mqtt_session, "a", "1")
    with (
        subscriber(broker, "#") as client,
        open_session(database, autocommit=False) as other,
    ):
        other.run("SELECT FROM amqp.outbox WHERE id = %s FOR UPDATE", locked)
        with RelayProcess(database):
            client.wait_for_seen(1)
            keep(mqtt_session, "b", "2")
            client.wait_for_seen(2)
            trouble = "1 delivered messages are locked by another session"
            wait_for(
                lambda: status(mqtt_session)["trouble"] == trouble, LIMIT, "the lock to be told"
            )
            other.rollback()
            wait_until_empty(mqtt_session)
    assert [one.text for one in client.seen] == ["1", "2"]


def test_a_dead_letter_keeps_what_it_is(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    number = keep(mqtt_session, "a", "1")
    mqtt_session.run('UPDATE amqp.outbox SET headers = \'{"k": "v"}\'')
    mqtt_session.run(
        "SELECT amqp_inner.outbox_settle(1, '{}', '{}', ARRAY[%s::bigint], ARRAY[message_id],"
        " '{invalid}', '{no}') FROM amqp.outbox",
        number,
    )
    wait_until_dead(mqtt_session, number)
    assert dead(mqtt_session, "retain, last_error") == [(True, "no")]
    assert mqtt_session.value("SELECT amqp.retry_dead_letters()") == 1
    assert in_outbox(mqtt_session, "id, retain") == [(number, True)]
    with RelayProcess(database):
        wait_until_empty(mqtt_session)
    assert retained(broker, "a") == "1"


def test_what_was_delivered_is_kept_if_that_is_set(database: str, mqtt_session: Session) -> None:
    name = mqtt_session.info.dbname
    mqtt_session.run(f"ALTER DATABASE {name} SET amqp.keep_delivered = '1 day'")
    keep(mqtt_session, "a", "1")
    with RelayProcess(database):
        wait_until_empty(mqtt_session)
    assert mqtt_session.run("SELECT routing_key, retain FROM amqp.outbox_delivered") == [
        ("a", True)
    ]


def test_a_client_of_its_own_name_does_not_end_the_relay(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    with RelayProcess(database) as relay:
        for number in range(3):
            with MqttClient(broker, name="pg-amqp"):
                keep(mqtt_session, "a", str(number))
                wait_until_empty(mqtt_session)
        assert relay.events("connection to broker by MQTT lost") == []


def test_the_broker_shows_whose_connection_it_is(
    database: str, mqtt_session: Session, broker: VHost, management: Management
) -> None:
    with RelayProcess(database) as relay:
        keep(mqtt_session, "a", "x")
        wait_until_empty(mqtt_session)
        name = conninfo_to_dict(database)["dbname"]
        client_id = f"pg-amqp relay {name} on localhost ({relay.pid} on "

        def shown() -> bool:
            # The plugin for management learns of connections a little later; where it shows the id
            # depends on the version.
            return client_id in json.dumps(management.connections(broker.vhost))

        wait_for(shown, LIMIT, "the connection to be shown")
