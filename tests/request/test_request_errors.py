"""What is told of a request that has no answer: each reason has a SQLSTATE of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import free_port, wait_for
from servers.rabbitmq import RabbitMQ
from support.answering import Responder, silent
from support.fix_servers import VHost
from support.patience import LIMIT
from support.roles import role_fixtures
from support.sessions import Session, open_session

ASK = "SELECT amqp.body_text(r) FROM amqp.request(1, '', 'pricing', 'x'::text) AS r"
SHORT = ASK.replace("'x'::text", "'x'::text, timeout => '100ms'")


role = role_fixtures()[1]


def test_nobody_answers_in_time(session: Session, broker: VHost) -> None:
    with Responder(broker.url(), silent) as responder:
        error = session.error(SHORT)
        responder.wait_for_question()
    assert (error.sqlstate, error.message) == (
        "MQ001",
        'amqp: no answer from queue "pricing" of broker 1 in time',
    )
    assert error.detail == (
        "The timeout was 0.1 s. The request was sent, and may have been carried out."
    )
    assert session.value("SELECT last_error FROM amqp.status()").startswith("no answer")


def test_an_old_request_is_given_to_nobody(
    session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    channel.queue_declare("pricing")
    channel.queue_bind("pricing", "amq.topic", "#")
    error = session.error("SELECT amqp.request(1, 'amq.topic', 'k', 'x', timeout => '100ms')")
    assert error.sqlstate == "MQ001"
    assert error.message == (
        'amqp: no answer from exchange "amq.topic" with routing key "k" of broker 1 in time'
    )
    wait_for(
        lambda: channel.queue_declare("pricing", passive=True).method.message_count == 0,
        30,
        "the request to expire",
    )
    with Responder(broker.url()) as responder:
        assert session.value(ASK) == "x"
        assert len(responder.questions) == 1


def test_nobody_consumes_the_queue(session: Session, channel: BlockingChannel) -> None:
    channel.queue_declare("pricing")
    for _ in range(2):
        error = session.error(ASK)
        assert (error.sqlstate, error.message, error.detail) == (
            "MQ002",
            'amqp: nobody consumes queue "pricing" of broker 1',
            "No request was sent.",
        )
        assert "pg-amqp consume" in error.hint
    assert channel.queue_declare("pricing", passive=True).method.message_count == 0


def test_the_last_consumer_has_gone(session: Session, broker: VHost) -> None:
    with Responder(broker.url()):
        assert session.value(ASK) == "x"
    # Right behind an answer nobody looks; the first error may have been waited for.
    states = [session.error(SHORT.replace("100ms", "2s")).sqlstate for _ in range(2)]
    assert states[0] in ("MQ001", "MQ002")
    assert states[1] == "MQ002"


def test_no_such_queue(session: Session, broker: VHost) -> None:
    error = session.error(ASK)
    assert (error.sqlstate, error.message) == (
        "42704",
        'amqp: queue "pricing" does not exist on broker 1',
    )
    assert "NOT_FOUND" in error.detail
    with Responder(broker.url()):
        assert session.value(ASK) == "x"


def test_a_queue_that_has_gone_since_it_answered(
    session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    with Responder(broker.url()):
        assert session.value(ASK) == "x"
        channel.queue_delete("pricing")
        # Right behind the answer nobody looks: the request comes back, which says the same.
        error = session.error(ASK)
    assert error.sqlstate == "42704"
    assert "does not exist" in error.message


def test_no_such_exchange(session: Session) -> None:
    for _ in range(2):
        error = session.error("SELECT amqp.request(1, 'missing', 'k', 'x')")
        assert (error.sqlstate, error.message) == (
            "42704",
            'amqp: exchange "missing" does not exist on broker 1',
        )
        assert "no exchange 'missing'" in error.detail


def test_an_exchange_that_leads_nowhere(session: Session, broker: VHost) -> None:
    error = session.error("SELECT amqp.request(1, 'amq.topic', 'k', 'x')")
    assert (error.sqlstate, error.message, error.detail) == (
        "MQ003",
        'amqp: a request to exchange "amq.topic" with routing key "k" reaches no queue of broker 1',
        "The broker says: NO_ROUTE (312)",
    )
    with Responder(broker.url()):
        assert session.value(ASK) == "x"


def test_no_such_broker(session: Session) -> None:
    assert session.error(ASK.replace("1", "7", 1)).sqlstate == "42704"


def test_no_broker_there(session: Session) -> None:
    number = session.add_broker(f"amqp://127.0.0.1:{free_port()}/")
    ask = ASK.replace("1", str(number), 1)
    assert session.error(ask).sqlstate == "08001"
    assert "No attempt was made now" in session.error(ask).hint


def test_a_broker_that_is_short_of_memory(
    session: Session, broker: VHost, rabbitmq: RabbitMQ
) -> None:
    with Responder(broker.url(), silent):
        with rabbitmq.short_of_memory():
            # RabbitMQ says so to who publishes, and takes that message still.
            found = {session.error(SHORT).sqlstate for _ in range(2)}
            assert "53000" in found
            error = session.error(SHORT)
            assert error.sqlstate == "53000"
            assert "broker 1 is not accepting messages" in error.message
            assert "memory" in error.detail
        wait_for(lambda: session.error(SHORT).sqlstate == "MQ001", LIMIT, "the end of the alarm")


def test_nothing_is_asked_while_messages_are_captured(session: Session, broker: VHost) -> None:
    with Responder(broker.url()) as responder:
        session.set(capture="on")
        for ask in (ASK, "SELECT amqp.request_all(1, '', 'pricing', '{a}'::text[])"):
            error = session.error(ask)
            assert (error.sqlstate, error.message) == (
                "55000",
                "amqp: cannot send a request while amqp.capture is on",
            )
        session.set(capture="off")
        assert session.value(ASK) == "x"
        assert len(responder.questions) == 1


@pytest.mark.parametrize("on_failure", ["warn", "outbox"])
def test_there_is_no_way_around_an_answer(session: Session, on_failure: str) -> None:
    session.set(on_failure=on_failure)
    assert session.error(ASK).sqlstate == "42704"
    assert session.warnings() == []
    assert session.value("SELECT count(*) FROM amqp.outbox") == 0


@pytest.mark.parametrize(
    ("given", "sqlstate"),
    [
        ("NULL, '', 'pricing', 'x'", "22004"),
        ("1, '', 'pricing', 'x', timeout => NULL", "22004"),
        ("1, '', 'pricing', 'x', timeout => '0'", "22023"),
        ("1, '', 'pricing', 'x', timeout => '-1s'", "22023"),
        ("1, '', 'pricing', 'x', timeout => '-00:00:05'", "22023"),
        ("1, '', 'pricing', 'x', timeout => '25h'", "22023"),
        ("1, '', 'pricing', 'x', timeout => '1000 years'", "22023"),
        ("1, 'amq.topic', repeat('k', 256), 'x'", "22001"),
        ("1, '', repeat('k', 256), 'x'", "22001"),
        ("1, 'amq.topic', 'k', 'x', priority => 256", "22023"),
        ("1, 'amq.topic', 'k', 'x', headers => '[]'", "22023"),
        ("1, 'amq.topic', 'k', 'x', user_id => 'somebody'", "55000"),
        ("1, 'amq.topic', 'k', 'x', \"timestamp\" => '1969-01-01'", "22023"),
    ],
)
def test_bad_parameters(session: Session, broker: VHost, given: str, sqlstate: str) -> None:
    assert session.error(f"SELECT amqp.request({given})").sqlstate == sqlstate
    with Responder(broker.url()):
        assert session.value(ASK) == "x"


def test_a_request_that_the_broker_finds_too_large(
    session: Session, broker: VHost, small_messages: int
) -> None:
    with Responder(broker.url()):
        error = session.error(f"SELECT amqp.request(1, '', 'pricing', repeat('x', {10**6}))")
        assert error.sqlstate == "55000"
        assert "size" in error.detail
        assert session.value(ASK) == "x"


def test_a_login_that_may_not_write(
    session: Session, broker: VHost, management: Any, channel: BlockingChannel
) -> None:
    management.create_user("reader", "reader")
    management.grant(broker.vhost, "reader", write="")
    try:
        session.run("UPDATE amqp.broker SET username = 'reader', password = 'reader'")
        with Responder(broker.url()):
            error = session.error(ASK)
            assert error.sqlstate == "42501"
            assert "ACCESS_REFUSED" in error.detail
    finally:
        management.delete_user("reader")
    assert channel.is_open


def test_usage_on_the_schema_is_the_right_to_ask(
    session: Session, database: str, broker: VHost, role: str
) -> None:
    with Responder(broker.url()), open_session(database, role=role) as somebody:
        assert somebody.error(ASK).sqlstate == "42501"
        session.run(f"GRANT USAGE ON SCHEMA amqp TO {role}")
        assert somebody.value(ASK) == "x"
        assert somebody.error("SELECT * FROM amqp.broker").sqlstate == "42501"
        session.run(f"REVOKE USAGE ON SCHEMA amqp FROM {role}")
        assert somebody.error(ASK).sqlstate == "42501"


def test_an_answer_that_postgresql_cannot_hold(session: Session, broker: VHost) -> None:
    answers: Iterator[dict[str, Any]] = iter(
        [
            {"timestamp": 1 << 62},
            {"headers": {"a": "\0"}},
            {"type": "a\0b"},
            {"timestamp": 1 << 44},
            {"headers": {b"\xff": "a"}},
            {"headers": {"a": [{b"\xfe": "\N{SKULL}"}]}},
            {"headers": {"a": r"\udc80", "b": "\N{SKULL}"}},
        ]
    )
    with Responder(broker.url(), lambda q: q.answer("x", **next(answers))):
        states = [session.error(ASK).sqlstate for _ in range(6)]
        assert states == ["22008", "22P05", "22021", "22008", "22021", "22021"]
        assert session.value(ASK) == "x"


def test_text_that_the_encoding_of_the_database_lacks(
    postgres: Any, session: Session, broker: VHost
) -> None:
    session.run("CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    answers: Iterator[dict[str, Any]] = iter([{"type": "нет"}, {"headers": {"a": "нет"}}, {}])
    try:
        with (
            Responder(broker.url(), lambda q: q.answer("x", **next(answers))),
            open_session(postgres.dsn("narrow")) as narrow,
        ):
            narrow.run("CREATE EXTENSION pg_amqp_py CASCADE")
            narrow.add_broker(broker.url())
            for _ in range(2):
                assert narrow.error(ASK).sqlstate == "22P05"
            assert narrow.value(ASK) == "x"
    finally:
        session.run("DROP DATABASE narrow WITH (FORCE)")


def test_a_question_of_pika_s_to_the_same_queue_goes_on(
    session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    """Who asks in another way is not disturbed by errors here."""
    answers: list[bytes] = []
    with Responder(broker.url()):
        channel.basic_consume(
            "amq.rabbitmq.reply-to", lambda *given: answers.append(given[3]), auto_ack=True
        )
        assert session.error(SHORT.replace("pricing", "missing")).sqlstate == "42704"
        properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id="c")
        channel.basic_publish("", "pricing", b"theirs", properties)
        assert session.value(ASK) == "x"

        def arrived() -> bool:
            channel.connection.process_data_events(0.05)
            return answers == [b"theirs"]

        wait_for(arrived, LIMIT, "pika's answer")
