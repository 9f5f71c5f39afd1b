"""What tests of consumers share: a queue, its consumer's row, and how both are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from support.fix_servers import VHost
from support.patience import LIMIT
from support.sessions import Session, open_session

_numbers = count(1)


class Consumer:
    """A queue of a test's own and a row of amqp.consumer for it, with the same name."""

    def __init__(
        self,
        session: Session,
        channel: BlockingChannel,
        *,
        queue_type: str = "classic",
        arguments: Mapping[str, object] | None = None,
        broker_id: int = 1,
        **columns: Any,
    ) -> None:
        self.session = session
        self.channel = channel
        self.name = self.queue = f"consumer-{next(_numbers)}"
        self.declare(queue_type, arguments)
        self.columns = {
            "name": self.name,
            "broker_id": broker_id,
            "queue": self.queue,
            **columns,
        }
        names = ", ".join(self.columns)
        places = ", ".join(["%s"] * len(self.columns))
        session.run(
            f"INSERT INTO amqp.consumer ({names}) VALUES ({places})", *self.columns.values()
        )

    def declare(
        self, queue_type: str = "classic", arguments: Mapping[str, object] | None = None
    ) -> None:
        """Have the queue."""
        given = {"x-queue-type": queue_type, **(arguments or {})}
        self.channel.queue_declare(self.queue, durable=True, arguments=given)

    def publish(self, *bodies: str | bytes, **properties: Any) -> None:
        """Put messages into the queue; each has an id, unless one is given."""
        for body in bodies:
            given = {"message_id": f"id-{next(_numbers)}", "delivery_mode": 2, **properties}
            self.channel.basic_publish("", self.queue, body, pika.BasicProperties(**given))

    def change(self, **columns: Any) -> None:
        """Change columns of the row."""
        sets = ", ".join(f"{name} = %s" for name in columns)
        self.session.run(
            f"UPDATE amqp.consumer SET {sets} WHERE name = %s", *columns.values(), self.name
        )

    def status(self) -> dict[str, Any]:
        """Its line of amqp.inbox_status()."""
        cursor = self.session.execute(
            "SELECT * FROM amqp.inbox_status() WHERE consumer = %s", [self.name]
        )
        (row,) = cursor.fetchall()
        assert cursor.description is not None
        return {column.name: value for column, value in zip(cursor.description, row, strict=True)}

    def wait_until(self, what: str, condition: Callable[[dict[str, Any]], object]) -> None:
        """Wait until its status is so."""
        try:
            wait_for(lambda: condition(self.status()), LIMIT, what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.status()}") from None

    def wait_for_stored(self, count: int) -> None:
        """Wait until so many messages are stored."""
        self.wait_until(f"{count} messages", lambda status: status["stored"] >= count)

    def wait_for_trouble(self, words: str) -> None:
        """Wait until its trouble has these words."""
        self.wait_until(words, lambda status: words in (status["trouble"] or ""))

    def inbox(self) -> list[str]:
        """The bodies in amqp.inbox, in order."""
        rows = self.session.run(
            "SELECT convert_from(body, 'UTF8') FROM amqp.inbox WHERE consumer = %s ORDER BY id",
            self.name,
        )
        return [body for (body,) in rows]

    def dead(self) -> list[tuple[Any, ...]]:
        """SQLSTATE and error of its dead messages."""
        return self.session.run(
            "SELECT sqlstate, error FROM amqp.inbox_dead WHERE consumer = %s ORDER BY id",
            self.name,
        )

    def ready(self) -> int:
        """Messages that are ready in the queue."""
        found = self.channel.queue_declare(self.queue, passive=True).method.message_count
        return int(found)


Desk = Callable[..., Consumer]
"""Makes consumers."""


@contextmanager
def desk(database: str, broker: VHost, port: int | None = None) -> Iterator[Desk]:
    """Makes consumers in a database for a broker, which is row 1 of amqp.broker."""
    with (
        open_session(database) as session,
        pika.BlockingConnection(pika.URLParameters(broker.url())) as connection,
    ):
        session.add_broker(broker.url(port=port))
        channel = connection.channel()
        yield lambda **columns: Consumer(session, channel, **columns)
