"""Queues that record what is published, and sessions that publish."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from support.fix_servers import Broker

Session = psycopg.Connection[tuple[Any, ...]]


class Delivery(NamedTuple):
    """A message as a consumer gets it."""

    exchange: str
    routing_key: str
    properties: BasicProperties
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """What the body says in JSON."""
        return json.loads(self.body)


class Inbox:
    """A queue bound to an exchange, and what came into it."""

    def __init__(
        self, channel: BlockingChannel, exchange: str = "amq.topic", routing_key: str = "#"
    ) -> None:
        self._channel = channel
        self.queue: str = channel.queue_declare("", durable=True).method.queue
        if exchange:
            channel.queue_bind(self.queue, exchange, routing_key)

    def drain(self) -> list[Delivery]:
        """Take everything out, in order.

        What was confirmed before the call is in the queue: an empty answer is the end.
        """
        found: list[Delivery] = []
        while True:
            method, properties, body = self._channel.basic_get(self.queue, auto_ack=True)
            if method is None:
                return found
            found.append(Delivery(method.exchange, method.routing_key, properties, body))

    def texts(self) -> list[str]:
        """Take everything out, in order, as text."""
        return [delivery.text for delivery in self.drain()]


@contextmanager
def open_session(database: str, *brokers: Broker) -> Iterator[Session]:
    """Open a session in autocommit mode; the brokers get the ids 1, 2, ... of a fresh database."""
    with psycopg.connect(database, autocommit=True) as session:
        for broker in brokers:
            session.execute("SELECT amqp.add_broker(%s)", [broker.url()])
        yield session


def publish(session: Session, *messages: object, broker: int = 1) -> None:
    """Call amqp.publish() for each message, to amq.topic."""
    for message in messages:
        session.execute("SELECT amqp.publish(%s, 'amq.topic', 'key', %s)", [broker, str(message)])


class ServerWarning(NamedTuple):
    """A WARNING of PostgreSQL."""

    sqlstate: str | None
    message: str | None
    detail: str | None
    hint: str | None


def warnings_of(session: Session) -> list[ServerWarning]:
    """Return a list to which every WARNING of the session is added."""
    found: list[ServerWarning] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        # What is in a diagnostic is gone when this returns.
        if diagnostic.severity_nonlocalized == "WARNING":
            found.append(
                ServerWarning(
                    diagnostic.sqlstate,
                    diagnostic.message_primary,
                    diagnostic.message_detail,
                    diagnostic.message_hint,
                )
            )

    session.add_notice_handler(note)
    return found


def wait_for_end(observer: Session, *pids: int) -> None:
    """Wait until these backends are gone."""
    wait_for(
        lambda: (
            not observer.execute(
                "SELECT FROM pg_stat_activity WHERE pid = ANY(%s)", [list(pids)]
            ).fetchall()
        ),
        30,
        f"the end of backends {pids}",
    )


def wait_for_event(observer: Session, pid: int, event: str) -> None:
    """Wait until a backend waits for this event of pg_stat_activity (PgSleep, advisory, ...)."""
    wait_for(
        lambda: observer.execute(
            "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = %s", [pid, event]
        ).fetchall(),
        30,
        f"backend {pid} to wait for {event}",
    )
