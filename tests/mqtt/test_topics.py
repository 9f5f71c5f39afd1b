"""Topics and routing keys: what goes from one to the other, and what does not."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from support.sessions import Session, open_session

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session that all tests here share: nothing is written."""
    postgres = request.getfixturevalue("postgres")
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE mqtt_topics TEMPLATE template_amqp")
        with open_session(postgres.dsn("mqtt_topics")) as session:
            session.set(capture="on")
            yield session
        admin.execute("DROP DATABASE mqtt_topics WITH (FORCE)")


@pytest.mark.parametrize(
    ("topic_filter", "key"),
    [
        ("dev/7/temp", "dev.7.temp"),
        ("dev/+/temp", "dev.*.temp"),
        ("dev/#", "dev.#"),
        ("#", "#"),
        ("+", "*"),
        ("+/+/#", "*.*.#"),
        ("a b/ü/😀/$x/%2F", "a b.ü.😀.$x.%2F"),
        ("x" * 255, "x" * 255),
        (None, None),
    ],
)
def test_filters_become_keys_and_come_back(
    session: Session, topic_filter: str | None, key: str | None
) -> None:
    assert session.value("SELECT amqp.mqtt_key(%s)", topic_filter) == key
    assert session.value("SELECT amqp.mqtt_topic(%s)", key) == topic_filter


@pytest.mark.parametrize(
    ("topic_filter", "reason"),
    [
        ("", "It is empty."),
        ("x" * 256, "It has 256 bytes, and the routing key that it becomes may have 255."),
        ("ü" * 128, "It has 256 bytes, and the routing key that it becomes may have 255."),
        ("dev/*/temp", 'In AMQP, "*" is the wildcard that MQTT writes as "+".'),
        ("dev/1.5/temp", "In AMQP, a dot ends a level: MQTT clients would see a slash"),
        ("/dev", "It has an empty level."),
        ("dev/", "It has an empty level."),
        ("dev//temp", "It has an empty level."),
        ("/", "It has an empty level."),
        ("dev/#/temp", 'A wildcard is a whole level, and "#" is the last one.'),
        ("dev/7+", "A wildcard is a whole level"),
        ("dev/+7/x", "A wildcard is a whole level"),
        ("++", "A wildcard is a whole level"),
        ("dev#", "A wildcard is a whole level"),
        ("##", "A wildcard is a whole level"),
    ],
)
def test_filters_that_would_not_come_back_are_refused(
    session: Session, topic_filter: str, reason: str
) -> None:
    error = session.error("SELECT amqp.mqtt_key(%s)", topic_filter)
    assert (error.sqlstate, error.message[:27]) == ("22023", 'invalid MQTT topic filter "')
    assert error.detail.startswith(reason)
    assert "dev/+/temp" in error.hint


@pytest.mark.parametrize("call", ["publish_mqtt", "publish_outbox_mqtt"])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("", "It is empty."),
        ("x" * 256, "It has 256 bytes"),
        ("dev/+/temp", 'The wildcards "+" and "#" are for subscribers.'),
        ("dev/#", 'The wildcards "+" and "#" are for subscribers.'),
        ("c++/x", 'The wildcards "+" and "#" are for subscribers.'),
        ("dev/*/temp", 'In AMQP, "*"'),
        ("dev/1.5/temp", "In AMQP, a dot ends a level"),
        ("dev//temp", "It has an empty level."),
        ("/dev", "It has an empty level."),
        ("dev/", "It has an empty level."),
    ],
)
def test_topics_that_would_not_come_back_are_refused(
    session: Session, call: str, retain: bool, topic: str, reason: str
) -> None:
    query = f"SELECT amqp.{call}(1, %s, 'x', retain => %s)"
    error = session.error(query, topic, retain)
    assert (error.sqlstate, error.message[:20]) == ("22023", 'invalid MQTT topic "')
    assert error.detail.startswith(reason)
    assert "dev/7/temp" in error.hint


def test_other_parameters_are_checked(session: Session) -> None:
    def error(parameters: str) -> tuple[str, str, str]:
        report = session.error(f"SELECT amqp.publish_mqtt(1, {parameters})")
        return report.sqlstate, report.message, report.detail

    assert error("NULL, 'x'") == ("22004", "topic must not be null", "")
    no_qos = "RabbitMQ has QoS 0 and 1 alone."
    assert error("'a', 'x', qos => 2") == ("22023", "invalid value for qos: 2", no_qos)
    assert error("'a', 'x', qos => -1")[:2] == ("22023", "invalid value for qos: -1")
    assert error("'a', 'x', response_topic => 'a.b'")[0] == "22023"
    assert error("'a', 'x', headers => '[]'")[0] == "22023"
    assert error("'a', 'x', expiration => 'soon'")[0] == "22023"
    assert error("'a', 'x', correlation_id => repeat('x', 256)")[0] == "22001"


def test_any_filter_comes_back_or_is_refused(session: Session) -> None:
    """What RabbitMQ makes of it, there and back, is the same."""
    choose = random.Random(7)
    come_back = 0
    for _ in range(2000):
        topic_filter = "".join(choose.choice("ab/+#.*é/") for _ in range(choose.randint(1, 6)))
        there = topic_filter.replace("/", ".").replace("+", "*")
        back = there.replace("*", "+").replace(".", "/")
        levels = topic_filter.split("/")
        sound = (
            back == topic_filter
            and all(levels)
            and all(level in ("+", "#") or not {*level} & {*"+#"} for level in levels)
            and "#" not in levels[:-1]
        )
        if sound:
            come_back += 1
            assert session.value("SELECT amqp.mqtt_key(%s)", topic_filter) == there
            assert session.value("SELECT amqp.mqtt_topic(%s)", there) == topic_filter
        else:
            assert session.error("SELECT amqp.mqtt_key(%s)", topic_filter).sqlstate == "22023"
    assert come_back > 100


def test_nothing_is_loaded_for_a_good_topic(session: Session) -> None:
    """PL/pgSQL is loaded for what is wrong alone."""
    with open_session(session.info.dsn) as fresh:
        # The library registers its settings when it is loaded.
        loaded = "SELECT EXISTS (SELECT FROM pg_settings WHERE name LIKE 'plpgsql.%')"
        assert fresh.value("SELECT amqp.mqtt_key('a/+')") == "a.*"
        assert fresh.value(loaded) is False
        fresh.error("SELECT amqp.mqtt_key('a.b')")
        assert fresh.value(loaded) is True


# ---- What is in the outbox ----


def test_what_is_captured_is_not_stored(session: Session) -> None:
    session.run("BEGIN")
    assert session.value("SELECT amqp.publish_mqtt(1, 'a/b', 'x', retain => true)") is True
    shown = session.run("SELECT exchange, routing_key, message, delivery_mode FROM amqp.pending()")
    assert shown == [("amq.topic", "a.b", "x", 2)]
    assert session.value("SELECT count(*) FROM amqp.outbox") == 0
    session.run("ROLLBACK")


def test_each_type_of_message_and_each_property(session: Session) -> None:
    calls = [
        "'k', 'ü', content_type => 'text/plain'",
        "'k', '{\"a\": 1}'::jsonb",
        "'k', '\\x00ff'::bytea, qos => 0",
        "'k', '', response_topic => 'answers/7', headers => '{\"a\": 1}', correlation_id => 'c',"
        " expiration => '1500', exchange => 'mqtt'",
    ]
    columns = "exchange, body, delivery_mode, content_type, correlation_id, headers, expiration"
    expected = [
        ("amq.topic", "ü".encode(), 2, "text/plain", None, None, None),
        ("amq.topic", b'{"a": 1}', 2, "application/json", None, None, None),
        ("amq.topic", b"\0\xff", 1, None, None, None, None),
        ("mqtt", b"", 2, None, "c", {"a": 1, "x-reply-to-topic": "answers.7"}, "1500"),
    ]
    for call, row in zip(calls, expected, strict=True):
        for name, table in (("publish_mqtt", "pending()"), ("publish_outbox_mqtt", "outbox")):
            session.run("BEGIN")
            session.run(f"SELECT amqp.{name}(1, {call})")
            assert session.run(f"SELECT {columns} FROM amqp.{table}") == [row]
            session.run("ROLLBACK")


@pytest.mark.parametrize(
    ("columns", "sqlstate", "words"),
    [
        ({"ordering_key": "k"}, "22023", "a retained message cannot have an ordering_key"),
        ({"mandatory": True}, "22023", "a retained message cannot have mandatory"),
        ({"routing_key": "a/b"}, "22023", 'invalid MQTT topic "a.b"'),
        ({"routing_key": "a.*"}, "22023", 'invalid MQTT topic "a/+"'),
        ({"routing_key": "a.#"}, "22023", 'invalid MQTT topic "a/#"'),
        ({"routing_key": ""}, "22023", 'invalid MQTT topic ""'),
        ({"routing_key": "a..b"}, "22023", 'invalid MQTT topic "a//b"'),
        ({"priority": 300}, "22023", "invalid value for priority: 300"),
    ],
)
def test_the_table_refuses_what_could_not_be_retained(
    session: Session, columns: dict[str, object], sqlstate: str, words: str
) -> None:
    given = {"broker_id": 1, "routing_key": "a.b", "retain": True, **columns}
    query = "INSERT INTO amqp.outbox ({}) VALUES ({})".format(
        ", ".join(given), ", ".join(["%s"] * len(given))
    )
    error = session.error(query, *given.values())
    assert (error.sqlstate, error.message) == (sqlstate, words)


def test_everybody_who_may_publish_may_retain(session: Session) -> None:
    session.run("BEGIN")
    session.run("CREATE ROLE device_owner")
    session.run("GRANT USAGE ON SCHEMA amqp TO device_owner")
    session.run("SET LOCAL ROLE device_owner")
    assert session.value("SELECT amqp.publish_outbox_mqtt(1, 'a', 'x', retain => true) > 0") is True
    session.run("ROLLBACK")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("mqtt_port) VALUES ('h', 0", "mqtt_port must be between 1 and 65535"),
        ("mqtt_port) VALUES ('h', 65536", "mqtt_port must be between 1 and 65535"),
        ("ssl_cacert, mqtt_ssl) VALUES ('h', '/ca.pem', false", "ssl_cacert and ssl_cert need ssl"),
    ],
)
def test_a_broker_that_cannot_work_is_refused(session: Session, columns: str, words: str) -> None:
    error = session.error(f"INSERT INTO amqp.broker (host, {columns})")
    assert error.sqlstate == "23514"
    assert error.message == f'invalid row for table "amqp.broker": {words}'


def test_a_broker_may_have_tls_for_mqtt_alone(session: Session) -> None:
    session.run("BEGIN")
    session.run(
        "INSERT INTO amqp.broker (host, mqtt_ssl, mqtt_port, ssl_cacert, ssl_cert)"
        " VALUES ('h', true, 8884, '/ca.pem', '/cert.pem')"
    )
    session.run("ROLLBACK")
