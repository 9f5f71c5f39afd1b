"""What a broker refuses at commit: which messages, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.management import Management
from support.failures import failure_fixtures, warning
from support.fix_servers import VHost
from support.queues import declare, numbers_in, take
from support.sessions import Session
from support.shared import assert_works

session, through, direct = failure_fixtures()


def publish_mixed(
    session: Session,
    broker_id: int,
    meanwhile: Callable[[], object],
    *,
    every: int = 7,
    exchange: str = "bad",
) -> list[int]:
    """Publish 3,000 messages, every so many of them to another exchange; return the rest."""
    with session.transaction():
        session.run(
            "SELECT amqp.publish(%s, CASE WHEN n %% %s = 3 THEN %s ELSE 'events' END, 'key',"
            " n::text) FROM generate_series(0, 2999) AS n",
            broker_id,
            every,
            exchange,
        )
        meanwhile()
    return [n for n in range(3000) if n % every != 3]


@pytest.mark.parametrize("every", [4, 97, 2999])
def test_exchange_deleted_before_commit(
    session: Session, direct: int, channel: BlockingChannel, every: int
) -> None:
    declare(channel)
    declare(channel, "bad")
    others = publish_mixed(session, direct, lambda: channel.exchange_delete("bad"), every=every)
    count = 3000 - len(others)
    found = warning(session)
    noun = "message" if count == 1 else "messages"
    assert found.message == f'amqp: {count} {noun} to exchange "bad" refused by broker {direct}'
    assert "no exchange 'bad'" in found.detail
    assert "404" in found.detail
    # Each exactly once, and in order.
    assert numbers_in(channel, "events", len(others)) == others
    assert take(channel, "bad") == []
    # Gone is gone: the next transaction hears it in time.
    error = session.error("SELECT amqp.publish(%s, 'bad', 'key', 'x')", direct)
    assert error.sqlstate == "42704"
    assert_works(session, direct, channel, "events")


def test_two_exchanges_deleted_before_commit(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    declare(channel)
    for name in ("bad", "it's worse"):
        declare(channel, name)
    with session.transaction():
        for number in range(9):
            exchange = ("events", "bad", "it's worse")[number % 3]
            session.publish(direct, exchange, [number])
        channel.exchange_delete("bad")
        channel.exchange_delete("it's worse")
    assert sorted(found.message for found in session.warnings()) == [
        f'amqp: 3 messages to exchange "bad" refused by broker {direct}',
        f'amqp: 3 messages to exchange "it\'s worse" refused by broker {direct}',
    ]
    assert numbers_in(channel, "events", 3) == [0, 3, 6]


@pytest.fixture
def writer(
    session: Session, broker: VHost, management: Management
) -> Iterator[tuple[int, Callable[..., None]]]:
    """A broker row of a user that may write nowhere but to events, and how to change that."""
    user = f"writer-{broker.vhost}"
    management.create_user(user, "writes")

    def allow(write: str = "^events$") -> None:
        management.grant(broker.vhost, user, configure="", write=write, read="")

    allow()
    yield session.add_broker(broker.url(user, "writes")), allow
    management.delete_user(user)


def test_access_refused_at_commit(
    session: Session, writer: tuple[int, Callable[..., None]], channel: BlockingChannel
) -> None:
    declare(channel)
    declare(channel, "bad")
    broker_id, _ = writer
    others = publish_mixed(session, broker_id, lambda: None)
    found = warning(session)
    refused = 3000 - len(others)
    assert (
        found.message == f'amqp: {refused} messages to exchange "bad" refused by broker {broker_id}'
    )
    assert "ACCESS_REFUSED" in found.detail
    assert "exchange 'bad'" in found.detail
    assert numbers_in(channel, "events", len(others)) == others
    assert take(channel, "bad") == []
    error = session.error("SELECT amqp.autonomous_publish(%s, 'bad', 'key', 'x')", broker_id)
    assert error.sqlstate in ("42501", "55000")
    assert "ACCESS_REFUSED" in error.detail


def test_topic_refused_at_commit(
    session: Session,
    broker: VHost,
    management: Management,
    writer: tuple[int, Callable[..., None]],
    channel: BlockingChannel,
) -> None:
    declare(channel)
    broker_id, _ = writer
    management.request(
        "PUT",
        "topic-permissions",
        broker.vhost,
        f"writer-{broker.vhost}",
        body={"exchange": "events", "write": "^good", "read": ".*"},
    )
    with session.transaction():
        for number, key in enumerate(("good.a", "bad.a", "good.b", "bad.b", "bad.a", "good.c")):
            session.publish(broker_id, "events", [number], key)
    found = sorted(session.warnings(), key=lambda report: report.message)
    place = 'to exchange "events" with routing key'
    assert [report.message for report in found] == [
        f'amqp: 1 message {place} "bad.b" refused by broker {broker_id}',
        f'amqp: 2 messages {place} "bad.a" refused by broker {broker_id}',
    ]
    assert all("ACCESS_REFUSED" in report.detail for report in found)
    assert numbers_in(channel, "events", 3) == [0, 2, 5]


def test_message_larger_than_the_broker_takes(
    session: Session, small_messages: int, direct: int, channel: BlockingChannel
) -> None:
    declare(channel)
    sizes = [10, small_messages + 1, small_messages, 200_000, 20, 30]
    with session.transaction():
        for size in sizes:
            session.run("SELECT amqp.publish(%s, 'events', 'key', repeat('x', %s))", direct, size)
    refused = session.warnings()
    assert all("message size" in report.detail for report in refused)
    assert all('exchange "events"' in report.message for report in refused)
    counts = sum(int(report.message.split()[1]) for report in refused)
    assert counts == 2
    arrived = [len(body) for body in take(channel, "events", 4)]
    assert arrived == [size for size in sizes if size <= small_messages]
    error = session.error(
        "SELECT amqp.autonomous_publish(%s, 'events', 'key', repeat('x', 30000))", direct
    )
    assert "message size" in error.detail
    assert take(channel, "events") == []


def test_nack(session: Session, direct: int, channel: BlockingChannel) -> None:
    channel.exchange_declare("events", "topic")
    channel.queue_declare("events", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.queue_bind("events", "events", "full.#")
    channel.queue_declare("others")
    channel.queue_bind("others", "events", "others")
    with session.transaction():
        for number in range(20):
            session.publish(direct, "events", [number], "full" if number % 2 else "others")
    found = warning(session)
    arrived = numbers_in(channel, "events", 1)
    refused = 10 - len(arrived)
    assert refused > 0
    assert found.message.startswith(f"amqp: {refused} message")
    assert found.message.endswith(f'to exchange "events" refused by broker {direct}')
    assert "basic.nack" in found.detail
    assert arrived == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19][: len(arrived)]
    assert numbers_in(channel, "others", 10) == list(range(0, 20, 2))
    error = session.run("SELECT amqp.autonomous_publish(%s, 'events', 'full', '1')", direct)
    assert error == [(True,)]
    report = session.error("SELECT amqp.autonomous_publish(%s, 'events', 'full', '2')", direct)
    assert report.sqlstate == "55000"
    assert "basic.nack" in report.detail


def test_unroutable_mandatory(session: Session, direct: int, channel: BlockingChannel) -> None:
    channel.exchange_declare("events", "topic")
    channel.queue_declare("events")
    channel.queue_bind("events", "events", "here")
    publish = "SELECT amqp.publish(%s, 'events', %s, %s, mandatory => %s)"
    with session.transaction():
        session.run(publish, direct, "here", "1", True)
        session.run(publish, direct, "nowhere", "2", True)
        session.run(publish, direct, "nowhere", "3", False)
        session.run(publish, direct, "nowhere", "4", True)
        session.run(publish, direct, "here", "5", True)
    found = warning(session)
    assert found.message == (
        f'amqp: 2 messages to exchange "events" with routing key "nowhere"'
        f" returned as unroutable by broker {direct}"
    )
    assert "NO_ROUTE" in found.detail
    assert "312" in found.detail
    assert numbers_in(channel, "events", 2) == [1, 5]
    error = session.error(
        "SELECT amqp.autonomous_publish(%s, 'events', 'nowhere', 'x', mandatory => true)", direct
    )
    assert error.sqlstate == "55000"
    assert 'routing key "nowhere"' in error.message
    assert "NO_ROUTE" in error.detail


def test_many_unroutable_keys_do_not_flood(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    channel.exchange_declare("events", "topic")
    session.run(
        "SELECT amqp.publish(%s, 'events', n::text, 'x', mandatory => true)"
        " FROM generate_series(1, 2000) AS n",
        direct,
    )
    found = session.warnings()
    assert 2 <= len(found) <= 20
    assert "more" in found[-1].message
    counts = [int(report.message.split()[1]) for report in found]
    assert sum(counts) == 2000


def test_user_id_of_somebody_else(session: Session, direct: int, channel: BlockingChannel) -> None:
    declare(channel)
    publish = "SELECT amqp.publish(%s, 'events', 'key', %s, user_id => %s)"
    with session.transaction():
        session.run(publish, direct, "1", "guest")
        session.run(publish, direct, "2", "somebody")
        session.run(publish, direct, "3", None)
        session.run(publish, direct, "4", "somebody")
        session.run(publish, direct, "5", "guest")
    found = warning(session)
    assert found.message == f'amqp: 2 messages to exchange "events" refused by broker {direct}'
    assert "user_id" in found.detail
    assert numbers_in(channel, "events", 3) == [1, 3, 5]


def test_all_causes_in_one_transaction(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    declare(channel)
    declare(channel, "bad")
    channel.queue_unbind("events", "events", "#")
    channel.queue_bind("events", "events", "key")
    with session.transaction():
        for number in range(0, 400, 4):
            session.publish(direct, "events", [number])
            session.publish(direct, "bad", [number + 1])
            session.run(
                "SELECT amqp.publish(%s, 'events', 'nowhere', 'x', mandatory => true)", direct
            )
            session.run("SELECT amqp.publish(%s, 'events', 'key', 'x', user_id => 'x')", direct)
        channel.exchange_delete("bad")
    messages = [report.message for report in session.warnings()]
    assert len(messages) == 3
    assert all(message.startswith("amqp: 100 messages") for message in messages)
    assert numbers_in(channel, "events", 100) == list(range(0, 400, 4))
    counts = session.run("SELECT published, returned, failed, pending FROM amqp.status()")
    assert counts == [(400, 100, 200, 0)]
