"""STOMP destinations and headers in SQL: the addresses that RabbitMQ would make of them."""

from __future__ import annotations

import os
import random

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from support.fix_stomp import Stompers
from support.messages import Delivery
from support.patience import LIMIT
from support.sessions import Session

SEED = int(os.environ.get("PG_AMQP_PY_SEED", random.randrange(2**32)))

ADDRESSES = {
    "/topic/items.insert": ("amq.topic", "items.insert"),
    "/exchange/X/K": ("X", "K"),
    "/exchange/X": ("X", ""),
    "/exchange/X/": ("X", ""),
    "/queue/Q": ("", "Q"),
    "/amq/queue/Q": ("", "Q"),
    "/reply-queue/amq.gen-1": ("", "amq.gen-1"),
    "/reply-queue/a/b": ("", "a/b"),
    "/queue/a%2Fb": ("", "a/b"),
    "/exchange/a%2Fb/c%2Fd": ("a/b", "c/d"),
    # No other escape is one.
    "/queue/a%2fb": ("", "a%2fb"),
    "/topic/100%25": ("amq.topic", "100%25"),
    "/topic/a b:\\c\n": ("amq.topic", "a b:\\c\n"),
    "/topic/grün": ("amq.topic", "grün"),
    "/queue/exchange": ("", "exchange"),
}
REFUSED = (
    "/queue/a/b",
    "/topic/a/b",
    "/exchange/X/K/more",
    "/amq/queue/a/b",
    "/queue/",
    "/queue",
    "/topic/",
    "/topic",
    "/exchange",
    "/exchange/",
    "/exchange//K",
    "/amq/queue/",
    "/amq/queue",
    "/amq/topic/x",
    "/reply-queue/",
    "/reply-queue",
    "/temp-queue/x",
    "/Queue/Q",
    "//queue/Q",
    "/",
    "",
    "queue/Q",
    "Q",
)


@pytest.mark.parametrize("destination", ADDRESSES)
def test_a_destination_has_this_address(session: Session, destination: str) -> None:
    (found,) = session.run("SELECT * FROM amqp.stomp_address(%s)", destination)
    assert found == ADDRESSES[destination]


@pytest.mark.parametrize("destination", REFUSED)
def test_what_is_no_destination_is_refused(session: Session, destination: str) -> None:
    error = session.error("SELECT amqp.stomp_address(%s)", destination)
    assert error.sqlstate == "22023"
    assert error.message == f'invalid STOMP destination "{destination}"'
    assert error.detail.endswith(".")
    assert error.hint.endswith(".")


def test_a_refusal_says_why(session: Session) -> None:
    def detail(destination: str) -> str:
        return session.error("SELECT amqp.stomp_address(%s)", destination).detail

    assert detail("/queue/a/b") == 'A name is missing or empty, or there is a "/" too many.'
    assert detail("/temp-queue/x").startswith("A temporary queue is known")
    assert detail("/somewhere/x") == "RabbitMQ knows no such destination."
    assert session.error("SELECT amqp.stomp_address(NULL)").sqlstate == "22004"


def test_the_collation_of_a_destination_does_not_matter(session: Session) -> None:
    session.run(
        "CREATE COLLATION caseless"
        " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    ask = "SELECT * FROM amqp.stomp_address(%s COLLATE caseless)"
    assert session.run(ask, "/queue/a%2Fb%2fc") == [("", "a/b%2fc")]
    assert session.run(ask, "/reply-queue/a/b") == [("", "a/b")]
    assert session.error(ask, "/QUEUE/a").sqlstate == "22023"


def _random_destination(chance: random.Random) -> str:
    kinds = ["/exchange/x", "/topic", "/queue", "/amq/queue", "/reply-queue", "/exchange", "/amq"]
    letters = ["a", "/", "%2F", "%2f", "%25", "%", ".", " ", ":", "\\", "\n", "ü", "\N{SNOWMAN}"]
    name = "".join(chance.choices(letters, k=chance.randint(0, 5)))
    return chance.choice(kinds) + chance.choice(["/", "/", "/", ""]) + name


def test_the_address_is_that_of_a_client_s_send(
    session: Session, channel: BlockingChannel, stompers: Stompers
) -> None:
    """Each goes where a client's goes, or both are refused."""
    print(f"PG_AMQP_PY_SEED={SEED}")
    chance = random.Random(SEED)
    arrived: list[Delivery] = []

    def keep(_: BlockingChannel, method: object, properties: object, body: bytes) -> None:
        arrived.append(Delivery(method.exchange, method.routing_key, properties, body))  # type: ignore[attr-defined]

    channel.exchange_declare("x", "fanout")
    for exchange in ("x", "amq.topic"):
        channel.queue_declare(f"from {exchange}")
        channel.queue_bind(f"from {exchange}", exchange, "#")
        channel.basic_consume(f"from {exchange}", keep, auto_ack=True)
    client = stompers()
    seen = {"sent": 0, "refused": 0}
    bound = {"x", "amq.topic"}
    for _ in range(150):
        destination = _random_destination(chance)
        address = _address(session, destination)
        if address is None:
            client.connection.send(destination, "x")
            assert b"not a valid" in client.take_error().body
            seen["refused"] += 1
            continue
        exchange, routing_key = address
        if "\n" in (exchange or routing_key) and exchange not in ("x", "amq.topic"):
            continue  # RabbitMQ takes line breaks out of the names of what is declared.
        if exchange == "":
            channel.queue_declare(routing_key, durable=True)
            channel.basic_consume(routing_key, keep, auto_ack=True)
        elif exchange not in bound:
            bound.add(exchange)
            channel.exchange_declare(exchange, "fanout")
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(queue, exchange)
            channel.basic_consume(queue, keep, auto_ack=True)
        client.send(destination, "by a client")
        session.run("SELECT amqp.publish_stomp(1, %s, 'by SQL')", destination)

        def both() -> bool:
            channel.connection.process_data_events(0.01)
            return len(arrived) >= 2

        wait_for(both, LIMIT, f"both to {destination!r}")
        assert [(d.exchange, d.routing_key, d.text) for d in arrived] == [
            (exchange, routing_key, "by a client"),
            (exchange, routing_key, "by SQL"),
        ], destination
        arrived.clear()
        seen["sent"] += 1
    assert min(seen.values()) > 20, seen
    assert session.warnings() == []


def _address(session: Session, destination: str) -> tuple[str, str] | None:
    """The address that SQL knows, if it does."""
    try:
        (found,) = session.run("SELECT * FROM amqp.stomp_address(%s)", destination)
    except psycopg.errors.InvalidParameterValue:
        return None
    exchange, routing_key = found
    return exchange, routing_key


def test_the_destination_is_what_a_message_frame_shows(
    session: Session, channel: BlockingChannel, stompers: Stompers
) -> None:
    client = stompers()
    names = ["Q", "a/b", "100%", "a b", "x:\\y\n", "grün \N{SNOWMAN}", "\x7f", "%2F"]
    for number, exchange in enumerate(["", "amq.topic", "x", "x/%ü"]):
        if exchange == "":
            pass
        elif exchange == "amq.topic":
            client.subscribe("/topic/#", str(number))
        else:
            channel.exchange_declare(exchange, "fanout")
            name = exchange.replace("/", "%2F")
            client.subscribe(f"/exchange/{name}", str(number))
        for place, routing_key in enumerate([*names, *([""] if exchange else [])]):
            if exchange == "":
                if routing_key == "%2F" or "\n" in routing_key:
                    continue  # No destination leads there; no queue has such a name.
                channel.queue_declare(routing_key, durable=True)
                escaped = routing_key.replace("/", "%2F")
                client.subscribe(f"/amq/queue/{escaped}", f"q{place}")
            session.run("SELECT amqp.publish(1, %s, %s, 'x')", exchange, routing_key)
            shown = client.take().headers["destination"]
            found = session.value("SELECT amqp.stomp_destination(%s, %s)", exchange, routing_key)
            assert found == shown


def test_a_destination_comes_back_from_its_address(session: Session) -> None:
    for exchange, routing_key in (
        ("", "a/b"),
        ("amq.topic", "a.b/c"),
        ("x", ""),
        ("x", "k"),
        ("a/b", "c"),
    ):
        back = session.run(
            "SELECT a.* FROM amqp.stomp_address(amqp.stomp_destination(%s, %s)) AS a",
            exchange,
            routing_key,
        )
        assert back == [(exchange, routing_key)]
    assert session.value("SELECT amqp.stomp_destination(NULL, 'k')") is None


# ---- Headers ----

OWN = (
    *("destination", "message-id", "subscription", "redelivered", "ack", "content-length"),
    *("persistent", "content-type", "content-encoding", "priority", "correlation-id", "reply-to"),
    *("expiration", "amqp-message-id", "timestamp", "type", "user-id", "app-id"),
)


def test_headers_are_given_as_a_client_is_shown_them(session: Session) -> None:
    given = """{"text": "a", "empty": "", "whole": 7, "large": 9223372036854775807,
        "larger": 9223372036854775808, "half": 0.5, "one": 1.0, "tiny": 1e-30, "none": null,
        "yes": true, "no": false, "list": [1, "a", null], "object": {"b": [2.50]},
        "least": -9223372036854775808, "less": -9223372036854775809}"""
    found = session.value("SELECT amqp.stomp_headers(%s)", given)
    assert found == {
        "text": "a",
        "empty": "",
        "whole": 7,
        "large": 2**63 - 1,
        "larger": str(2**63),
        "half": "0.5",
        "one": "1.0",
        "tiny": "0." + "0" * 29 + "1",
        "none": "null",
        "yes": "true",
        "no": "false",
        "list": '[1, "a", null]',
        "object": '{"b": [2.50]}',
        "least": -(2**63),
        "less": str(-(2**63) - 1),
    }
    assert session.value("SELECT amqp.stomp_headers('{}')") == {}
    assert session.value("SELECT amqp.stomp_headers(NULL)") is None


@pytest.mark.parametrize("name", OWN)
def test_a_name_of_stomp_s_own_is_refused(session: Session, name: str) -> None:
    error = session.error("SELECT amqp.stomp_headers(jsonb_build_object(%s::text, 'x'))", name)
    assert error.sqlstate == "22023"
    assert error.message == f'header "{name}" is one of STOMP\'s own'
    assert error.hint


@pytest.mark.parametrize("name", ["", "a:b", "a\\b", "a\nb", "a\rb", ":"])
def test_a_name_that_not_every_client_reads_is_refused(session: Session, name: str) -> None:
    error = session.error("SELECT amqp.stomp_headers(jsonb_build_object(%s::text, 'x'))", name)
    assert error.sqlstate == "22023"
    assert error.message == f'invalid name of a STOMP header: "{name}"'


def test_headers_that_are_no_object_are_refused(session: Session) -> None:
    error = session.error("SELECT amqp.stomp_headers('[1]')")
    assert (error.sqlstate, error.message) == ("22023", "headers must be a JSON object")
