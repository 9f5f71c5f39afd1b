"""Retained messages while MQTT, RabbitMQ, PostgreSQL or the relay fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from servers.certificates import Certificates
from servers.management import Management
from servers.postgres import PostgreSQL
from servers.processes import free_port, wait_for
from servers.proxy import CuttingProxy, Direction
from servers.rabbitmq import RabbitMQ
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.health import WatchedRelay
from support.mqtt import retained, subscriber
from support.outbox import (
    hurry,
    in_outbox,
    put,
    status,
    wait_until_dead,
    wait_until_empty,
    wait_until_refused,
)
from support.patience import LIMIT
from support.sessions import Session, open_session


def keep(session: Session, topic: str, text: str) -> int:
    """Publish a message that is to be retained; its id."""
    query = "SELECT amqp.publish_outbox_mqtt(1, %s, %s, retain => true)"
    number: int = session.value(query, topic, text)
    return number


def wait_for_trouble(session: Session, words: str) -> None:
    """Wait until outbox_status() tells of it."""
    wait_for(lambda: words in (status(session)["trouble"] or ""), LIMIT, f"the trouble {words}")


def wait_for_no_trouble(session: Session) -> None:
    wait_for(lambda: status(session)["trouble"] is None, LIMIT, "the end of the trouble")


# ---- MQTT is away ----


def test_amqp_goes_on_while_nobody_listens_for_mqtt(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    """As with a plugin that is not enabled."""
    mqtt_session.run("UPDATE amqp.broker SET mqtt_port = %s", free_port())
    kept = keep(mqtt_session, "a", "kept")
    with subscriber(broker, "#") as client, RelayProcess(database) as relay:
        wait_for_trouble(mqtt_session, "by MQTT: connection refused")
        for number in range(20):
            put(mqtt_session, str(number), routing_key="amqp")
        client.wait_for_seen(20)
        wait_for(
            lambda: in_outbox(mqtt_session) == [(kept,)], LIMIT, "what goes by AMQP to be settled"
        )
        # What was delivered by AMQP does not end the trouble.
        assert "connection refused" in (status(mqtt_session)["trouble"] or "")
        assert len(relay.events("retained messages wait")) == 1
        mqtt_session.run("UPDATE amqp.broker SET mqtt_port = %s", broker.rabbitmq.mqtt_port)
        wait_until_empty(mqtt_session)
        wait_for_no_trouble(mqtt_session)
    assert retained(broker, "a") == "kept"


def test_once_fails_where_mqtt_is_away(database: str, mqtt_session: Session) -> None:
    mqtt_session.run("UPDATE amqp.broker SET mqtt_port = %s", free_port())
    put(mqtt_session, "amqp")
    kept = keep(mqtt_session, "a", "kept")
    with RelayProcess(database, "--once") as relay:
        assert relay.wait() == 1
        assert "by MQTT: connection refused" in relay.events("not drained")[0]["error"]
    assert in_outbox(mqtt_session) == [(kept,)]


def test_health_and_metrics_tell_of_it(database: str, mqtt_session: Session) -> None:
    port = mqtt_session.value("SELECT mqtt_port FROM amqp.broker")
    mqtt_session.run("UPDATE amqp.broker SET mqtt_port = %s", free_port())
    keep(mqtt_session, "a", "kept")
    with WatchedRelay(database) as relay:
        wait_for(
            lambda: "by MQTT" in relay.health(503)["brokers"].get("1", ""), LIMIT, "the trouble"
        )
        pending = 'pg_amqp_retained_pending{broker_id="1"}'
        wait_for(lambda: relay.metric(pending) == 1, LIMIT, "the metric")
        mqtt_session.run("UPDATE amqp.broker SET mqtt_port = %s", port)
        relay.health(200)
        published = 'pg_amqp_retained_published_total{broker_id="1"}'
        wait_for(lambda: relay.metric(published) == 1, LIMIT, "the metric")


@pytest.fixture
def without_paho(tmp_path: Path) -> dict[str, str]:
    """An environment in which paho-mqtt is not installed."""
    package = tmp_path / "paho"
    package.mkdir()
    (package / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'paho'\", name='paho')\n"
    )
    return {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}


def test_without_paho_it_says_what_to_install(
    database: str, mqtt_session: Session, broker: VHost, without_paho: dict[str, str]
) -> None:
    kept = keep(mqtt_session, "a", "kept")
    with subscriber(broker, "#") as client, RelayProcess(database, env=without_paho) as relay:
        wait_for_trouble(mqtt_session, "pip install '.[mqtt]'")
        put(mqtt_session, "amqp")
        client.wait_for_seen(1)
        wait_for(lambda: in_outbox(mqtt_session) == [(kept,)], LIMIT, "AMQP to go on")
        (said,) = relay.events("retained messages wait")
        assert (
            said["error"]
            == "paho-mqtt is not installed; in a clone of the project: pip install '.[mqtt]'"
        )
    with RelayProcess(database):
        wait_until_empty(mqtt_session)


def test_who_retains_nothing_needs_no_paho(
    database: str, mqtt_session: Session, without_paho: dict[str, str]
) -> None:
    put(mqtt_session, "amqp")
    with RelayProcess(database, "--once", env=without_paho) as relay:
        assert relay.wait() == 0
        assert relay.events("retained messages wait") == []


# ---- The login ----


def test_a_wrong_password(
    database: str, mqtt_session: Session, broker: VHost, management: Management
) -> None:
    management.create_user("device", "secret")
    management.grant(broker.vhost, "device")
    mqtt_session.run("UPDATE amqp.broker SET username = 'device', password = 'wrong-word'")
    keep(mqtt_session, "a", "kept")
    with RelayProcess(database) as relay:
        wait_for(lambda: relay.events("retained messages wait"), LIMIT, "the refusal")
        (said,) = relay.events("retained messages wait")
        assert "the broker refuses the login" in said["error"]
        mqtt_session.run("UPDATE amqp.broker SET password = 'secret'")
        wait_until_empty(mqtt_session)
        assert "wrong-word" not in relay.log_text()
    assert retained(broker, "a") == "kept"
    management.delete_user("device")


def test_a_user_with_a_colon_cannot_log_in(database: str, mqtt_session: Session) -> None:
    mqtt_session.run("UPDATE amqp.broker SET username = 'a:b'")
    keep(mqtt_session, "a", "kept")
    with RelayProcess(database) as relay:
        said = relay.wait_for_event("retained messages wait")["error"]
    assert said.endswith('by MQTT: user "a:b" has a colon, and cannot log in')


# ---- TLS ----


def use_tls(session: Session, broker: VHost, **columns: object) -> None:
    """Let broker 1 have TLS for MQTT alone."""
    given = {"mqtt_ssl": True, "mqtt_port": broker.rabbitmq.mqtts_port, **columns}
    sets = ", ".join(f"{name} = %s" for name in given)
    session.run(f"UPDATE amqp.broker SET {sets}", *given.values())


def test_tls(
    database: str, mqtt_session: Session, broker: VHost, certificates: Certificates
) -> None:
    use_tls(mqtt_session, broker, ssl_cacert=str(certificates.other_ca))
    keep(mqtt_session, "a", "kept")
    with RelayProcess(database) as relay:
        wait_for_trouble(mqtt_session, "certificate verify failed")
        use_tls(mqtt_session, broker, ssl_cacert=str(certificates.ca))
        wait_until_empty(mqtt_session)
        for body in ("x" * 3_000_000, "kept"):
            keep(mqtt_session, "a", body)
        wait_until_empty(mqtt_session)
        assert relay.events("MQTT failed") == []
    assert retained(broker, "a") == "kept"


def test_tls_where_nobody_speaks_it(
    database: str, mqtt_session: Session, broker: VHost, certificates: Certificates
) -> None:
    port = broker.rabbitmq.mqtt_port
    use_tls(mqtt_session, broker, mqtt_port=port, ssl_cacert=str(certificates.ca))
    keep(mqtt_session, "a", "kept")
    with RelayProcess(database):
        wait_for_trouble(mqtt_session, "by MQTT: ")
        assert len(in_outbox(mqtt_session)) == 1


# ---- What RabbitMQ does not take ----


@pytest.fixture
def limited(mqtt_session: Session, broker: VHost, management: Management) -> Iterator[None]:
    """The relay's user may publish to topics below allowed/ alone."""
    management.create_user("limited", "secret")
    management.grant(broker.vhost, "limited")
    permissions = {"exchange": "amq.topic", "write": r"^allowed\..*", "read": ".*"}
    management.request("PUT", "topic-permissions", broker.vhost, "limited", body=permissions)
    mqtt_session.run("UPDATE amqp.broker SET username = 'limited', password = 'secret'")
    yield
    management.delete_user("limited")


def test_a_topic_that_is_forbidden_does_not_stop_the_others(
    limited: None, database: str, mqtt_session: Session, broker: VHost
) -> None:
    for number in range(10):
        keep(mqtt_session, f"allowed/{number}", "1")
    forbidden = keep(mqtt_session, "forbidden/1", "1")
    behind = keep(mqtt_session, "forbidden/1", "2")
    for number in range(10, 20):
        keep(mqtt_session, f"allowed/{number}", "1")
    with RelayProcess(database) as relay:
        wait_for(lambda: len(in_outbox(mqtt_session)) == 2, LIMIT, "the others to be delivered")
        wait_until_refused(mqtt_session, forbidden)
        assert in_outbox(mqtt_session, "id, attempts > 0") == [(forbidden, True), (behind, False)]
        ((error,),) = in_outbox(mqtt_session, "last_error", f"id = {forbidden}")
        assert "closed the connection" in error
        mqtt_session.run("UPDATE amqp.outbox SET attempts = 9 WHERE id = %s", forbidden)
        hurry(mqtt_session)
        wait_until_dead(mqtt_session, forbidden)
        assert relay.events("MQTT failed") == []
    assert retained(broker, "allowed/19") == "1"
    assert mqtt_session.value("SELECT amqp.discard_dead_letters()") == 1


def test_many_that_wait_do_not_keep_others_from_being_found(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    mqtt_session.run(
        "INSERT INTO amqp.outbox (broker_id, routing_key, retain, next_attempt_at)"
        " SELECT 1, 'waits.' || n, true, '2090-01-01' FROM generate_series(1, 3000) AS n"
    )
    keep(mqtt_session, "a", "kept")
    with RelayProcess(database):
        waiting = "next_attempt_at IS NULL"
        wait_for(lambda: not in_outbox(mqtt_session, "id", waiting), LIMIT, "what is due to go")
    assert retained(broker, "a") == "kept"


# ---- Something dies ----


def count_seen(session: Session, topics: int) -> None:
    """Publish one message to each of so many topics."""
    session.run(
        "SELECT amqp.publish_outbox_mqtt(1, 't/' || n, n::text, retain => true)"
        " FROM generate_series(1, %s) AS n",
        topics,
    )


@pytest.mark.slow
@pytest.mark.parametrize("end", [RabbitMQ.stop, RabbitMQ.kill])
def test_rabbitmq_goes_and_comes_back(
    database: str, mqtt_session: Session, broker: VHost, end: Callable[[RabbitMQ], None]
) -> None:
    broker.rabbitmq.write_down()
    with RelayProcess(database):
        count_seen(mqtt_session, 3000)
        wait_for(
            lambda: mqtt_session.value("SELECT count(*) < 2500 FROM amqp.outbox"), LIMIT, "some"
        )
        end(broker.rabbitmq)
        count_seen(mqtt_session, 10)
        broker.rabbitmq.start()
        wait_until_empty(mqtt_session)
    assert retained(broker, "t/10") == "10"
    if end is RabbitMQ.stop:
        # After a crash, what was acknowledged a moment before it may be forgotten.
        assert retained(broker, "t/3000") == "3000"
    assert mqtt_session.value("SELECT count(*) FROM amqp.dead_letters") == 0


def test_connections_that_break_lose_nothing(
    database: str, mqtt_session: Session, broker: VHost, mqtt_proxy: CuttingProxy
) -> None:
    mqtt_session.run("UPDATE amqp.broker SET mqtt_port = %s", mqtt_proxy.port)
    with subscriber(broker, "t/#") as client, RelayProcess(database):
        for count, direction in (
            (3000, Direction.TO_SERVER),
            (200, Direction.TO_CLIENT),
            (4001, Direction.TO_SERVER),
        ):
            before = mqtt_proxy.connections
            mqtt_proxy.cut_after(count, direction)
            count_seen(mqtt_session, 500)
            wait_for(lambda: mqtt_proxy.connections > before, LIMIT, "another connection")  # noqa: B023
            wait_until_empty(mqtt_session)
        wait_for(lambda: len({one.topic for one in client.seen}) == 500, LIMIT, "all topics")
    assert mqtt_session.value("SELECT count(*) FROM amqp.dead_letters") == 0
    assert len(client.seen) >= 1500


@pytest.mark.slow
def test_a_silent_network_is_noticed(
    database: str, mqtt_session: Session, broker: VHost, mqtt_proxy: CuttingProxy
) -> None:
    mqtt_session.run("UPDATE amqp.broker SET mqtt_port = %s", mqtt_proxy.port)
    with subscriber(broker, "#") as client, RelayProcess(database) as relay:
        keep(mqtt_session, "a", "1")
        wait_until_empty(mqtt_session)
        mqtt_proxy.stall()
        keep(mqtt_session, "a", "2")
        put(mqtt_session, "amqp", routing_key="b")
        client.wait_for_seen(2)
        relay.wait_for_event("connection to broker by MQTT lost")
        mqtt_proxy.pass_all()
        hurry(mqtt_session)
        wait_until_empty(mqtt_session)
    assert retained(broker, "a") == "2"


def test_what_was_published_and_not_settled_comes_again(
    database: str, mqtt_session: Session, broker: VHost
) -> None:
    """The relay is killed between PUBACK and commit."""
    kept = keep(mqtt_session, "a", "1")
    with (
        subscriber(broker, "a") as client,
        open_session(database, autocommit=False) as other,
    ):
        other.run("SELECT FROM amqp.outbox WHERE id = %s FOR UPDATE", kept)
        with RelayProcess(database) as relay:
            client.wait_for_seen(1)
            relay.kill()
        other.rollback()
        with RelayProcess(database):
            client.wait_for_seen(2)
            wait_until_empty(mqtt_session)
    assert [one.text for one in client.seen] == ["1", "1"]


def test_postgres_goes_and_comes_back(
    database: str, mqtt_session: Session, broker: VHost, postgres: PostgreSQL
) -> None:
    with (
        CuttingProxy(postgres.port) as proxy,
        RelayProcess(make_conninfo(database, host="127.0.0.1", port=proxy.port)) as relay,
    ):
        keep(mqtt_session, "a", "1")
        wait_until_empty(mqtt_session)
        proxy.refuse()
        proxy.reset()
        relay.wait_for_event("database not usable")
        keep(mqtt_session, "a", "2")
        proxy.pass_all()
        wait_until_empty(mqtt_session)
    assert retained(broker, "a") == "2"


def test_sigterm_ends_it_while_mqtt_is_silent(
    database: str, mqtt_session: Session, mqtt_proxy: CuttingProxy
) -> None:
    mqtt_session.run("UPDATE amqp.broker SET mqtt_port = %s", mqtt_proxy.port)
    with RelayProcess(database) as relay:
        keep(mqtt_session, "a", "1")
        wait_until_empty(mqtt_session)
        mqtt_proxy.stall()
        kept = keep(mqtt_session, "a", "2")
        pending = mqtt_proxy.bytes_to_server
        wait_for(lambda: mqtt_proxy.bytes_to_server >= pending, LIMIT, "something to be written")
        assert relay.terminate(20) == 0
    assert in_outbox(mqtt_session) == [(kept,)]
