"""Whole messages from a real broker into amqp.inbox and amqp.inbox_dead, and targets that break."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pika
import pytest

from pg_amqp_py.wire.consume.properties import split_properties
from servers.relay import ConsumeProcess
from support.arrivals import MARK, NO_UTF8, Arrival, producer, properties, publish, spoiled
from support.consumers import Consumer, Desk
from support.fix_servers import VHost


def a_consumer(consumers: Desk, queue_type: str) -> Consumer:
    """One with a queue of this type, which it reads from the beginning."""
    start = {"stream_offset": "first"} if queue_type == "stream" else {}
    return consumers(queue_type=queue_type, **start)


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("queue_type", ["classic", "quorum", "stream"])
def test_a_message_arrives_with_all_that_it_had(consumers: Desk, queue_type: str) -> None:
    consumer = a_consumer(consumers, queue_type)
    session = consumer.session
    headers = {"t": "é", "i": -(2**63), "b": True, "n": None}
    given = pika.BasicProperties(
        content_type="a/b",
        content_encoding="gzip",
        headers=headers,
        delivery_mode=2,
        priority=3,
        correlation_id="ü",
        reply_to="r",
        expiration="100000",
        message_id="m",
        timestamp=1_790_000_000,
        type="t",
        user_id="guest",
        app_id="a",
        cluster_id="cl",
    )
    consumer.channel.basic_publish("", consumer.queue, b"\0\xff", given)
    consumer.wait_for_stored(1)
    row = session.run(
        "SELECT headers - 'x-stream-offset', extract(epoch FROM \"timestamp\")::bigint, body,"
        " stream_offset FROM amqp.inbox"
    )
    assert row == [(headers, 1_790_000_000, b"\0\xff", 0 if queue_type == "stream" else None)]
    place = ("", consumer.queue, False, consumer.queue)
    # RabbitMQ's streams have no place for it.
    cluster = None if queue_type == "stream" else "cl"
    texts = "content_type, content_encoding, delivery_mode, priority, correlation_id, reply_to"
    assert session.run(
        f"SELECT {texts}, expiration, message_id, type, user_id, app_id, cluster_id, exchange,"
        " routing_key, redelivered, queue FROM amqp.inbox"
    ) == [("a/b", "gzip", 2, 3, "ü", "r", "100000", "m", "t", "guest", "a", cluster, *place)]


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("queue_type", ["classic", "quorum", "stream"])
@pytest.mark.parametrize(
    "name", ["message_id", "app_id", "correlation_id", "type", "content_type", "headers"]
)
def test_what_is_no_text_is_set_aside_to_the_last_byte(
    consumers: Desk, broker: VHost, queue_type: str, name: str
) -> None:
    consumer = a_consumer(consumers, queue_type)
    value = {MARK: MARK} if name == "headers" else MARK
    raw = spoiled(properties(**{name: value}))
    with producer(broker.url()) as channel:
        publish(
            channel,
            "",
            consumer.queue,
            [
                Arrival(0, b"before", properties(message_id="a")),
                Arrival(1, b"\0\xff", raw),
                Arrival(2, b"after", properties(message_id="b")),
            ],
        )
    consumer.wait_for_stored(2)
    assert consumer.inbox() == ["before", "after"]
    ((body, kept),) = consumer.session.run("SELECT body, raw_properties FROM amqp.inbox_dead")
    assert body == b"\0\xff"
    if queue_type == "stream":
        # RabbitMQ puts the offset in front of the headers that it was given.
        found = getattr(split_properties(kept), name)
        assert found.count(NO_UTF8) == (2 if name == "headers" else 1)
    else:
        assert kept == raw


@pytest.mark.usefixtures("daemon")
def test_bodies_of_every_size_arrive(consumers: Desk) -> None:
    consumer = consumers()
    chance = random.Random(7)
    bodies = [chance.randbytes(size) for size in (0, 1, 131_064, 131_065, 1 << 20, 20_000_000)]
    consumer.publish(*bodies)
    consumer.wait_for_stored(len(bodies))
    found = consumer.session.run("SELECT body FROM amqp.inbox ORDER BY id")
    assert [body for (body,) in found] == bodies


BROKEN = {
    "dropped": ("ALTER TABLE t RENAME TO t2; CREATE TABLE t (id integer); DROP TABLE t2", None),
    "no privilege": ("REVOKE ALL ON t FROM PUBLIC, worker", "GRANT SELECT, INSERT ON t TO worker"),
    "a column": ("TRUNCATE t; ALTER TABLE t ADD must text NOT NULL", "ALTER TABLE t DROP must"),
    "no key": ("ALTER TABLE t DROP CONSTRAINT t_pkey", "ALTER TABLE t ADD PRIMARY KEY (id)"),
}


@pytest.fixture
def worker(database: str, consumers: Desk) -> Iterator[Consumer]:
    """A consumer of table t, for a role that may do what it must."""
    consumer = consumers(enabled=False)
    session = consumer.session
    session.execute(
        """CREATE ROLE worker LOGIN;
           GRANT USAGE ON SCHEMA amqp TO worker;
           GRANT ALL ON ALL TABLES IN SCHEMA amqp TO worker;
           CREATE TABLE t (id integer PRIMARY KEY);
           GRANT SELECT, INSERT, UPDATE ON t TO worker"""
    )
    columns = '{"id": "body.id"}'
    consumer.change(target_table="t", columns=columns, on_conflict="update", enabled=True)
    with ConsumeProcess(f"{database} user=worker"):
        yield consumer
    session.execute("DROP OWNED BY worker; DROP ROLE worker")


@pytest.mark.parametrize("how", BROKEN)
def test_a_target_that_breaks_is_waited_for_and_gone_on_with(worker: Consumer, how: str) -> None:
    session = worker.session
    worker.publish('{"id": 1}')
    worker.wait_for_stored(1)
    breaks, mends = BROKEN[how]
    session.execute(breaks.encode())
    worker.publish('{"id": 2}', "bad", '{"id": 3}')
    worker.wait_until("the trouble", lambda status: status["trouble"])
    assert (worker.status()["dead"], worker.status()["stored"]) == (0, 1)
    if mends is None:
        session.execute(
            "GRANT SELECT, INSERT, UPDATE ON t TO worker; ALTER TABLE t ADD PRIMARY KEY (id)"
        )
        mends = "UPDATE amqp.consumer SET target_table = 't'"
    elif how == "no privilege":
        mends += "; GRANT UPDATE ON t TO worker"
    session.execute(mends.encode())
    worker.wait_for_stored(3)
    worker.wait_until("the end of the trouble", lambda status: status["trouble"] is None)
    assert session.value("SELECT array_agg(id ORDER BY id) FROM t WHERE id > 1") == [2, 3]
    assert [state for state, _ in worker.dead()] == ["22P02"]
    assert worker.ready() == 0


@pytest.mark.usefixtures("daemon")
def test_dead_messages_are_tried_again_by_the_daemon(consumers: Desk) -> None:
    consumer = consumers()
    session = consumer.session
    session.execute("CREATE TABLE t (id integer)")
    consumer.change(target_table="t")
    consumer.publish('{"id": 5000000000}', '{"id": "x"}')
    consumer.wait_until("the dead", lambda status: status["dead"] == 2)
    session.execute("ALTER TABLE t ALTER id TYPE bigint")
    session.run("SELECT amqp.retry_dead_messages(%s)", consumer.name)
    consumer.wait_for_stored(1)
    assert session.run("SELECT attempts, retry FROM amqp.inbox_dead") == [(2, False)]
    assert session.value("SELECT id FROM t") == 5_000_000_000
    session.run("SELECT amqp.discard_dead_messages(%s)", consumer.name)
    assert consumer.status()["dead"] == 0
