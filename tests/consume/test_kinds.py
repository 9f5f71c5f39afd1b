"""Whether what is consumed is a queue or a stream, which RabbitMQ knows, and headers do not."""

from __future__ import annotations

import pytest

from servers.relay import ConsumeProcess
from support.consumers import Consumer, Desk


def offsets(consumer: Consumer) -> list[int | None]:
    """What amqp.inbox has in stream_offset."""
    rows = consumer.session.run("SELECT stream_offset FROM amqp.inbox ORDER BY id")
    return [offset for (offset,) in rows]


def declare_again(consumer: Consumer, kind: str) -> None:
    """Have another queue of that name."""
    consumer.channel.queue_delete(consumer.queue)
    consumer.declare(kind)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_queue_stays_one_whatever_its_messages_say(
    database: str, consumers: Desk, kind: str
) -> None:
    consumer = consumers(queue_type=kind)
    with ConsumeProcess(database) as daemon:
        for number, offset in enumerate([2**62, 5, 0, None, 7], 1):
            headers = {} if offset is None else {"x-stream-offset": offset}
            consumer.publish(str(number), headers=headers)
            consumer.wait_for_stored(number)
        consumer.publish("copy", message_id="same")
        consumer.wait_for_stored(6)
        consumer.publish("copy", message_id="same", headers={"x-stream-offset": 8})
        consumer.wait_until("a duplicate", lambda status: status["duplicates"] == 1)
        assert len(daemon.events("consuming")) == 1
    assert offsets(consumer) == [None] * 6
    assert consumer.session.run("SELECT * FROM amqp.inbox_offset") == []


def test_a_dead_message_of_a_queue_has_no_offset(database: str, consumers: Desk) -> None:
    consumer = consumers()
    consumer.session.run("CREATE TABLE t (id integer, o bigint)")
    consumer.change(target_table="t", columns='{"id": "body", "o": "stream_offset"}')
    consumer.publish("1", "x", headers={"x-stream-offset": 3})
    with ConsumeProcess(database):
        consumer.wait_until("both", lambda status: status["stored"] == status["dead"] == 1)
    assert consumer.session.run("SELECT id, o FROM t") == [(1, None)]
    assert consumer.session.run("SELECT stream_offset FROM amqp.inbox_dead") == [(None,)]


def test_rewinding_a_queue_changes_nothing(database: str, consumers: Desk) -> None:
    consumer = consumers()
    consumer.session.run("SELECT amqp.rewind(%s, 3)", consumer.name)
    consumer.publish("a")
    with ConsumeProcess(database):
        consumer.wait_for_stored(1)
        consumer.session.run("SELECT amqp.rewind(%s, 7)", consumer.name)
        consumer.publish("b")
        consumer.wait_for_stored(2)


def test_a_name_may_be_a_queue_s_then_a_stream_s_then_a_queue_s_again(
    database: str, consumers: Desk
) -> None:
    consumer = consumers(stream_offset="first")
    with ConsumeProcess(database):
        for count, kind in enumerate(["stream", "quorum", "classic"], 1):
            declare_again(consumer, kind)
            consumer.publish(kind)
            consumer.wait_for_stored(count)
    assert consumer.inbox() == ["stream", "quorum", "classic"]


def test_a_stream_that_ends_before_where_it_was_left_is_a_trouble(
    database: str, consumers: Desk
) -> None:
    consumer = consumers(queue_type="stream", stream_offset="first")
    with ConsumeProcess(database):
        consumer.publish(*map(str, range(20)))
        consumer.wait_for_stored(20)
        declare_again(consumer, "stream")
        consumer.publish("new")
        consumer.wait_for_trouble("ends before offset 20")
        consumer.session.run("SELECT amqp.rewind(%s, 0)", consumer.name)
        consumer.wait_for_stored(21)
        consumer.wait_until("no trouble", lambda status: status["trouble"] is None)
    assert consumer.inbox() == [*map(str, range(20)), "new"]


def test_a_stream_is_read_on_one_by_one(database: str, consumers: Desk) -> None:
    consumer = consumers(queue_type="stream", stream_offset="first", batch_size=1, prefetch=1)
    for count, body in enumerate("abc", 1):
        with ConsumeProcess(database):
            consumer.publish(body)
            consumer.wait_for_stored(count)
    assert consumer.inbox() == ["a", "b", "c"]
    assert consumer.status()["last_error"] is None
