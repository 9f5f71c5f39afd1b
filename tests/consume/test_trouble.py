"""What is told of messages that cannot be stored though nothing is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.processes import wait_for
from servers.relay import ConsumeProcess
from support.consumers import Consumer, desk
from support.fix_servers import VHost
from support.patience import LIMIT

_LATER = "messages are not stored, and tried again"


@pytest.fixture
def consumer(database: str, broker: VHost) -> Iterator[Consumer]:
    """A consumer whose function asks for another attempt; `attempts` counts the calls."""
    with desk(database, broker) as make:
        consumer = make(enabled=False)
        consumer.session.run(
            """CREATE SEQUENCE attempts;
               CREATE FUNCTION f(m amqp.message) RETURNS void LANGUAGE plpgsql AS $$
               BEGIN
                   PERFORM nextval('public.attempts');
                   RAISE 'not now' USING ERRCODE = 'serialization_failure';
               END $$"""
        )
        consumer.change(target_function="f", enabled=True)
        yield consumer


def attempts(consumer: Consumer) -> int:
    """How often the function was called."""
    (found,) = consumer.session.run("SELECT last_value FROM attempts")[0]
    return int(found)


def make_good(consumer: Consumer) -> None:
    """From now on the function takes what comes."""
    consumer.session.run(
        """CREATE OR REPLACE FUNCTION f(m amqp.message) RETURNS void LANGUAGE plpgsql AS
           $$ BEGIN END $$"""
    )


def test_a_batch_that_is_tried_again_and_again_is_a_trouble_until_it_is_stored(
    database: str, consumer: Consumer
) -> None:
    consumer.publish("a")
    with ConsumeProcess(database) as daemon:
        consumer.wait_for_trouble("not now")
        before = attempts(consumer)
        wait_for(lambda: attempts(consumer) > before + 3, LIMIT, "further attempts")
        assert consumer.status()["trouble"] == "not now"
        assert len(daemon.events(_LATER)) == 1
        make_good(consumer)
        consumer.wait_for_stored(1)
        consumer.wait_until("no trouble", lambda status: status["trouble"] is None)
        assert consumer.status()["last_error"] == "not now"


def test_a_dead_message_that_is_tried_again_and_again_is_a_trouble(
    database: str, consumer: Consumer
) -> None:
    consumer.session.run(
        """INSERT INTO amqp.inbox_dead (consumer, sqlstate, error, body, retry, received_at,
               raw_place, raw_properties)
           VALUES (%s, 'P0001', 'once', '', true, now(), '\\x0000', '\\x0000')""",
        consumer.name,
    )
    with ConsumeProcess(database):
        consumer.wait_for_trouble("not now")
        make_good(consumer)
        consumer.wait_until("it to live", lambda status: not status["dead"])
        consumer.wait_until("no trouble", lambda status: status["trouble"] is None)
