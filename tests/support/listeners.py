"""What tests of listeners share: a row of amqp.listener, and the queue that its messages reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from psycopg import sql

from servers.processes import wait_for
from support.fix_servers import VHost
from support.messages import Delivery, Inbox
from support.patience import LIMIT
from support.sessions import Session, open_session

GAP = "pg-amqp.gap"
_numbers = count(1)


class Listener:
    """A row for a channel and an exchange of a test's own, with a queue behind it."""

    def __init__(
        self,
        session: Session,
        channel: BlockingChannel,
        name: str | None = None,
        *,
        exchange: str | None = None,
        broker_id: int = 1,
        **columns: Any,
    ) -> None:
        self.session = session
        self.name = name or f"channel_{next(_numbers)}"
        """Of the channel in PostgreSQL."""
        self.exchange = exchange or f"exchange-{next(_numbers)}"
        channel.exchange_declare(self.exchange, "topic", durable=True)
        self.inbox = Inbox(channel, self.exchange, "#")
        self.columns = {
            "channel": self.name,
            "broker_id": broker_id,
            "exchange": self.exchange,
            **columns,
        }
        names = sql.SQL(", ").join(map(sql.Identifier, self.columns))
        places = sql.SQL(", ").join([sql.Placeholder()] * len(self.columns))
        ((self.id,),) = session.run(
            sql.SQL("INSERT INTO amqp.listener ({}) VALUES ({}) RETURNING listener_id").format(
                names, places
            ),
            *self.columns.values(),
        )
        self.received: list[Delivery] = []
        """What has come so far, but for gaps."""
        self.gaps: list[dict[str, Any]] = []
        """The headers of the gaps that were told so far."""

    def notify(self, *payloads: str) -> None:
        """Send notifications, each in a transaction of its own."""
        for payload in payloads:
            self.session.execute(
                sql.SQL("NOTIFY {}, {}").format(sql.Identifier(self.name), sql.Literal(payload))
            )

    def change(self, **columns: Any) -> None:
        """Change columns of the row."""
        sets = ", ".join(f"{name} = %s" for name in columns)
        self.session.run(
            f"UPDATE amqp.listener SET {sets} WHERE listener_id = %s", *columns.values(), self.id
        )

    def take(self) -> None:
        """Take what has come."""
        for delivery in self.inbox.drain():
            if delivery.properties.type == GAP:
                assert delivery.properties.headers is not None
                self.gaps.append(dict(delivery.properties.headers))
            else:
                self.received.append(delivery)

    @property
    def texts(self) -> list[str]:
        """The payloads that have come so far."""
        return [delivery.text for delivery in self.received]

    def wait_for_texts(self, *texts: str) -> None:
        """Wait until exactly these have come, in this order."""

        def arrived() -> bool:
            self.take()
            return len(self.received) >= len(texts)

        try:
            wait_for(arrived, LIMIT, f"{len(texts)} notifications")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.texts[:20]}, {self.status()}") from None
        assert self.texts == list(texts)

    def wait_until_heard(self) -> None:
        """Wait until the daemon listens for it, whichever of row and daemon was there first."""
        self.wait_for_gap("start", "row")

    def wait_for_gap(self, *reasons: str) -> dict[str, Any]:
        """Wait until a gap was told for one of these reasons; it is forgotten then."""
        found: list[dict[str, Any]] = []

        def told() -> bool:
            self.take()
            found.extend(gap for gap in self.gaps if gap["gap-reason"] in reasons)
            return bool(found)

        try:
            wait_for(told, LIMIT, f"a gap: {' or '.join(reasons)}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.gaps}, {self.status()}") from None
        self.gaps.remove(found[0])
        return found[0]

    def status(self) -> dict[str, Any]:
        """Its line of amqp.listener_status()."""
        cursor = self.session.execute(
            "SELECT * FROM amqp.listener_status() WHERE (channel, exchange) = (%s, %s)",
            [self.name, self.exchange],
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

    def wait_for_count(self, what: str, count: int) -> None:
        """Wait until its status counts so many: received, published, ..."""
        self.wait_until(f"{count} {what}", lambda status: status[what] == count)


Switchboard = Callable[..., Listener]
"""Makes listeners."""


@contextmanager
def switchboard(database: str, broker: VHost, port: int | None = None) -> Iterator[Switchboard]:
    """Makes listeners in a database for a broker, which is row 1 of amqp.broker."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url()))
    try:
        with open_session(database) as session:
            session.add_broker(broker.url(port=port))
            channel = connection.channel()
            yield lambda name=None, **columns: Listener(session, channel, name, **columns)
    finally:
        with suppress(AMQPError):
            # Its broker may have been killed.
            connection.close()
