"""A queue that does not confirm: its messages wait, written once; those of others go out."""

from __future__ import annotations

from collections import Counter

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.proxy import CuttingProxy
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.health import watched
from support.messages import Inbox
from support.outbox import in_outbox, put, wait_until_empty, wait_until_refused
from support.patience import LIMIT
from support.queues import count, fanout, take
from support.sessions import Session
from support.stuck import suspended

WAITS = 'a queue has not confirmed messages to exchange "orders"'


@pytest.mark.slow
def test_a_stuck_queue_gets_no_copies_and_stops_nobody(
    database: str, session: Session, broker: VHost, channel: BlockingChannel, inbox: Inbox
) -> None:
    fanout(channel, "orders", "ledger", "mailer")
    with watched(database) as (relay, health):
        with suspended(broker, "mailer"):
            order = put(session, "order", exchange="orders", routing_key="")
            wait_until_refused(session, order)
            assert in_outbox(session, "last_error") == [(WAITS,)]
            # It comes due again and again, and is not written again.
            for attempts in (2, 3):
                session.execute("UPDATE amqp.outbox SET next_attempt_at = now()")
                wait_until_refused(session, order, attempts=attempts)
                put(session, f"other {attempts}")
                wait_for(lambda: len(in_outbox(session)) == 1, LIMIT, "the other to go out")
            # It would meet the same queue.
            second = put(session, "second", exchange="orders", routing_key="")
            wait_until_refused(session, second)
            assert inbox.texts() == ["other 2", "other 3"]
            answer = health(503)
            assert answer["brokers"] == {
                "1": 'a queue has not confirmed 1 message to exchange "orders"'
            }
            assert relay.metric('pg_amqp_trouble{broker_id="1"}') == 1
            assert take(channel, "ledger") == ["order"]
            assert len(relay.events("queue does not confirm")) == 1
        # Both at once, and not when their time has come.
        wait_until_empty(session)
        health(200)
        assert take(channel, "mailer") == ["order", "second"]
        assert take(channel, "ledger") == ["second"]
        assert relay.events("connection to broker lost") == []


@pytest.mark.slow
def test_many_messages_to_a_stuck_queue(
    database: str, session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    """More than RabbitMQ reads from whoever publishes to such a queue, among as many others."""
    fanout(channel, "orders", "ledger", "mailer")
    channel.queue_declare("bills", durable=True)
    with RelayProcess(database):
        with suspended(broker, "mailer"):
            session.execute(
                """SELECT amqp.publish_outbox(
                       1, CASE n % 2 WHEN 0 THEN 'orders' ELSE '' END, 'bills', n::text)
                   FROM generate_series(1, 6000) AS n"""
            )
            wait_for(lambda: count(channel, "bills") == 3000, LIMIT, "the others to go out")
            wait_for(
                lambda: not in_outbox(session, where="attempts = 0"),
                LIMIT,
                "the rest to be put off",
            )
            assert max(Counter(take(channel, "ledger")).values()) == 1
        wait_until_empty(session)
    found = take(channel, "mailer")
    assert sorted(found, key=int) == [str(n) for n in range(2, 6001, 2)]
    assert sorted(take(channel, "bills"), key=int) == [str(n) for n in range(1, 6001, 2)]


@pytest.mark.slow
def test_a_queue_that_gets_stuck_under_load(
    database: str, session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    """All that is written to the stuck connection is written once, the half-written included."""
    fanout(channel, "orders", "ledger", "mailer")
    session.execute(
        """SELECT amqp.publish_outbox(1, 'orders', '', repeat('x', 3000) || n)
           FROM generate_series(1, 30000) AS n"""
    )
    with RelayProcess(database):
        wait_for(lambda: count(channel, "ledger") > 5000, LIMIT, "the first to arrive")
        with suspended(broker, "mailer"):
            wait_for(lambda: in_outbox(session, where="attempts > 0"), LIMIT, "it to be noticed")
        wait_until_empty(session)
    copies = Counter(take(channel, "mailer"))
    assert len(copies) == 30_000
    assert max(copies.values()) == 1


@pytest.mark.slow
def test_a_late_confirm_settles(
    database: str, session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    fanout(channel, "orders", "mailer")
    with RelayProcess(database):
        with suspended(broker, "mailer"):
            ids = [
                put(session, n, exchange="orders", routing_key="", ordering_key="key")
                for n in range(3)
            ]
            wait_until_refused(session, ids[0])
            # What has its key is held back.
            assert [attempts for (attempts,) in in_outbox(session, "attempts")][1:] == [0, 0]
            session.execute(
                "UPDATE amqp.outbox SET next_attempt_at = '2090-01-01' WHERE attempts > 0"
            )
        wait_until_empty(session)
    assert take(channel, "mailer") == ["0", "1", "2"]


@pytest.mark.slow
def test_each_stuck_message_with_a_routing_key_of_its_own(
    database: str, session: Session, broker: VHost, channel: BlockingChannel, inbox: Inbox
) -> None:
    """They do not use up the connections."""
    fanout(channel, "orders", "mailer")
    with RelayProcess(database) as relay:
        with suspended(broker, "mailer"):
            for n in range(8):
                number = put(session, n, exchange="orders", routing_key=f"order.{n}")
                wait_until_refused(session, number)
                put(session, f"other {n}")
                wait_for(
                    lambda n=n: len(in_outbox(session)) == n + 1,  # type: ignore[misc]
                    LIMIT,
                    "the other to go out",
                )
            assert inbox.texts() == [f"other {n}" for n in range(8)]
            assert len(relay.events("queue does not confirm")) == 3
        wait_until_empty(session)
    assert sorted(take(channel, "mailer")) == [str(n) for n in range(8)]


@pytest.mark.slow
def test_it_stops_while_a_queue_is_stuck(
    database: str, session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    fanout(channel, "orders", "mailer")
    with suspended(broker, "mailer"):
        for parked in (False, True):
            number = put(session, "order", exchange="orders", routing_key="")
            with RelayProcess(database) as relay:
                relay.wait_for_event("connected to broker")
                if parked:
                    wait_until_refused(session, number)
                assert relay.terminate(10) == 0
        assert len(in_outbox(session)) == 2


@pytest.mark.slow
def test_a_parked_connection_that_breaks(
    database: str,
    session: Session,
    broker: VHost,
    proxy: CuttingProxy,
    channel: BlockingChannel,
) -> None:
    """Only then the message is written again."""
    fanout(channel, "orders", "ledger", "mailer")
    session.execute("UPDATE amqp.broker SET port = %s", [proxy.port])
    with RelayProcess(database) as relay:
        with suspended(broker, "mailer"):
            number = put(session, "order", exchange="orders", routing_key="")
            wait_until_refused(session, number)
            assert count(channel, "ledger") == 1
            proxy.reset()
            relay.wait_for_event("queue does not confirm", 2)
            assert count(channel, "ledger") == 2
        wait_until_empty(session)
    assert take(channel, "mailer") == ["order", "order"]
