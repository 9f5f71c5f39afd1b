"""The relay delivers the outbox: each message as it was given, in order, as transactions commit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.management import Management
from servers.processes import wait_for
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.messages import Inbox
from support.outbox import (
    dead,
    hurry,
    in_outbox,
    put,
    put_many,
    status,
    wait_until_dead,
    wait_until_empty,
    wait_until_refused,
    worker_of,
)
from support.patience import LIMIT
from support.properties import ARRIVED, GIVEN, PROPERTIES
from support.queues import count
from support.sessions import Session, open_session

BACKLOG = 200_000
"""Messages that take the relay long enough to be overtaken."""


def numbers(inbox: Inbox) -> list[int]:
    """Take the numbers that `put_many` published."""
    return [int(text) for text in inbox.texts()]


# ---- What arrives ----


def test_every_property_arrives_as_it_was_given(
    database: str, session: Session, inbox: Inbox
) -> None:
    put(session, "zwölf 😀", mandatory=True, **GIVEN)
    put(session, b"\0\xff" * 100_000, exchange="", routing_key=inbox.queue)
    session.execute("SELECT amqp.publish_outbox(1, 'amq.topic', 'k.j', '{\"a\": [1]}'::jsonb)")
    put(session, "", message_id="empty")
    with RelayProcess(database):
        wait_until_empty(session)
    first, second, third, fourth = inbox.drain()
    assert (first.exchange, first.routing_key) == ("amq.topic", "key")
    assert {name: getattr(first.properties, name) for name in PROPERTIES} == ARRIVED
    assert first.text == "zwölf 😀"
    assert second.body == b"\0\xff" * 100_000
    given = {n for n in PROPERTIES if getattr(second.properties, n) is not None}
    assert given == {"delivery_mode", "message_id"}
    assert second.properties.delivery_mode == 2
    assert (third.routing_key, third.json) == ("k.j", {"a": [1]})
    assert third.properties.content_type == "application/json"
    assert (fourth.body, fourth.properties.message_id) == (b"", "empty")


def test_headers_of_every_type_arrive(database: str, session: Session, inbox: Inbox) -> None:
    headers = {"t": "é", "i": -(2**63), "b": True, "n": None, "a": [1, {"k": "v"}]}
    put(session, headers=headers)
    with RelayProcess(database):
        wait_until_empty(session)
    (message,) = inbox.drain()
    assert message.properties.headers == headers


def test_messages_arrive_in_order_over_transactions(
    database: str, session: Session, channel: BlockingChannel, inbox: Inbox
) -> None:
    with RelayProcess(database):
        for first in range(0, 1000, 10):
            put_many(session, 10, first=first)
        # More than one reading takes.
        put_many(session, 15_000, first=1000)
        wait_until_empty(session)
    arrived: list[int] = []
    for _, _, body in channel.consume(inbox.queue, auto_ack=True, inactivity_timeout=1):
        if body is None:
            break
        arrived.append(int(body))
        if len(arrived) == 16_000:
            break
    channel.cancel()
    assert arrived == list(range(16_000))
    assert numbers(inbox) == []


def test_what_commits_late_arrives(database: str, session: Session, inbox: Inbox) -> None:
    with (
        RelayProcess(database),
        open_session(database, autocommit=False) as late,
        open_session(database, autocommit=False) as prepared,
    ):
        put(late, "late")
        prepared.execute("BEGIN")
        put(prepared, "prepared")
        prepared.execute("PREPARE TRANSACTION 'outbox'")
        put(session, "early")
        wait_until_empty(session)
        assert inbox.texts() == ["early"]
        late.commit()
        wait_until_empty(session)
        assert inbox.texts() == ["late"]
        session.execute("COMMIT PREPARED 'outbox'")
        wait_until_empty(session)
        assert inbox.texts() == ["prepared"]


@pytest.mark.parametrize("number", [1, 20_000])
def test_what_commits_late_does_not_wait_for_the_whole_backlog(
    database: str, session: Session, channel: BlockingChannel, inbox: Inbox, number: int
) -> None:
    with open_session(database, autocommit=False) as late:
        put_many(late, number)
        put_many(session, BACKLOG)
        with RelayProcess(database):
            wait_for(lambda: count(channel, inbox.queue) > 0, LIMIT, "the first messages")
            # From now on, there is always something under way.
            late.commit()
            await_first(session, number)
            wait_until_empty(session)
    assert count(channel, inbox.queue) == BACKLOG + number


def test_a_key_that_has_failed_does_not_wait_for_the_whole_backlog(
    database: str, session: Session, channel: BlockingChannel, inbox: Inbox
) -> None:
    put(session, "refused", exchange="soon", ordering_key="key")
    put_many(session, BACKLOG)
    with RelayProcess(database):
        wait_until_refused(session, 1)
        session.execute("SELECT amqp.exchange_declare(1, 'soon', 'fanout', false, true)")
        session.execute("SELECT amqp.queue_bind(1, %s, 'soon', '')", [inbox.queue])
        await_first(session, 1)
        wait_until_empty(session)
    assert count(channel, inbox.queue) == BACKLOG + 1


def await_first(session: Session, number: int) -> None:
    """Wait until those with the lowest ids are delivered, and see that not all others are."""
    wait_for(lambda: not in_outbox(session, where=f"id <= {number}"), LIMIT, "the first ones")
    assert in_outbox(session)


def test_what_commits_late_holds_back_its_key(
    database: str, session: Session, inbox: Inbox
) -> None:
    """The relay has read past it when it appears together with a later one."""
    with RelayProcess(database), open_session(database, autocommit=False) as late:
        put(late, "1", ordering_key="key")
        put(session, "passing by")
        wait_until_empty(session)
        put(late, "2", ordering_key="key")
        late.commit()
        wait_until_empty(session)
    assert inbox.texts() == ["passing by", "1", "2"]


def test_messages_wait_for_their_time(database: str, session: Session, inbox: Inbox) -> None:
    now = datetime.now(UTC)
    put(session, "far", deliver_at=now + timedelta(hours=1))
    put(session, "past", deliver_at=now - timedelta(hours=1))
    put(session, "at once")
    with RelayProcess(database):
        wait_for(lambda: len(in_outbox(session)) == 1, LIMIT, "two to be delivered")
        assert inbox.texts() == ["past", "at once"]
        soon = datetime.now(UTC) + timedelta(seconds=1)
        put(session, "soon", deliver_at=soon)
        wait_for(lambda: len(in_outbox(session)) == 1, LIMIT, "the third to be delivered")
        assert datetime.now(UTC) >= soon
        assert inbox.texts() == ["soon"]
        assert (status(session)["pending"], status(session)["waiting"]) == (1, 1)
        session.execute("UPDATE amqp.outbox SET next_attempt_at = now()")
        wait_until_empty(session)
    assert inbox.texts() == ["far"]


# ---- What the broker refuses ----


def test_a_hundred_bad_messages_do_not_stop_the_others(
    database: str, session: Session, inbox: Inbox
) -> None:
    bad = [put(session, exchange=f"no such exchange {n}") for n in range(100)]
    put_many(session, 100)
    with RelayProcess(database):
        wait_until_refused(session, *bad)
        put_many(session, 100, first=101)
        wait_for(lambda: len(in_outbox(session)) == 100, LIMIT, "the others to be delivered")
    assert numbers(inbox) == list(range(1, 201))
    errors = [error for (error,) in in_outbox(session, "last_error")]
    for n, error in enumerate(errors):
        assert f"no exchange 'no such exchange {n}' in vhost" in error
    assert status(session)["last_error"] in errors


def test_unroutable_until_dead_and_retried(
    database: str, session: Session, channel: BlockingChannel
) -> None:
    session.execute("ALTER DATABASE " + session.info.dbname + " SET amqp.max_attempts = 2")
    number = put(
        session,
        "one",
        exchange="amq.direct",
        routing_key="nobody",
        mandatory=True,
        **{**GIVEN, "headers": {"key": "value"}},
    )
    # The same but for the flag: nobody misses it.
    put(session, "two", exchange="amq.direct", routing_key="nobody")
    with RelayProcess(database) as relay:
        wait_until_refused(session, number)
        assert in_outbox(session, "id, attempts, last_error, next_attempt_at IS NOT NULL") == [
            (number, 1, "NO_ROUTE (312)", True)
        ]
        hurry(session)
        wait_until_dead(session, number)
        assert dead(session, "attempts, last_error, body") == [(2, "NO_ROUTE (312)", b"one")]
        assert in_outbox(session) == []
        assert status(session)["dead"] == 1
        inbox = Inbox(channel, "amq.direct", "nobody")
        assert session.execute("SELECT amqp.retry_dead_letters()").fetchone() == (1,)
        wait_until_empty(session)
        (message,) = inbox.drain()
        assert {name: getattr(message.properties, name) for name in PROPERTIES} == ARRIVED
        assert dead(session) == []
        entry = relay.wait_for_event("messages not delivered")
    assert (entry["level"], entry["messages"]) == ("warning", 1)
    assert (entry["verdict"], entry["error"]) == ("refused", "NO_ROUTE (312)")


def test_what_is_too_large_is_refused_alone(database: str, session: Session, inbox: Inbox) -> None:
    session.execute("ALTER DATABASE " + session.info.dbname + " SET amqp.max_attempts = 1")
    # By its key it is confirmed before the large one is written: what RabbitMQ has not confirmed
    # when it closes the channel may arrive twice.
    put(session, "before", ordering_key="key")
    large = session.execute(
        """INSERT INTO amqp.outbox (broker_id, exchange, body, ordering_key)
           VALUES (1, 'amq.topic', convert_to(repeat('x', 135000000), 'UTF8'), 'key')
           RETURNING id"""
    ).fetchone()
    assert large is not None
    put(session, "after")
    with RelayProcess(database):
        wait_until_dead(session, large[0])
        wait_until_empty(session)
    ((error,),) = dead(session, "last_error")
    assert "larger than" in error
    assert inbox.texts() == ["before", "after"]


def test_access_refused_is_refused_alone(
    database: str, session: Session, broker: VHost, management: Management, inbox: Inbox
) -> None:
    management.create_user("outbox", "secret-word")
    try:
        management.grant(broker.vhost, "outbox", write="amq[.]topic")
        session.execute("UPDATE amqp.broker SET username = 'outbox', password = 'secret-word'")
        refused = put(session, exchange="amq.direct")
        pretended = put(session, user_id="guest")
        put(session, "others", user_id="outbox")
        with RelayProcess(database) as relay:
            wait_until_refused(session, refused, pretended)
            wait_for(lambda: len(in_outbox(session)) == 2, LIMIT, "the other to be delivered")
            assert "secret-word" not in relay.log_text()
    finally:
        management.delete_user("outbox")
    assert inbox.texts() == ["others"]
    (first,), (second,) = in_outbox(session, "last_error")
    assert "access to exchange 'amq.direct'" in first
    assert "user_id property set to 'guest'" in second


def test_what_is_nacked_is_never_dead(
    database: str, session: Session, channel: BlockingChannel
) -> None:
    session.execute("ALTER DATABASE " + session.info.dbname + " SET amqp.max_attempts = 1")
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("full", durable=True, arguments=arguments)
    ids = [put(session, n, exchange="", routing_key="full") for n in range(3)]
    with RelayProcess(database):
        wait_for(lambda: len(in_outbox(session)) == 2, LIMIT, "one to be delivered")
        wait_until_refused(session, *ids[1:], attempts=1)
        hurry(session)
        wait_until_refused(session, *ids[1:], attempts=2)
        assert dead(session) == []
        assert in_outbox(session, "last_error")[0] == ("the broker refused it (basic.nack)",)
        arrived: list[str] = []
        while len(arrived) < 3:
            method, _, body = channel.basic_get("full", auto_ack=True)
            if method is not None:
                arrived.append(body.decode())
            hurry(session)
            channel.connection.sleep(0.02)
        wait_until_empty(session)
    assert sorted(arrived) == ["0", "1", "2"]


def test_what_cannot_be_encoded_is_dead_at_once(
    database: str, session: Session, inbox: Inbox
) -> None:
    put(session, "before", ordering_key="b")
    # Nobody can insert that any more.
    session.execute("ALTER TABLE amqp.outbox DROP CONSTRAINT outbox_check")
    session.execute(
        """INSERT INTO amqp.outbox
               (broker_id, exchange, delivery_mode, headers, reply_to, ordering_key)
           VALUES (1, 'amq.topic', 7, NULL, NULL, NULL),
                  (1, 'amq.topic', NULL, '[]', NULL, NULL),
                  (1, 'amq.topic', NULL, '{"CC": "key"}', NULL, NULL),
                  (1, 'amq.topic', NULL, '{"n": 1e30}', NULL, 'a'),
                  (1, repeat('é', 200), NULL, NULL, NULL, NULL),
                  (1, 'amq.topic', NULL, NULL, 'amq.rabbitmq.reply-to', NULL)"""
    )
    put(session, "behind a dead one", ordering_key="a")
    put(session, "after", ordering_key="b")
    with RelayProcess(database) as relay:
        wait_for(lambda: len(in_outbox(session)) == 1, LIMIT, "the others to be delivered")
        assert len(relay.events("messages not delivered")) == 1
        assert inbox.texts() == ["before", "after"]
        assert in_outbox(session, "body, attempts") == [(b"behind a dead one", 0)]
        fields = ["delivery_mode", "headers", "headers", "headers", "exchange", "reply_to"]
        assert [error.partition(":")[0] for (error,) in dead(session, "last_error")] == [
            f"invalid value for {field}" for field in fields
        ]
        assert session.execute("SELECT amqp.discard_dead_letters()").fetchone() == (6,)
        wait_until_empty(session)
        assert inbox.texts() == ["behind a dead one"]


# ---- Ordering keys ----


def test_a_failed_message_holds_back_its_key_alone(
    database: str, session: Session, channel: BlockingChannel, inbox: Inbox
) -> None:
    head = put(session, "a1", exchange="later", ordering_key="a")
    for n in (2, 3):
        put(session, f"a{n}", ordering_key="a")
        put(session, f"b{n}", ordering_key="b")
        put(session, f"c{n}")
    with RelayProcess(database):
        wait_until_refused(session, head)
        put(session, "a4", ordering_key="a")
        put(session, "b4", ordering_key="b")
        wait_for(lambda: len(in_outbox(session)) == 4, LIMIT, "the others to be delivered")
        assert inbox.texts() == ["b2", "c2", "b3", "c3", "b4"]
        assert in_outbox(session, "attempts", "id > 1") == [(0,)] * 3
        channel.exchange_declare("later", "fanout")
        channel.queue_bind(inbox.queue, "later")
        hurry(session)
        wait_until_empty(session)
        assert inbox.texts() == ["a1", "a2", "a3", "a4"]


def test_a_failed_message_holds_back_what_was_read_before_that_was_known(
    database: str, session: Session, inbox: Inbox
) -> None:
    head = put(session, "a1", exchange="no such exchange", ordering_key="a")
    # More than one reading takes: the next is under way while this one is delivered.
    session.execute(
        "SELECT amqp.publish_outbox(1, '', 'nowhere', '') FROM generate_series(1, 12000)"
    )
    behind = put(session, "a2", ordering_key="a")
    put(session, "b1", ordering_key="b")
    with RelayProcess(database):
        wait_until_refused(session, head)
        wait_for(lambda: len(in_outbox(session)) <= 2, LIMIT, "the others to be delivered")
        assert in_outbox(session) == [(head,), (behind,)]
    assert inbox.texts() == ["b1"]


def test_keys_stay_in_order_when_a_queue_refuses_some(
    database: str, session: Session, channel: BlockingChannel
) -> None:
    arguments = {"x-max-length": 20, "x-overflow": "reject-publish"}
    channel.queue_declare("narrow", durable=True, arguments=arguments)
    session.execute(
        """SELECT amqp.publish_outbox(1, '', 'narrow', k || ' ' || n, ordering_key => 'key ' || k)
           FROM generate_series(1, 40) AS n, generate_series(1, 10) AS k ORDER BY n, k"""
    )
    arrived: dict[str, list[int]] = {}
    count = 0
    with RelayProcess(database) as relay:
        while count < 400:
            method, _, body = channel.basic_get("narrow", auto_ack=True)
            if method is None:
                hurry(session)
                channel.connection.sleep(0.005)
                continue
            key, _, number = body.decode().partition(" ")
            arrived.setdefault(key, []).append(int(number))
            count += 1
        wait_until_empty(session)
        assert relay.events("messages not delivered")[0]["verdict"] == "busy"
    assert arrived == {str(key): list(range(1, 41)) for key in range(1, 11)}


# ---- Brokers ----


def test_brokers_come_change_and_go(
    database: str, broker: VHost, management: Management, channel: BlockingChannel, inbox: Inbox
) -> None:
    management.create_vhost("relay-other")
    other = VHost(broker.rabbitmq, "relay-other")
    try:
        with open_session(database) as session, RelayProcess(database) as relay:
            put(session, "1", broker_id=7)
            relay.wait_for_event("relay started")
            assert status(session, 7)["relay"] is None
            assert status(session, 7)["pending"] == 1
            session.add_broker(broker.url())
            session.execute("UPDATE amqp.broker SET broker_id = 7")
            wait_until_empty(session)
            assert inbox.texts() == ["1"]
            assert worker_of(session, 7) == relay.pid
            # The connection to the vhost that it was before is not used any more.
            session.execute("UPDATE amqp.broker SET vhost = 'relay-other'")
            wait_for(
                lambda: (
                    put(session, "gone", broker_id=7) and relay.events("connected to broker")[1:]
                ),
                LIMIT,
                "a connection to the other virtual host",
                interval=0.2,
            )
            wait_until_empty(session)
            inbox.drain()
            put(session, "2", broker_id=7)
            wait_until_empty(session)
            assert inbox.texts() == []
            session.execute("DELETE FROM amqp.broker")
            put(session, "3", broker_id=7)
            wait_for(lambda: worker_of(session, 7) is None, LIMIT, "the worker to end")
            session.add_broker(other.url())
            session.execute("UPDATE amqp.broker SET broker_id = 7")
            wait_until_empty(session)
            assert relay.terminate() == 0
            assert relay.events("relay failed") == relay.events("delivery failed") == []
    finally:
        management.delete_vhost("relay-other")


def test_each_broker_has_its_own_order_and_trouble(
    database: str, session: Session, broker: VHost, inbox: Inbox
) -> None:
    """The hosts of a broker are tried in turn; another broker that is away disturbs nobody."""
    session.execute(
        """INSERT INTO amqp.broker (broker_id, host, port)
           VALUES (1, '127.0.0.2', 9), (1, '127.0.0.2', 10), (2, '127.0.0.2', 9)"""
    )
    put(session, "for nobody", broker_id=2)
    put(session, "for one")
    with RelayProcess(database) as relay:
        wait_for(lambda: len(in_outbox(session)) == 1, LIMIT, "one to be delivered")
        assert inbox.texts() == ["for one"]
        wait_for(lambda: status(session, 2)["last_error"], LIMIT, "the trouble to be noted")
        assert relay.terminate() == 0
    assert "could not connect to 127.0.0.2:9" in status(session, 2)["last_error"]
    assert in_outbox(session, "attempts, last_error") == [(0, None)]
