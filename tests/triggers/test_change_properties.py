"""The fourth argument of amqp.publish_change() and amqp.publish_change_outbox(): properties."""

from __future__ import annotations

import json
from typing import Any

import pytest
from psycopg import errors

from servers.relay import RelayProcess
from support.messages import Inbox
from support.outbox import in_outbox, wait_until_empty
from support.sessions import Session

PROPERTIES = {
    "delivery_mode": 2,
    "headers": {"tenant": 7, "é": [None, "ß"]},
    "type": "change",
    "app_id": "shop",
    "priority": 5,
    "expiration": "60000",
    "mandatory": False,
}
LEVELS = pytest.mark.parametrize("level", ["row", "statement"])
FUNCTIONS = pytest.mark.parametrize("function", ["publish_change", "publish_change_outbox"])


def publish(session: Session, function: str, level: str, template: str, properties: object) -> None:
    """Create the table orders, and publish what is inserted into it."""
    text = properties if isinstance(properties, str) else json.dumps(properties)
    for_each = f"FOR EACH {level}"
    if level == "statement":
        for_each = f"REFERENCING NEW TABLE AS n {for_each}"
    session.execute(
        f"""CREATE TABLE orders (id integer, customer integer);
            CREATE TRIGGER t AFTER INSERT ON orders {for_each}
            EXECUTE FUNCTION amqp.{function}('1', 'amq.topic', '{template}', '{text}')""".encode()
    )


@LEVELS
@FUNCTIONS
def test_all_properties_arrive(
    database: str, session: Session, inbox: Inbox, function: str, level: str
) -> None:
    publish(session, function, level, "new.{new.id}", PROPERTIES)
    session.execute("INSERT INTO orders VALUES (1, 7), (2, 8)")
    if function == "publish_change_outbox":
        with RelayProcess(database):
            wait_until_empty(session)
    first, second = inbox.drain()
    assert [first.routing_key, second.routing_key] == ["new.1", "new.2"]
    assert first.json["new"] == {"id": 1, "customer": 7}
    for name, value in PROPERTIES.items():
        if name != "mandatory":
            assert getattr(second.properties, name) == value
    assert first.properties.content_type == "application/json"


@LEVELS
@FUNCTIONS
def test_an_empty_template_is_the_default_routing_key(
    session: Session, function: str, level: str
) -> None:
    publish(session, function, level, "", {"delivery_mode": 1})
    with session.transaction():
        session.execute("SET LOCAL amqp.capture = on")
        session.execute("INSERT INTO orders VALUES (1, 7)")
        table = "amqp.pending()" if function == "publish_change" else "amqp.outbox"
        found = session.execute(f"SELECT routing_key, delivery_mode FROM {table}".encode())
        assert found.fetchall() == [("public.orders.insert", 1)]


@LEVELS
def test_an_ordering_key_is_a_template(session: Session, level: str) -> None:
    properties = {"ordering_key": "customer-{new.customer}", "mandatory": True}
    publish(session, "publish_change_outbox", level, "k", properties)
    session.execute("INSERT INTO orders VALUES (1, 7), (2, 8), (3, NULL)")
    assert in_outbox(session, "ordering_key, mandatory, delivery_mode") == [
        ("customer-7", True, None),
        ("customer-8", True, None),
        ("customer-", True, None),
    ]


@pytest.mark.parametrize("properties", ["{}", '{"headers": null, "type": null, "priority": null}'])
@FUNCTIONS
def test_none_may_be_given(session: Session, function: str, properties: str) -> None:
    publish(session, function, "row", "k", properties)
    with session.transaction():
        session.execute("SET LOCAL amqp.capture = on")
        session.execute("INSERT INTO orders VALUES (1, 7)")
        table = "amqp.pending()" if function == "publish_change" else "amqp.outbox"
        found = session.execute(f"SELECT headers, type, priority FROM {table}".encode())
        assert found.fetchall() == [(None, None, None)]


WRONG: list[tuple[Any, str]] = [
    ({"delivery": 2}, 'unknown property "delivery"'),
    ({"message_id": "1"}, 'unknown property "message_id"'),
    ({"delivery_mode": "2"}, 'invalid value for delivery_mode: "2"'),
    ({"delivery_mode": 2.5}, "invalid value for delivery_mode: 2.5"),
    ({"delivery_mode": 3}, "invalid value for delivery_mode: 3"),
    ({"priority": 256}, "invalid value for priority: 256"),
    ({"priority": True}, "invalid value for priority: true"),
    ({"mandatory": "yes"}, 'invalid value for mandatory: "yes"'),
    ({"headers": []}, "invalid value for headers: []"),
    ({"type": 1}, "invalid value for type: 1"),
    ({"app_id": {}}, "invalid value for app_id: {}"),
    ({"expiration": 60000}, "invalid value for expiration: 60000"),
    ({"expiration": "soon"}, "invalid value for expiration: soon"),
    ([], "properties must be a JSON object"),
    ("null", "properties must be a JSON object"),
    ({"ordering_key": 7}, "unknown property|invalid value for ordering_key: 7"),
]


@pytest.mark.parametrize(("properties", "message"), WRONG)
@LEVELS
@FUNCTIONS
def test_what_makes_no_sense_is_refused(
    session: Session, function: str, level: str, properties: Any, message: str
) -> None:
    publish(session, function, level, "k", properties)
    pattern = message if "|" in message else message.replace("{", r"\{").replace("[", r"\[")
    with pytest.raises(errors.InvalidParameterValue, match=pattern) as raised:
        session.execute("INSERT INTO orders VALUES (1, 7)")
    assert raised.value.diag.message_hint


def test_an_ordering_key_is_for_the_outbox(session: Session) -> None:
    publish(session, "publish_change", "row", "k", {"ordering_key": "a"})
    with pytest.raises(errors.InvalidParameterValue) as raised:
        session.execute("INSERT INTO orders VALUES (1, 7)")
    hint = raised.value.diag.message_hint
    assert hint is not None
    assert "amqp.publish_change_outbox()" in hint
