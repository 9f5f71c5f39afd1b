"""What `pg-amqp consume` is to be seen beside: its limits, and what people write instead of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import psycopg
from pika.adapters.blocking_connection import BlockingChannel

from bench.clock import cpu
from bench.drain import Drain, open_channel
from bench.lab import Lab, Session
from bench.orders import BATCH, Order, in_batches
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.consume.channel import connect_consumer

_INSERT = (
    "INSERT INTO bench.orders_in (id, amount, customer) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
)
_STAGE = "CREATE TEMPORARY TABLE stage (LIKE bench.orders_in) ON COMMIT DELETE ROWS"
_FROM_STAGE = "INSERT INTO bench.orders_in SELECT * FROM stage ON CONFLICT DO NOTHING"
_PREFETCH = 2 * BATCH
_PATIENCE = 60.0


def receive(
    lab: Lab, queue: str, count: int, arguments: Mapping[str, Any] = MappingProxyType({})
) -> Drain:
    """Take messages by our own wire, and acknowledge them; nothing becomes of them."""
    address = Address("127.0.0.1", lab.rabbitmq.amqp_port, "/", "guest", "guest")
    channel = connect_consumer(address, {"connection_name": "the limit"}, 5, lambda: None)
    taken = acked = tag = 0
    start, before = time.perf_counter(), time.process_time()
    channel.consume(queue, _PREFETCH, arguments, time.monotonic() + _PATIENCE)
    while taken < count:
        channel.wait(time.monotonic() + _PATIENCE)
        channel.connection.receive()
        deliveries = channel.take()
        if deliveries:
            taken += len(deliveries)
            tag = deliveries[-1].tag
        if taken - acked >= BATCH or taken >= count:
            channel.ack(tag, time.monotonic() + _PATIENCE)
            acked = taken
    done = Drain(count, time.perf_counter() - start, time.process_time() - before)
    channel.connection.close()
    return done


def copied(those: Sequence[Order]) -> list[bytes]:
    """Batches of orders as COPY takes them."""
    return [
        b"".join(f"{order.id}\t{order.amount}\t{order.customer}\n".encode() for order in batch)
        for batch in in_batches(those)
    ]


def copy(lab: Lab, batches: Sequence[bytes], count: int) -> Drain:
    """COPY to a stage and INSERT from there, a transaction a batch, from memory."""

    def work() -> None:
        for batch in batches:
            with session.cursor().copy("COPY stage FROM STDIN") as copying:
                copying.write(batch)
            session.execute(_FROM_STAGE)
            session.commit()

    with psycopg.connect(lab.postgres.dsn()) as session:
        session.execute(_STAGE)
        session.commit()
        return _measure(session, count, work)


def in_thousands(lab: Lab, queue: str, count: int) -> Drain:
    """pika and executemany, as careful people write it: what is committed is acknowledged."""

    def work(session: Session, channel: BlockingChannel) -> None:
        rows: list[tuple[str, float, str]] = []
        for method, _, body in deliveries(channel, queue, count):
            order = json.loads(body)
            rows.append((order["id"], order["amount"], order["customer"]))
            if len(rows) == BATCH:
                session.cursor().executemany(_INSERT, rows)
                session.commit()
                channel.basic_ack(method.delivery_tag, multiple=True)
                rows.clear()

    return _with_pika(lab, count, work)


def one_by_one(lab: Lab, queue: str, count: int) -> Drain:
    """pika, and a transaction a message."""

    def work(session: Session, channel: BlockingChannel) -> None:
        for method, _, body in deliveries(channel, queue, count):
            order = json.loads(body)
            session.execute(_INSERT, (order["id"], order["amount"], order["customer"]))
            session.commit()
            channel.basic_ack(method.delivery_tag)

    return _with_pika(lab, count, work)


def deliveries(channel: BlockingChannel, queue: str, count: int) -> Iterator[tuple[Any, Any, Any]]:
    """So many messages, to be acknowledged; then none any more."""
    channel.basic_qos(prefetch_count=_PREFETCH)
    all_of_them = channel.consume(queue)
    for _ in range(count):
        yield next(all_of_them)
    channel.cancel()


def _with_pika(lab: Lab, count: int, work: Callable[[Session, BlockingChannel], None]) -> Drain:
    with psycopg.connect(lab.postgres.dsn()) as session, open_channel(lab) as channel:
        return _measure(session, count, lambda: work(session, channel))


def _measure(session: Session, count: int, work: Callable[[], None]) -> Drain:
    pid = session.info.backend_pid
    start, ours, of_postgres = time.perf_counter(), time.process_time(), cpu(pid)
    work()
    elapsed = time.perf_counter() - start
    return Drain(count, elapsed, time.process_time() - ours, cpu(pid) - of_postgres)
