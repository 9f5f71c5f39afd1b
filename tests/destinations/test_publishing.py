"""amqp.publish_stomp(): what STOMP clients of every version get, exactly with the transaction."""

from __future__ import annotations

import itertools

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.fix_stomp import Stompers
from support.messages import Inbox
from support.patience import LIMIT
from support.sessions import Session, open_session

VERSIONS = ("1.0", "1.1", "1.2")
HOSTILE = (
    "a:b",
    "a\\b",
    "a\nb",
    "a\r\nb",
    "\\n\\c\\r\\\\",
    ":",
    "\\",
    "\n\n",
    " a ",
    "ünïcode \N{SNOWMAN}",
    "x\nsubscription:2\n\nbody",
)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_destination_reaches_a_client(
    session: Session, channel: BlockingChannel, stompers: Stompers, version: str
) -> None:
    channel.exchange_declare("X", "direct")
    channel.queue_declare("Q", durable=True)
    client = stompers(version)
    destinations = ["/topic/items.insert", "/exchange/X/K", "/queue/Q", "/amq/queue/Q"]
    for number, destination in enumerate(destinations[:3]):
        client.subscribe(destination.replace(".insert", ".*"), str(number))
    for destination in destinations:
        session.run("SELECT amqp.publish_stomp(1, %s, '{\"id\": 1}')", destination)
        message = client.take()
        assert message.body == b'{"id": 1}'
        assert message.headers["destination"] == destination.removeprefix("/amq")
    assert session.warnings() == []


def test_all_types_of_messages(session: Session, stompers: Stompers) -> None:
    client = stompers()
    client.subscribe("/topic/t")
    for message in ("'text'::text", "'{\"a\": 1}'::jsonb", r"'\x00ff00'::bytea", "NULL::text"):
        session.run(f"SELECT amqp.publish_stomp(1, '/topic/t', {message})")
    found = [client.take() for _ in range(4)]
    assert [message.body or b"" for message in found] == [b"text", b'{"a": 1}', b"\0\xff\0", b""]
    assert [message.headers.get("content-type") for message in found] == [
        None,
        "application/json",
        None,
        None,
    ]


def test_it_follows_the_transaction(session: Session, stompers: Stompers) -> None:
    client = stompers()
    client.subscribe("/topic/t")
    publish = "SELECT amqp.publish_stomp(1, '/topic/t', %s)"
    with session.transaction():
        session.run(publish, "1")
        with session.transaction(force_rollback=True):
            session.run(publish, "rolled back")
        session.run(publish, "2")
    with session.transaction(force_rollback=True):
        session.run(publish, "rolled back")
    session.set(capture="on")
    session.run(publish, "captured")
    session.set(capture="off")
    session.run(publish, "3")
    assert [client.take().body for _ in range(3)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("destination", ["/queue/missing", "/amq/queue/missing"])
def test_a_missing_queue_is_told_and_not_declared(
    session: Session, channel: BlockingChannel, destination: str
) -> None:
    session.run("SELECT amqp.publish_stomp(1, %s, 'x')", destination)
    (warning,) = session.warnings()
    assert "NO_ROUTE" in warning.message + warning.detail
    session.run("SELECT amqp.publish_stomp(1, %s, 'x', mandatory => false)", destination)
    session.run("SELECT amqp.publish_stomp(1, '/topic/nobody', 'x')")
    assert session.warnings() == []
    # Another one than what a client's SEND would declare can be declared.
    channel.queue_declare("missing", durable=False)


def test_no_message_goes_anywhere_if_the_destination_is_none(session: Session) -> None:
    session.set(on_failure="warn")
    error = session.error("SELECT amqp.publish_stomp(1, '/queue/a/b', 'x')")
    assert (error.sqlstate, error.message) == ("22023", 'invalid STOMP destination "/queue/a/b"')
    error = session.error("SELECT amqp.publish_stomp(1, NULL, 'x')")
    assert error.sqlstate == "22004"


PROPERTIES = {
    "delivery_mode": ("persistent", 2, "true"),
    "content_type": ("content-type", "text/plain; a=b:c", None),
    "content_encoding": ("content-encoding", "gzip", None),
    "correlation_id": ("correlation-id", "a\nb:c\\d", None),
    "priority": ("priority", 5, "5"),
    "expiration": ("expiration", "60000", None),
    "message_id": ("amqp-message-id", "order-1", None),
    "type": ("type", "order", None),
    "user_id": ("user-id", "guest", None),
    "app_id": ("app-id", "shop", None),
    "reply_to": ("reply-to", "answers", "/reply-queue/answers"),
}


def test_each_property_has_its_header(session: Session, stompers: Stompers) -> None:
    client = stompers()
    client.subscribe("/topic/t")
    given = ", ".join(f"{name} => %s" for name in PROPERTIES)
    session.run(
        f"SELECT amqp.publish_stomp(1, '/topic/t', 'x', {given}, \"timestamp\" => to_timestamp(7))",
        *[value for _, value, _ in PROPERTIES.values()],
    )
    headers = client.take().headers
    for header, value, shown in PROPERTIES.values():
        assert headers[header] == (shown or value)
    assert headers["timestamp"] == "7"


def test_a_reply_to_that_is_a_destination_is_shown_as_it_is(
    session: Session, stompers: Stompers
) -> None:
    client = stompers()
    client.subscribe("/topic/t")
    session.run("SELECT amqp.publish_stomp(1, '/topic/t', 'x', reply_to => '/queue/a')")
    assert client.take().headers["reply-to"] == "/queue/a"


def test_no_header_is_dropped_for_its_type(session: Session, stompers: Stompers) -> None:
    client = stompers()
    client.subscribe("/topic/t")
    headers = """{"whole": 7, "large": 9007199254740993, "larger": 99999999999999999999,
        "half": 0.10, "none": null, "yes": true, "list": [1, null], "object": {"a": 1.50},
        "empty": ""}"""
    session.run("SELECT amqp.publish_stomp(1, '/topic/t', 'x', headers => %s)", headers)
    found = client.take().headers
    assert {
        "whole": "7",
        "large": "9007199254740993",
        "larger": "99999999999999999999",
        "half": "0.10",
        "none": "null",
        "yes": "true",
        "list": "[1, null]",
        "object": '{"a": 1.50}',
        "empty": "",
    }.items() <= found.items()


def test_cc_still_says_where_a_message_goes_as_well(
    session: Session, channel: BlockingChannel
) -> None:
    for queue in ("Q", "R"):
        channel.queue_declare(queue)
    session.run("""SELECT amqp.publish_stomp(1, '/queue/Q', 'x', headers => '{"CC": ["R"]}')""")
    assert [channel.basic_get(queue)[2] for queue in ("Q", "R")] == [b"x", b"x"]


@pytest.mark.parametrize(("version", "text"), [*itertools.product(("1.1", "1.2"), HOSTILE)])
def test_hostile_values_arrive_as_they_are(
    session: Session, stompers: Stompers, version: str, text: str
) -> None:
    client = stompers(version)
    client.subscribe("/topic/#")
    session.run(
        """SELECT amqp.publish_stomp(1, '/topic/' || %s, 'body', correlation_id => %s,
               headers => jsonb_build_object('given', %s::text, 'beside', 'it'))""",
        *[text] * 3,
    )
    message = client.take()
    assert message.body == b"body"
    assert message.headers["given"] == text
    assert message.headers["beside"] == "it"
    assert message.headers["correlation-id"] == text
    assert message.headers["subscription"] == "1"
    shown = session.value("SELECT amqp.stomp_destination('amq.topic', %s)", text)
    assert message.headers["destination"] == shown


@pytest.mark.parametrize("text", HOSTILE)
def test_for_a_client_of_1_0_values_stay_escaped(
    session: Session, stompers: Stompers, text: str
) -> None:
    """RabbitMQ escapes them all the same: nothing becomes a header of its own."""
    client = stompers("1.0")
    client.subscribe("/topic/t")
    session.run(
        """SELECT amqp.publish_stomp(1, '/topic/t', 'body',
               headers => jsonb_build_object('given', %s::text, 'beside', 'it'))""",
        text,
    )
    message = client.take()
    assert message.body == b"body"
    assert message.headers["beside"] == "it"
    assert "2" not in message.headers.values()
    assert message.headers["subscription"] == "1"


def test_an_address_serves_the_outbox_as_well(
    database: str, broker: VHost, session: Session, stompers: Stompers
) -> None:
    client = stompers()
    client.subscribe("/topic/items.*")
    session.run(
        """SELECT amqp.publish_outbox(1, a.exchange, a.routing_key, 'x'::text,
                  headers => amqp.stomp_headers('{"half": 0.5}'))
           FROM amqp.stomp_address('/topic/items.insert') AS a"""
    )
    with RelayProcess(database):
        assert client.take().headers["half"] == "0.5"


def test_a_broker_that_is_away_leaves_it_to_the_outbox(
    database: str, session: Session, stompers: Stompers
) -> None:
    client = stompers()
    client.subscribe("/topic/t")
    broken = session.add_broker("amqp://127.0.0.1:1/")
    session.set(on_failure="outbox")
    session.run("SELECT amqp.publish_stomp(%s, '/topic/t', 'x')", broken)
    assert session.run("SELECT exchange, routing_key FROM amqp.outbox") == [("amq.topic", "t")]


def test_amqp_sees_the_same_message(session: Session, channel: BlockingChannel) -> None:
    inbox = Inbox(channel)
    session.run(
        """SELECT amqp.publish_stomp(1, '/topic/a.b', '{"id": 1}'::jsonb, 2,
                  headers => '{"n": 7, "f": 0.5}')"""
    )
    (found,) = inbox.drain()
    assert (found.exchange, found.routing_key, found.json) == ("amq.topic", "a.b", {"id": 1})
    assert found.properties.headers == {"n": 7, "f": "0.5"}
    assert found.properties.delivery_mode == 2


def test_what_a_role_needs_is_usage_on_the_schema(database: str, broker: VHost) -> None:
    with open_session(database, broker) as session:
        session.run("CREATE ROLE stomp_publisher LOGIN")
        try:
            with open_session(database, role="stomp_publisher") as other:
                call = "SELECT amqp.publish_stomp(1, '/topic/t', 'x')"
                assert other.error(call).sqlstate == "42501"
                session.run("GRANT USAGE ON SCHEMA amqp TO stomp_publisher")
                assert other.value(call) is True
        finally:
            session.run("DROP OWNED BY stomp_publisher; DROP ROLE stomp_publisher")


def test_publishing_is_in_plain_sql_as_far_as_it_can_be(session: Session) -> None:
    """The addresses are there for whoever has no PL/Python."""
    languages = session.run(
        """SELECT DISTINCT l.lanname FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
           WHERE p.pronamespace = 'amqp'::regnamespace AND p.proname LIKE '%stomp%' ORDER BY 1"""
    )
    assert languages == [("plpgsql",), ("sql",)]


def test_it_waits_for_nothing_that_is_not_its_own(session: Session, stompers: Stompers) -> None:
    client = stompers()
    client.subscribe("/topic/many.*")
    session.run(
        """SELECT amqp.publish_stomp(1, '/topic/many.' || n, n::text)
           FROM generate_series(1, 500) AS n"""
    )
    assert [int(client.take().body) for _ in range(500)] == [*range(1, 501)]
    wait_for(lambda: client.errors() == [], LIMIT, "no errors")
