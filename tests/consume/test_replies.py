"""Requests that are answered by a function: pg-amqp run stores, answers and delivers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.relay import DaemonProcess
from support.consumers import Consumer, Desk, desk
from support.fix_servers import VHost
from support.patience import LIMIT
from support.sessions import Session

ANSWER = """
CREATE TABLE asked (body text);
CREATE FUNCTION answer(m amqp.message) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.asked VALUES (amqp.body_text(m));
    IF amqp.body_text(m) = 'bad' THEN RAISE EXCEPTION 'no "%"', amqp.body_text(m); END IF;
    IF amqp.body_text(m) = 'silent' THEN RETURN NULL; END IF;
    RETURN jsonb_build_object('answer', amqp.body_text(m));
END $$
"""


@pytest.fixture
def consumers(database: str, broker: VHost) -> Iterator[Desk]:
    """Makes consumers whose target is the function above."""
    with desk(database, broker) as make:
        probe = make(enabled=False)
        probe.session.execute(ANSWER)
        yield lambda **columns: make(target_function="answer", **columns)


@pytest.fixture
def daemon(database: str) -> Iterator[DaemonProcess]:
    """pg-amqp run."""
    with DaemonProcess(database) as process:
        yield process


class Asker:
    """Asks, and collects answers: from a queue of its own, or RabbitMQ's pseudo-queue."""

    def __init__(self, channel: BlockingChannel, reply_to: str | None = None) -> None:
        self.channel = channel
        self.reply_to = reply_to or channel.queue_declare("", exclusive=True).method.queue
        self.answers: list[tuple[str | None, str | None, str]] = []
        channel.basic_consume(self.reply_to, self._take, auto_ack=True)

    def _take(self, *delivered: Any) -> None:
        _, _, given, body = delivered
        self.answers.append((given.correlation_id, given.content_type, body.decode()))

    def ask(self, consumer: Consumer, *bodies: str, **properties: Any) -> None:
        for body in bodies:
            given = {"reply_to": self.reply_to, "correlation_id": f"c-{body}", **properties}
            self.channel.basic_publish("", consumer.queue, body, pika.BasicProperties(**given))

    def wait(self, count: int) -> list[tuple[str | None, str | None, str]]:
        """So many answers."""

        def arrived() -> bool:
            self.channel.connection.process_data_events(0.05)
            return len(self.answers) >= count

        wait_for(arrived, LIMIT, f"{count} answers")
        return self.answers


def answer(text: str) -> tuple[str, str, str]:
    return f"c-{text}", "application/json", f'{{"answer": "{text}"}}'


@pytest.fixture(params=["a queue", "direct reply-to"])
def asker(request: pytest.FixtureRequest, channel: BlockingChannel) -> Asker:
    """Somebody who asks, in both of the usual ways."""
    return Asker(channel, "amq.rabbitmq.reply-to" if request.param != "a queue" else None)


@pytest.mark.usefixtures("daemon")
def test_each_question_is_answered_once_with_its_id(consumers: Desk, asker: Asker) -> None:
    consumer = consumers()
    asker.ask(consumer, *map(str, range(50)))
    assert sorted(asker.wait(50)) == sorted(answer(str(n)) for n in range(50))
    # The answer to one more is the last of all.
    asker.ask(consumer, "last")
    assert asker.wait(51)[-1] == answer("last")


@pytest.mark.usefixtures("daemon")
def test_a_copy_of_a_question_is_answered_no_second_time(consumers: Desk, asker: Asker) -> None:
    consumer = consumers()
    asker.ask(consumer, "1", message_id="a")
    asker.wait(1)
    asker.ask(consumer, "1", "1", message_id="a")
    asker.ask(consumer, "2")
    assert asker.wait(2) == [answer("1"), answer("2")]
    consumer.wait_until("the duplicates", lambda status: status["duplicates"] == 2)


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("reply_errors", [False, True])
def test_null_and_errors_are_no_answers_unless_the_row_says_so(
    consumers: Desk, asker: Asker, reply_errors: bool
) -> None:
    consumer = consumers(reply_errors=reply_errors)
    asker.ask(consumer, "silent", "bad", "1")
    error = ("c-bad", "application/json", '{"error": "no \\"bad\\"", "sqlstate": "P0001"}')
    expected = [answer("1"), *([error] if reply_errors else [])]
    assert sorted(asker.wait(len(expected))) == sorted(expected)
    assert [state for state, _ in consumer.dead()] == ["P0001"]


@pytest.mark.usefixtures("daemon")
def test_whoever_is_gone_is_answered_into_the_void(
    consumers: Desk, channel: BlockingChannel, session: Session
) -> None:
    consumer = consumers()
    gone = Asker(channel)
    channel.queue_delete(gone.reply_to)
    gone.ask(consumer, "1")
    consumer.wait_for_stored(1)
    wait_for(lambda: session.run("SELECT FROM amqp.outbox") == [], LIMIT, "an empty outbox")
    assert session.run("SELECT FROM amqp.outbox_dead") == []


def test_an_answer_outlives_a_crash_between_commit_and_delivery(
    database: str, consumers: Desk, channel: BlockingChannel
) -> None:
    consumer = consumers(batch_size=10)
    asker = Asker(channel)
    with DaemonProcess(database) as daemon:
        for first in range(0, 400, 100):
            for number in range(first, first + 100):
                asker.ask(consumer, str(number), message_id=str(number))
            consumer.wait_for_stored(first + 1)
            daemon.kill()
            daemon.start()
        consumer.wait_for_stored(400)
        wanted = {answer(str(number)) for number in range(400)}

        def all_answered() -> bool:
            asker.wait(0)
            return set(asker.answers) == wanted

        wait_for(all_answered, LIMIT, "all answers")
    # Each was asked once; the outbox delivers at least once.
    assert consumer.session.value("SELECT count(*) FROM asked") == 400
