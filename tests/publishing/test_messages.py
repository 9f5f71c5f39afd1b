"""Messages arrive as they were given: every property, every byte, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

import pytest
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from servers.management import Management
from servers.postgres import PostgreSQL
from support.fix_servers import VHost
from support.messages import Delivery, Inbox
from support.properties import ARRIVED, GIVEN, PROPERTIES
from support.sessions import Session, open_session


def send(session: Session, message: str = "message", /, **properties: object) -> None:
    """Publish to amq.topic, with these properties."""
    call = sql.SQL("SELECT amqp.publish(1, 'amq.topic', 'key', %(message)s{})").format(
        named(properties)
    )
    session.execute(call, {"message": message, **adapted(properties)})


def named(properties: Mapping[str, object]) -> sql.Composed:
    """Return the properties as named arguments, with placeholders of these names."""
    return sql.Composed(
        [
            sql.SQL(", {} => {}{}").format(
                sql.Identifier(name),
                sql.Placeholder(name),
                sql.SQL("::jsonb" if name == "headers" else ""),
            )
            for name in properties
        ]
    )


def adapted(properties: Mapping[str, object]) -> dict[str, object]:
    """Return the properties as psycopg takes them: headers are JSON, if any are given."""
    return {
        name: Jsonb(value) if name == "headers" and value is not None else value
        for name, value in properties.items()
    }


def only(inbox: Inbox) -> Delivery:
    """The one message that there is."""
    (delivery,) = inbox.drain()
    return delivery


def properties_of(properties: BasicProperties) -> dict[str, object]:
    """Return the properties that a message carries."""
    return {
        name: getattr(properties, name)
        for name in PROPERTIES
        if getattr(properties, name) is not None
    }


# ---- Properties ----


def test_message_carries_no_property_that_was_not_given(session: Session, inbox: Inbox) -> None:
    send(session)
    send(session, **dict.fromkeys(PROPERTIES))
    session.execute("SELECT amqp.publish(1, 'amq.topic', 'key', %b)", [b"bytes"])
    session.execute("SELECT amqp.publish(1, 'amq.topic', 'key', '1'::jsonb)")
    *three, json = [properties_of(delivery.properties) for delivery in inbox.drain()]
    assert three == [{}, {}, {}]
    assert json == {"content_type": "application/json"}


def test_every_property_arrives_alone(session: Session, inbox: Inbox) -> None:
    for name, value in GIVEN.items():
        send(session, **{name: value})
    assert [properties_of(delivery.properties) for delivery in inbox.drain()] == [
        {name: value} for name, value in ARRIVED.items()
    ]


def test_all_properties_arrive_together(session: Session, inbox: Inbox) -> None:
    send(session, **GIVEN)
    delivery = only(inbox)
    assert properties_of(delivery.properties) == ARRIVED
    assert (delivery.exchange, delivery.routing_key) == ("amq.topic", "key")
    assert delivery.text == "message"


def test_autonomous_publish_takes_the_same_properties(session: Session, inbox: Inbox) -> None:
    call = sql.SQL("SELECT amqp.autonomous_publish(1, 'amq.topic', 'key', 'message'{})")
    session.execute(call.format(named(GIVEN)), adapted(GIVEN))
    assert properties_of(only(inbox).properties) == ARRIVED


def test_properties_belong_to_their_message(session: Session, inbox: Inbox) -> None:
    properties: list[Callable[[int], dict[str, object]]] = [
        lambda i: {},
        lambda i: {"message_id": str(i), "headers": {"number": i}},
        lambda i: {"priority": i % 256, "type": f"type {i % 7}"},
    ]
    with session.transaction():
        for i in range(600):
            send(session, str(i), **properties[i % 3](i))
    for i, delivery in enumerate(inbox.drain()):
        assert delivery.text == str(i)
        assert properties_of(delivery.properties) == properties[i % 3](i)


def each(names: Iterable[str], value: object) -> list[dict[str, object]]:
    """Return for each name a set of properties with this one alone."""
    return [{name: value} for name in names]


def test_limits_of_properties(session: Session, inbox: Inbox) -> None:
    texts = [name for name, value in GIVEN.items() if isinstance(value, str)]
    free = [name for name in texts if name not in ("user_id", "expiration", "timestamp")]
    limits: list[dict[str, object]] = [
        {"delivery_mode": 1},
        {"delivery_mode": 2},
        {"priority": 0},
        {"priority": 255},
        {"expiration": "4294967295"},
        {"headers": {}},
        {"headers": {"k" * 255: "long key", "": "no key"}},
        *each(free, ""),
        *each(free, "x" * 255),
        *each(free, "é" * 127),
    ]
    for properties in limits:
        send(session, **properties)
    assert [properties_of(delivery.properties) for delivery in inbox.drain()] == limits


def test_beyond_the_limits_of_properties(session: Session, inbox: Inbox) -> None:
    texts = [name for name, value in GIVEN.items() if isinstance(value, str)]
    texts = [name for name in texts if name not in ("expiration", "timestamp")]
    beyond: list[tuple[dict[str, object], str]] = [
        ({"delivery_mode": 3}, "22023"),
        ({"delivery_mode": 0}, "22023"),
        ({"priority": 256}, "22023"),
        ({"priority": -1}, "22023"),
        ({"expiration": "4294967296"}, "22023"),
        ({"expiration": "-1"}, "22023"),
        ({"expiration": "soon"}, "22023"),
        ({"timestamp": "1969-12-31 23:59:59+00"}, "22023"),
        ({"timestamp": "infinity"}, "22023"),
        ({"timestamp": "-infinity"}, "22023"),
        ({"headers": [1]}, "22023"),
        ({"headers": "text"}, "22023"),
        ({"headers": {"k" * 256: 1}}, "22001"),
        ({"headers": {"n": (1 << 63) + 1}}, "22003"),
        ({"headers": {"long": "x" * 200_000}}, "54000"),
        *((one, "22001") for one in each(texts, "é" * 128)),
    ]
    for properties, sqlstate in beyond:
        with pytest.raises(errors.Error) as caught:
            send(session, **properties)
        assert (properties, caught.value.sqlstate) == (properties, sqlstate)
    with pytest.raises(errors.InvalidParameterValue):
        session.execute("SELECT amqp.publish(1, 'amq.topic', '', '', headers => 'null')")
    send(session, "after")
    assert only(inbox).text == "after"


# ---- Timestamps ----

INSTANTS = {
    "1970-01-01 00:00:00+00": 0,
    "1970-01-01 00:00:00.999999+00": 0,
    "2001-02-03 04:05:06.5+00": 981173106,
    "2024-12-11 10:09:08+00": 1733911748,
    # The hour that summer time gives back, first and second time around (in Berlin).
    "2024-10-27 00:30:00+00": 1729989000,
    "2024-10-27 01:30:00+00": 1729992600,
    "9999-12-31 23:59:59+00": 253402300799,
    "12024-01-01 00:00:00+00": 317273587200,
}


STYLES = ["ISO, MDY", "SQL, DMY", "SQL, MDY", "Postgres, DMY", "Postgres, MDY", "German, DMY"]
ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Shanghai", "-03:30", "Australia/Sydney"]


def test_timestamps_whatever_the_date_style_and_time_zone(session: Session, inbox: Inbox) -> None:
    found = {}
    for style in STYLES:
        for zone in ZONES:
            session.execute("SELECT set_config('DateStyle', %s, false)", [style])
            session.execute("SELECT set_config('TimeZone', %s, false)", [zone])
            for instant in INSTANTS:
                send(session, timestamp=instant)
            stamps = [delivery.properties.timestamp for delivery in inbox.drain()]
            found[style, zone] = dict(zip(INSTANTS, stamps, strict=True))
    wrong = {at: stamps for at, stamps in found.items() if stamps != INSTANTS}
    assert wrong == {}


# ---- Headers ----

HEADERS = {
    "string": "text",
    "empty": "",
    "unicode é 😀": "ключ 値",
    "long": "x" * 70_000,
    "zero": 0,
    "small": -1,
    "int32 max": 2**31 - 1,
    "int32 min": -(2**31),
    "above int32": 2**31,
    "below int32": -(2**31) - 1,
    "int64 max": 2**63 - 1,
    "int64 min": -(2**63),
    "true": True,
    "false": False,
    "null": None,
    "array": [1, "two", None, True, [], {}, [[2**40]]],
    "empty array": [],
    "empty object": {},
    "nested": {"a": {"b": {"c": ["d", {"e": None}]}}},
}


def test_headers_keep_their_json_types(session: Session, inbox: Inbox) -> None:
    send(session, headers=HEADERS)
    found = only(inbox).properties.headers
    assert found == HEADERS
    # To Python, True == 1.
    for name, value in HEADERS.items():
        assert isinstance(found[name], bool) == isinstance(value, bool), name
    assert found["array"][3] is True


def test_doubles_in_headers(
    session: Session, inbox: Inbox, broker: VHost, management: Management
) -> None:
    # pika cuts doubles to integers when it decodes them.
    doubles = {
        "half": 0.5,
        "third": 1 / 3,
        "negative": -2.75,
        "tiny": 5e-324,
        "large": 4503599627370495.5,
        "in array": [0.1, 1],
        "in object": {"x": 0.30000000000000004},
    }
    send(session, headers=doubles)
    (message,) = management.request(
        "POST",
        "queues",
        broker.vhost,
        inbox.queue,
        "get",
        body={"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"},
    )
    assert message["properties"]["headers"] == doubles


def test_number_with_a_fraction_of_zero_is_a_double(session: Session) -> None:
    with session.transaction(force_rollback=True):
        session.execute(
            "SELECT amqp.publish(1, '', '', '', headers => jsonb_build_object('n', 1.0, 'm', 1))"
        )
        assert session.execute("SELECT headers::text FROM amqp.pending()").fetchone() == (
            '{"m": 1, "n": 1.0}',
        )


def test_headers_route_by_type(session: Session, channel: BlockingChannel) -> None:
    queue = channel.queue_declare("", durable=True).method.queue
    channel.queue_bind(queue, "amq.headers", arguments={"x-match": "all", "n": 1, "s": "1"})
    for headers in ('{"n": 1, "s": "1"}', '{"n": "1", "s": "1"}', '{"n": 1, "s": 1}'):
        session.execute(
            "SELECT amqp.publish(1, 'amq.headers', '', %s, headers => %s::jsonb)",
            [headers, headers],
        )
    assert channel.basic_get(queue, auto_ack=True)[2] == b'{"n": 1, "s": "1"}'
    assert channel.basic_get(queue, auto_ack=True)[0] is None


# ---- Ways to call it ----

CALLS = {
    "positional": "1, 'amq.topic', 'key', 'message'",
    "positional, as pg_amqp has it": (
        "1, 'amq.topic', 'key', 'message', 2, 'text/plain', 'reply', 'correlation'"
    ),
    "positional with nulls": "1, 'amq.topic', 'key', 'message', NULL, NULL, NULL, NULL, NULL",
    "named": (
        "message => 'message', routing_key => 'key', exchange => 'amq.topic', broker_id => 1"
    ),
    "mixed": "1, 'amq.topic', 'key', 'message', reply_to => 'reply', delivery_mode => 1",
    "old notation": "1, 'amq.topic', 'key', message := 'message'",
    "varchar": "1, 'amq.topic'::varchar(20), 'key'::varchar, 'message'::varchar",
    "name": "1, 'amq.topic'::name, 'key'::name, 'message'::name",
    "char": "1, 'amq.topic'::char(9), 'key'::char(3), 'message'::char(7)",
    "text": "1, 'amq.topic'::text, 'key'::text, 'message'::text",
    "domain over text": "1, 'amq.topic', 'key', 'message'::word",
    "smallint": "1::smallint, 'amq.topic', 'key', 'message', 2::smallint",
    "concatenation": "1, 'amq.' || 'topic', 'k' || 'ey', 'mess' || 'age'",
    "function result": "1, lower('AMQ.TOPIC'), lower('KEY'), lower('MESSAGE')",
    "bytea": "1, 'amq.topic', 'key', 'message'::bytea",
    "convert_to": "1, 'amq.topic', 'key', convert_to('message', 'UTF8')",
    "subselect": "1, 'amq.topic', 'key', (SELECT 'message')",
}


@pytest.mark.parametrize("function", ["publish", "autonomous_publish"])
def test_calls_resolve(session: Session, inbox: Inbox, function: str) -> None:
    session.execute("CREATE DOMAIN word AS text")
    found = {}
    for name, arguments in CALLS.items():
        assert session.execute(f"SELECT amqp.{function}({arguments})").fetchone() == (True,)
        delivery = only(inbox)
        found[name] = (delivery.exchange, delivery.routing_key, delivery.text)
    assert found == dict.fromkeys(CALLS, ("amq.topic", "key", "message"))


def test_calls_with_json_resolve(session: Session, inbox: Inbox) -> None:
    found = []
    for message in (
        """'{"a": 1.0}'::jsonb""",
        "to_jsonb(ROW(1.10))",
        "jsonb_build_array('x', NULL)",
    ):
        session.execute(f"SELECT amqp.publish(1, 'amq.topic', 'key', {message})")
        session.execute(
            f"SELECT amqp.publish(1, 'amq.topic', 'key', {message}, content_type => 'text/x')"
        )
        first, second = inbox.drain()
        assert (first.properties.content_type, second.properties.content_type) == (
            "application/json",
            "text/x",
        )
        assert first.text == second.text
        found.append(first.text)
    assert found == ['{"a": 1.0}', '{"f1": 1.10}', '["x", null]']


def test_calls_with_parameters_resolve(session: Session, inbox: Inbox) -> None:
    call = "SELECT amqp.publish(%s, %s, %s, %s)"
    session.execute(call, [1, "amq.topic", "key", "text"])
    session.execute(call, [1, "amq.topic", "key", Jsonb({"a": [1]})])
    session.execute(call, [1, "amq.topic", "key", b"\x00\xff"])
    session.execute(call, [1, "amq.topic", "key", None])
    session.execute(call, [1, "amq.topic", "key", "again"], binary=True)
    session.execute("PREPARE p AS SELECT amqp.publish($1, $2, $3, $4)")
    session.execute("EXECUTE p(1, 'amq.topic', 'key', 'prepared')")
    assert [delivery.body for delivery in inbox.drain()] == [
        b"text",
        b'{"a": [1]}',
        b"\x00\xff",
        b"",
        b"again",
        b"prepared",
    ]


def test_calls_from_variables_resolve(session: Session, inbox: Inbox) -> None:
    session.execute(
        """
        DO $$
        DECLARE
            broker integer := 1;
            a_varchar varchar := 'varchar';
            a_name name := 'name';
            a_json jsonb := '{"json": true}';
            some_bytes bytea := 'bytea';
            row_of record;
        BEGIN
            PERFORM amqp.publish(broker, 'amq.topic', a_varchar, a_varchar);
            PERFORM amqp.publish(broker, 'amq.topic', a_name, a_name);
            PERFORM amqp.publish(broker, 'amq.topic', 'json', a_json);
            PERFORM amqp.publish(broker, 'amq.topic', 'bytea', some_bytes);
            SELECT 'record' AS text INTO row_of;
            PERFORM amqp.publish(broker, 'amq.topic', row_of.text, row_of.text);
        END $$
        """
    )
    assert [(delivery.routing_key, delivery.text) for delivery in inbox.drain()] == [
        ("varchar", "varchar"),
        ("name", "name"),
        ("json", '{"json": true}'),
        ("bytea", "bytea"),
        ("record", "record"),
    ]


def test_null_exchange_is_amq_direct(session: Session, channel: BlockingChannel) -> None:
    keyed = Inbox(channel, "amq.direct", "key")
    keyless = Inbox(channel, "amq.direct", "")
    session.execute("SELECT amqp.publish(1, NULL, 'key', 'one')")
    session.execute("SELECT amqp.publish(1, NULL, NULL, 'two')")
    session.execute("SELECT amqp.publish(1, NULL, NULL, NULL)")
    session.execute("SELECT amqp.publish(1, NULL, NULL, NULL::bytea)")
    session.execute("SELECT amqp.publish(1, NULL, NULL, NULL::jsonb)")
    (one,) = keyed.drain()
    assert (one.exchange, one.routing_key, one.text) == ("amq.direct", "key", "one")
    assert [(d.exchange, d.routing_key, d.body) for d in keyless.drain()] == [
        ("amq.direct", "", body) for body in (b"two", b"", b"", b"")
    ]


def test_empty_exchange_is_the_default_exchange(session: Session, channel: BlockingChannel) -> None:
    inbox = Inbox(channel, exchange="")
    session.execute("SELECT amqp.publish(1, '', %s, 'one')", [inbox.queue])
    (one,) = inbox.drain()
    assert (one.exchange, one.routing_key, one.text) == ("", inbox.queue, "one")


def test_null_broker_is_an_error(session: Session) -> None:
    with pytest.raises(errors.NullValueNotAllowed):
        session.execute("SELECT amqp.publish(NULL, 'amq.topic', '', 'never')")


# ---- Contents ----


def test_unicode_everywhere(session: Session, channel: BlockingChannel) -> None:
    text = "åß∂ƒ 値 😀 \u200f עברית e\u0301 \x01\x7f"
    channel.exchange_declare(text, "topic")
    inbox = Inbox(channel, text)
    session.execute("SELECT amqp.publish(1, %s, %s, %s)", [text, text, text])
    (delivery,) = inbox.drain()
    assert (delivery.exchange, delivery.routing_key, delivery.text) == (text, text, text)


def test_longest_exchange_and_routing_key(session: Session, channel: BlockingChannel) -> None:
    exchange, key = "x" * 255, "é" * 127 + "k"
    channel.exchange_declare(exchange, "topic")
    inbox = Inbox(channel, exchange)
    session.execute("SELECT amqp.publish(1, %s, %s, 'message')", [exchange, key])
    (delivery,) = inbox.drain()
    assert (delivery.exchange, delivery.routing_key) == (exchange, key)
    for arguments in ([exchange + "x", ""], [exchange, key + "k"]):
        with pytest.raises(errors.StringDataRightTruncation):
            session.execute("SELECT amqp.publish(1, %s, %s, 'never')", arguments)
    assert inbox.drain() == []


def test_text_is_utf8_whatever_the_encoding_of_the_database(
    postgres: PostgreSQL, session: Session, broker: VHost, inbox: Inbox
) -> None:
    session.execute(
        "CREATE DATABASE messages_latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    )
    try:
        with open_session(postgres.dsn("messages_latin1")) as latin:
            latin.execute("CREATE EXTENSION pg_amqp_py CASCADE")
            latin.execute("SELECT amqp.add_broker(%s)", [broker.url()])
            latin.execute("SELECT amqp.publish(1, 'amq.topic', 'käy', 'mässage', app_id => 'äpp')")
            latin.execute("SELECT amqp.publish(1, 'amq.topic', '', '{\"ä\": 1}'::jsonb)")
            # A body that this encoding lacks is shown as bytes alone.
            with latin.transaction(force_rollback=True):
                latin.execute("SELECT amqp.publish(1, 'amq.topic', '', '\\xe282ac'::bytea)")
                latin.execute("SELECT amqp.publish(1, 'amq.topic', '', 'ä')")
                shown = latin.execute("SELECT message, body FROM amqp.pending()").fetchall()
                assert shown == [(None, b"\xe2\x82\xac"), ("ä", b"\xc3\xa4")]
    finally:
        session.execute("DROP DATABASE messages_latin1 WITH (FORCE)")
    first, second = inbox.drain()
    assert (first.routing_key, first.text) == ("käy", "mässage")
    assert first.properties.app_id == "äpp"
    assert second.text == '{"ä": 1}'


def test_any_bytes(session: Session, inbox: Inbox) -> None:
    bodies = [
        b"",
        b"\x00",
        b"\xce",
        bytes(range(256)),
        b"\xff" * 1000,
        b"\\x00",
        b"AMQP\x00\x00\x09\x01",
    ]
    for body in bodies:
        session.execute("SELECT amqp.publish(1, 'amq.topic', '', %b)", [body])
    assert [delivery.body for delivery in inbox.drain()] == bodies


# A frame of 131072 bytes has room for 131064 of a message.
SIZES = [0, 1, 131063, 131064, 131065, 2 * 131064 - 1, 2 * 131064, 2 * 131064 + 1, 5_000_000]


def test_sizes_around_the_largest_frame(session: Session, inbox: Inbox) -> None:
    source = random.Random(1).randbytes(max(SIZES))
    with session.transaction():
        for size in SIZES:
            session.execute("SELECT amqp.publish(1, 'amq.topic', '', %b)", [source[:size]])
            session.execute("SELECT amqp.publish(1, 'amq.topic', '', 'between')")
    found = inbox.drain()
    assert [len(delivery.body) for delivery in found[::2]] == SIZES
    assert [delivery.body for delivery in found[::2]] == [source[:size] for size in SIZES]
    assert {delivery.body for delivery in found[1::2]} == {b"between"}


def test_large_text_and_json(session: Session, inbox: Inbox) -> None:
    session.execute("SELECT amqp.publish(1, 'amq.topic', '', repeat('é', 1500000))")
    session.execute(
        "SELECT amqp.publish(1, 'amq.topic', '', jsonb_build_object('k', repeat('é', 1500000)))"
    )
    text, json = inbox.drain()
    assert text.text == "é" * 1_500_000
    assert json.json == {"k": "é" * 1_500_000}


def test_properties_that_nearly_fill_a_frame(session: Session, inbox: Inbox) -> None:
    # What else is in the header frame: 8 of the frame, 12 + 2 before the properties, the length of
    # the table, the key with its length, the type of the value and its length.
    room = 131072 - 8 - 14 - 4 - 2 - 5
    send(session, "fits", headers={"k": "x" * room})
    delivery = only(inbox)
    assert delivery.text == "fits"
    assert len(delivery.properties.headers["k"]) == room
    with pytest.raises(errors.ProgramLimitExceeded):
        send(session, "never", headers={"k": "x" * (room + 1)})
    assert inbox.drain() == []
