"""amqp.publish_change_mqtt(): changes of a table to topics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.mqtt import retained, subscriber
from support.outbox import in_outbox, wait_until_empty
from support.sessions import Session, open_session

STATEMENT = {
    "INSERT": "REFERENCING NEW TABLE AS n",
    "UPDATE": "REFERENCING OLD TABLE AS o NEW TABLE AS n",
    "DELETE": "REFERENCING OLD TABLE AS o",
    "TRUNCATE": "",
}


@pytest.fixture
def session(database: str) -> Any:
    """A session with a table, under amqp.capture."""
    with open_session(database) as session:
        session.run("CREATE TABLE devices (id integer PRIMARY KEY, room text, state text)")
        session.set(capture="on")
        yield session


def create_trigger(session: Session, *arguments: str, level: str = "ROW") -> None:
    """Publish all changes, as these arguments of the trigger say."""
    given = ", ".join("'{}'".format(one.replace("'", "''")) for one in arguments)
    call = f"EXECUTE FUNCTION amqp.publish_change_mqtt({given})"
    if level == "ROW":
        session.run(
            f"CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON devices FOR EACH ROW {call}"
        )
        return
    for operation, tables in STATEMENT.items():
        session.run(
            f"CREATE TRIGGER t_{operation} AFTER {operation} ON devices {tables}"
            f" FOR EACH STATEMENT {call}"
        )


def pending(session: Session, *statements: str) -> list[tuple[Any, ...]]:
    """What these statements publish in one transaction."""
    session.run("BEGIN")
    for statement in statements:
        session.run(statement)
    found = session.run(
        "SELECT exchange, routing_key, message::jsonb, delivery_mode, content_type, headers,"
        " expiration FROM amqp.pending()"
    )
    session.run("ROLLBACK")
    return found


CHANGES = (
    "INSERT INTO devices VALUES (1, 'attic', 'on'), (2, 'cellar', 'on')",
    "UPDATE devices SET state = 'off' WHERE id = 1",
    "DELETE FROM devices WHERE id = 2",
)


@pytest.mark.parametrize("level", ["ROW", "STATEMENT"])
def test_the_topic_is_schema_table_and_operation(session: Session, level: str) -> None:
    create_trigger(session, "1", level=level)
    found = pending(session, *CHANGES)
    assert [row[:2] for row in found] == [
        ("amq.topic", "public.devices.insert"),
        ("amq.topic", "public.devices.insert"),
        ("amq.topic", "public.devices.update"),
        ("amq.topic", "public.devices.delete"),
    ]
    assert {row[3:] for row in found} == {(2, "application/json", None, None)}
    message = found[2][2]
    assert message["new"] == {"id": 1, "room": "attic", "state": "off"}
    assert message["old"] == {"id": 1, "room": "attic", "state": "on"}
    assert message["changed"] == ["state"]
    assert {"operation", "schema", "table", "transaction_id", "time"} < message.keys()


@pytest.mark.parametrize("level", ["ROW", "STATEMENT"])
def test_a_template_and_properties(session: Session, level: str) -> None:
    properties = {"qos": 0, "headers": {"a": 1}, "expiration": "60000", "exchange": "mqtt"}
    create_trigger(
        session, "1", "{new.room}/dev-{new.id}/{op}", json.dumps(properties), level=level
    )
    found = pending(session, *CHANGES)
    assert [row[1] for row in found] == [
        "attic.dev-1.insert",
        "cellar.dev-2.insert",
        "attic.dev-1.update",
        "cellar.dev-2.delete",
    ]
    assert {(row[0], row[3], json.dumps(row[5]), row[6]) for row in found} == {
        ("mqtt", 1, '{"a": 1}', "60000")
    }


def test_an_empty_template_is_the_default(session: Session) -> None:
    create_trigger(session, "1", "", '{"qos": null}')
    assert [row[1] for row in pending(session, CHANGES[0])] == ["public.devices.insert"] * 2


@pytest.mark.parametrize("level", ["ROW", "STATEMENT"])
@pytest.mark.parametrize("value", ["a/b", "a.b", "+", "#", "*", "", None])
def test_a_value_that_would_break_the_topic_is_an_error(
    session: Session, value: str | None, level: str
) -> None:
    create_trigger(session, "1", "rooms/{new.room}/{op}", level=level)
    error = session.error("INSERT INTO devices VALUES (1, %s, 'on')", value)
    assert error.sqlstate == "22023"
    assert error.message == 'amqp: cannot make a message of a row of table "public.devices"'
    assert error.detail == (
        f'Table "public.devices", insert: invalid level of an MQTT topic: "{value or ""}".'
        ' The topic template "rooms/{new.room}/{op}" gives it for "{new.room}".'
    )
    assert error.hint == "A level is not empty and has none of / . * + #."


@pytest.mark.parametrize(
    ("arguments", "sqlstate", "words"),
    [
        ((), "22023", "amqp.publish_change_mqtt() takes 1 to 3 arguments, not 0"),
        (("1", "a", "{}", "b"), "22023", "takes 1 to 3 arguments, not 4"),
        (("rooms/{new.room}", "1"), "22P02", 'has "rooms/{new.room}" for a broker_id'),
        (("1", "a/#"), "22023", 'invalid level of an MQTT topic: "#"'),
        (("1", "a//b"), "22023", 'invalid level of an MQTT topic: ""'),
        (("1", "x" * 256), "22023", "invalid MQTT topic"),
        (("1", "{new.none}"), "22023", 'invalid routing key template "{new.none}"'),
        (("1", "a", "[]"), "22023", "properties must be a JSON object"),
        (("1", "a", '{"qos": 2}'), "22023", "invalid value for qos: 2"),
        (("1", "a", '{"qos": "1"}'), "22023", "invalid value for qos"),
        (("1", "a", '{"priority": 1}'), "22023", 'unknown property "priority"'),
        (("1", "a", '{"retain": 1}'), "22023", "invalid value for retain: 1"),
        (("1", "a", "no"), "22P02", "invalid input syntax for type json"),
    ],
)
def test_a_trigger_that_is_defined_wrongly(
    session: Session, arguments: tuple[str, ...], sqlstate: str, words: str
) -> None:
    create_trigger(session, *arguments)
    error = session.error("INSERT INTO devices VALUES (1, 'attic', 'on')")
    assert error.sqlstate == sqlstate
    assert words in error.message + error.detail


def test_a_trigger_before_the_operation_is_refused(session: Session) -> None:
    session.run(
        "CREATE TRIGGER t BEFORE INSERT ON devices FOR EACH ROW"
        " EXECUTE FUNCTION amqp.publish_change_mqtt('1')"
    )
    assert session.error("INSERT INTO devices VALUES (1, 'attic', 'on')").sqlstate == "42P17"


def test_transition_tables_are_needed(session: Session) -> None:
    session.run(
        "CREATE TRIGGER t AFTER INSERT ON devices FOR EACH STATEMENT"
        " EXECUTE FUNCTION amqp.publish_change_mqtt('1')"
    )
    error = session.error("INSERT INTO devices VALUES (1, 'attic', 'on')")
    assert error.sqlstate == "42P17"
    assert "has no transition tables to publish changes from" in error.message


def test_truncate_is_one_message(session: Session) -> None:
    create_trigger(session, "1", level="STATEMENT")
    (found,) = pending(session, "TRUNCATE devices")
    assert found[1] == "public.devices.truncate"
    assert found[2]["new"] is None


def test_who_has_no_usage_publishes_nothing(session: Session) -> None:
    create_trigger(session, "1")
    session.run("BEGIN")
    session.run("CREATE ROLE stranger")
    session.run("GRANT INSERT ON devices TO stranger")
    session.run("SET LOCAL ROLE stranger")
    assert session.error("INSERT INTO devices VALUES (1, 'a', 'on')").sqlstate == "42501"
    session.run("ROLLBACK")


@pytest.mark.parametrize("level", ["ROW", "STATEMENT"])
def test_the_state_of_each_row_is_retained(
    database: str, mqtt_session: Session, broker: VHost, level: str
) -> None:
    mqtt_session.run("CREATE TABLE devices (id integer PRIMARY KEY, room text, state text)")
    create_trigger(mqtt_session, "1", "state/{new.id}", '{"retain": true}', level=level)
    with subscriber(broker, "state/#") as client:
        mqtt_session.run(CHANGES[0])
        mqtt_session.run(CHANGES[1])
        mqtt_session.run("BEGIN")
        mqtt_session.run("UPDATE devices SET state = 'rolled back'")
        mqtt_session.run("ROLLBACK")
        assert in_outbox(mqtt_session, "routing_key, retain, content_type") == [
            ("state.1", True, "application/json"),
            ("state.2", True, "application/json"),
            ("state.1", True, "application/json"),
        ]
        with RelayProcess(database):
            wait_until_empty(mqtt_session)
        assert [one.topic for one in client.wait_for_seen(3)] == ["state/1", "state/2", "state/1"]
    kept = retained(broker, "state/1")
    assert kept is not None
    assert json.loads(kept)["new"]["state"] == "off"
