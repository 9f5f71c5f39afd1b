"""Who has been asked once knows where answers go: whatever it sends, it answers nothing else."""

from __future__ import annotations

import os
import threading
import time

import pika
import pytest

from support.answering import Question, Responder
from support.calls import Call
from support.fix_servers import VHost
from support.patience import LIMIT
from support.sessions import Session

ASK = "SELECT amqp.body_text(r) FROM amqp.request(1, '', 'pricing', %s::text) AS r"
RESIDENT = """
CREATE FUNCTION resident() RETURNS bigint LANGUAGE plpython3u AS $$
with open("/proc/self/status") as status:
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
$$
"""


def test_answers_with_other_ids(session: Session, broker: VHost) -> None:
    def answer(question: Question) -> None:
        own = question.properties.correlation_id
        for forged in (None, "", "0" * 32, own.upper(), own[:-1], own + "0", "x" * 255):
            question.answer("forged", correlation_id=forged)
        for old in questions:
            question.answer("of another", correlation_id=old)
        questions.append(own)
        question.answer(question.body)
        question.answer("a second one")

    questions: list[str] = []
    with Responder(broker.url(), answer):
        for number in range(20):
            assert session.value(ASK, str(number)) == str(number)
    assert len({*questions}) == 20
    assert all(len(one) == 32 for one in questions)


def test_answers_to_all_are_not_mixed_up_by_copies(session: Session, broker: VHost) -> None:
    def answer(question: Question) -> None:
        for body in (question.body, b"a copy", b"another copy"):
            question.answer(body)

    with Responder(broker.url(), answer):
        for _ in range(5):
            texts = session.value(
                "SELECT array_agg(amqp.body_text(r))"
                " FROM amqp.request_all(1, '', 'pricing', ARRAY['1', '2', '3', '4']) AS r"
            )
            assert texts == ["1", "2", "3", "4"]


class Flood:
    """Sends one message after the other to where an answer is awaited, until it is told to end."""

    def __init__(self, broker: VHost, size: int) -> None:
        self.over = threading.Event()
        self._url = broker.url()
        self._size = size
        self._thread: threading.Thread | None = None

    def begin(self, question: Question) -> None:
        """Flood who asks."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._send, args=[question.properties.reply_to])
            self._thread.start()

    def _send(self, reply_to: str) -> None:
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel, body = connection.channel(), os.urandom(self._size)
            while not self.over.is_set():
                properties = pika.BasicProperties(correlation_id=os.urandom(16).hex())
                channel.basic_publish("", reply_to, body, properties)

    def end(self) -> None:
        """Stop."""
        self.over.set()
        if self._thread is not None:
            self._thread.join(LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 100_000, 5_000_000])
def test_a_flood_of_foreign_answers(session: Session, broker: VHost, size: int) -> None:
    session.run(RESIDENT)
    flood = Flood(broker, size)
    try:
        with Responder(broker.url(), flood.begin):
            ask = "SELECT amqp.request(1, '', 'pricing', 'x', timeout => '1s')"
            assert session.error(ask).sqlstate == "MQ001"
            before = session.value("SELECT resident()")
            for _ in range(3):
                started = time.monotonic()
                error = Call(lambda: session.error(ask)).result()
                assert error.sqlstate in ("MQ001", "08006")
                # It ends with its time, and not when the flood does.
                assert time.monotonic() - started < 60
            assert session.value("SELECT resident()") - before < 30_000_000 + 3 * size
            session.run("SET statement_timeout = '300ms'")
            error = session.error(ask.replace("1s", "10min"))
            assert error.sqlstate == "57014"
            session.run("RESET statement_timeout")
    finally:
        flood.end()
    with Responder(broker.url()):
        assert session.value(ASK, "x") == "x"


def test_what_comes_while_nobody_asks_is_not_kept(session: Session, broker: VHost) -> None:
    with Responder(broker.url()) as responder:
        assert session.value(ASK, "x") == "x"
        question = responder.wait_for_question()
        with pika.BlockingConnection(pika.URLParameters(broker.url())) as connection:
            channel = connection.channel()
            for _ in range(2000):
                question.answer(b"y" * 1000, channel)
        for text in "ab":
            assert session.value(ASK, text) == text
