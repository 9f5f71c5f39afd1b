"""Programs that answer requests, as anybody would write them with pika."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import pika
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import Closing, wait_for
from support.patience import LIMIT


class Question(NamedTuple):
    """A request as it has come."""

    channel: BlockingChannel
    properties: pika.BasicProperties
    body: bytes

    def answer(
        self, body: bytes | str, channel: BlockingChannel | None = None, **properties: Any
    ) -> None:
        """Reply, perhaps on another channel; with the request's id, unless one is given."""
        given = {"correlation_id": self.properties.correlation_id, **properties}
        (channel or self.channel).basic_publish(
            "", self.properties.reply_to, body, pika.BasicProperties(**given)
        )


Answer = Callable[[Question], None]


def echo(question: Question) -> None:
    """Answer with the body of the request."""
    question.answer(question.body)


def silent(question: Question) -> None:
    """Do not answer."""


class Responder(Closing):
    """Consumes a queue, which it declares, and answers in a thread of its own."""

    def __init__(
        self, url: str, answer: Answer = echo, queue: str = "pricing", **declared: Any
    ) -> None:
        self.questions: list[Question] = []
        self._answer = answer
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._channel.queue_declare(queue, **declared)
        self._channel.basic_consume(queue, self._take, auto_ack=True)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _take(self, channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        question = Question(channel, properties, body)
        self.questions.append(question)
        self._answer(question)

    def _work(self) -> None:
        # RabbitMQ may be stopped.
        with suppress(pika.exceptions.AMQPError):
            while not self._over.is_set():
                self._connection.process_data_events(0.01)

    def wait_for_question(self, count: int = 1) -> Question:
        """The last of so many requests, when they have come."""
        wait_for(lambda: len(self.questions) >= count, LIMIT, f"{count} requests", interval=0.001)
        return self.questions[count - 1]

    def close(self) -> None:
        """Consume no more."""
        self._over.set()
        self._thread.join(LIMIT)
        if self._connection.is_open:
            self._connection.close()
