"""What a daemon does with messages, step by step in the test's own thread, without a broker."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from pika.data import encode_table
from psycopg import sql
from psycopg.types.json import Jsonb

from pg_amqp_daemon.consume.batch import Batch, new_batch
from pg_amqp_daemon.consume.inbox import Inbox
from pg_amqp_daemon.consume.plan import Plan, read_plan
from pg_amqp_daemon.consume.store import Store, Stored
from pg_amqp_daemon.consume.worker import consume_database
from pg_amqp_daemon.runtime.database import Database
from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.consume.properties import Properties
from support.sessions import Session

_as_json = partial(json.dumps, ensure_ascii=False)
ARRIVED = 1_790_000_000.25
"""When all messages arrive, in seconds since 1970."""


def message(
    body: str | bytes = b"",
    routing_key: str | bytes = "key",
    exchange: str | bytes = "events",
    *,
    redelivered: bool = False,
    offset: int | None = None,
    headers: Mapping[str, Any] | bytes | None = None,
    **properties: str | bytes | int,
) -> Delivery:
    """A message as a broker delivers it; of a stream, if it has an offset.

    Headers in bytes are the table with its length.
    """
    given: dict[str, Any] = dict(properties)
    if offset is not None:
        assert not isinstance(headers, bytes)
        headers = {"x-stream-offset": offset, **(headers or {})}
    if headers is not None:
        given["headers"] = headers if isinstance(headers, bytes) else _table(headers)
    return Delivery(
        0, redelivered, _bytes(exchange), _bytes(routing_key), _encoded(given), _bytes(body)
    )


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _table(headers: Mapping[str, Any]) -> bytes:
    pieces: list[bytes] = []
    encode_table(pieces, headers)
    return b"".join(pieces)


def _encoded(given: Mapping[str, Any]) -> bytes:
    """Property flags and list."""
    flags, values = 0, b""
    for position, name in enumerate(Properties._fields):
        value = given.get(name)
        if value is None:
            continue
        flags |= 1 << (15 - position)
        if name == "headers":
            values += value
        elif name == "timestamp":
            values += struct.pack(">Q", value)
        elif isinstance(value, int):
            values += bytes([value])
        else:
            values += bytes([len(_bytes(value))]) + _bytes(value)
    return struct.pack(">H", flags) + values


class Storing:
    """The one that works a consumer."""

    def __init__(
        self, database: Database, inbox: Inbox, store: Store, plan: Callable[[], Plan | None]
    ) -> None:
        self.ask = database.ask
        self.inbox = inbox
        self._store = store
        self._read_plan = plan
        self.plan: Plan | None = None
        """The last one."""

    def look(self) -> Plan:
        """Read the plan, and prove that the target takes what comes."""
        self.plan = plan = self._read_plan()
        assert plan is not None
        self._store.probe(plan)
        return plan

    def put(self, *deliveries: Delivery, rewinds: int | None = None) -> Stored:
        """Store a batch by a new plan."""
        self.look()
        return self.put_on(*deliveries, rewinds=rewinds)

    def put_on(self, *deliveries: Delivery, rewinds: int | None = None) -> Stored:
        """Store a batch by the plan that there is."""
        return self.put_batch(new_batch(1, list(deliveries), [ARRIVED] * len(deliveries)), rewinds)

    def put_batch(self, batch: Batch, rewinds: int | None = None) -> Stored:
        """Store a batch by the plan that there is."""
        assert self.plan is not None
        return self._store.store(self.plan, batch, rewinds)

    def retry(self) -> Stored:
        """Try dead messages again that somebody has asked for."""
        batch = self.inbox.asked_for(self.look().batch_size)
        assert batch is not None
        return self.put_batch(batch)


@contextmanager
def storing(dsn: str, consumer: str = "c", *, is_stream: bool = False) -> Iterator[Storing]:
    """Become the one that works a consumer."""
    database = consume_database(dsn)
    with database.connected():
        inbox = Inbox(database, consumer)
        store = Store(database, inbox, lambda most, most_bytes: None)
        assert inbox.take()
        store.prepare()
        yield Storing(
            database, inbox, store, lambda: read_plan(database, consumer, is_stream=is_stream)
        )


def consume_into(session: Session, target: str | None = None, **columns: object) -> None:
    """Insert a row of amqp.consumer: consumer c of broker 1 and queue q, if not said otherwise.

    A target that ends with a parenthesis is a function.
    """
    if target is not None and target.endswith(")"):
        columns = {"target_function": target, **columns}
    elif target is not None:
        columns = {"target_table": target, **columns}
    given = {"name": "c", "broker_id": 1, "queue": "q", **columns}
    session.run(
        sql.SQL("INSERT INTO amqp.consumer ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, given)),
            sql.SQL(", ").join(
                # Not every encoding of a database has a place for escapes.
                sql.Literal(Jsonb(value, _as_json) if isinstance(value, dict) else value)
                for value in given.values()
            ),
        )
    )


def dead(session: Session, columns: str = "sqlstate", consumer: str = "c") -> list[Any]:
    """What was set aside, in order: one value each, or several."""
    rows = session.run(
        f"SELECT {columns} FROM amqp.inbox_dead WHERE consumer = %s ORDER BY id", consumer
    )
    return [row[0] if len(row) == 1 else row for row in rows]


def counted(session: Session, consumer: str = "c") -> tuple[int, int, int]:
    """Stored, duplicates and without anything to tell a copy by, as amqp.inbox_state has them."""
    ((stored, duplicates, without_id),) = session.run(
        "SELECT stored, duplicates, without_id FROM amqp.inbox_state WHERE consumer = %s", consumer
    )
    return stored, duplicates, without_id
