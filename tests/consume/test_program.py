"""pg-amqp consume and run, as administrators see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from servers.processes import wait_for
from servers.relay import ConsumeProcess, DaemonProcess
from support.consumers import Consumer, desk
from support.fix_servers import VHost
from support.health import Watched
from support.messages import Inbox
from support.patience import LIMIT

Desk = Callable[..., Consumer]


@pytest.fixture
def consumers(database: str, broker: VHost) -> Iterator[Desk]:
    """Makes consumers."""
    with desk(database, broker) as make:
        yield make


class WatchedConsume(Watched):
    """A daemon that consumes and answers."""

    command = "consume"


def test_metrics_and_health_say_how_consumers_are(database: str, consumers: Desk) -> None:
    consumer = consumers()
    consumer.session.execute("CREATE TABLE t (id integer PRIMARY KEY)")
    consumer.change(target_table="t", columns='{"id": "body"}')
    with WatchedConsume(database) as daemon:
        consumer.publish("1", "2", "x", message_id=None)
        consumer.publish("3", message_id="three")
        consumer.publish("3", message_id="three")
        consumer.wait_until("all", lambda status: (status["stored"], status["dead"]) == (3, 1))
        label = f'{{consumer="{consumer.name}"}}'

        def metric(name: str) -> float | None:
            return daemon.metric(f"pg_amqp_consumer_{name}{label}")

        wait_for(lambda: metric("received_total") == 5, LIMIT, "all to be counted")
        found = {
            name: metric(name)
            for name in (
                "stored_total",
                "duplicates_total",
                "dead_total",
                "working",
                "connected",
                "unacked",
                "trouble",
            )
        }
        assert found == {
            "stored_total": 3,
            "duplicates_total": 1,
            "dead_total": 1,
            "working": 1,
            "connected": 1,
            "unacked": 0,
            "trouble": 0,
        }
        assert daemon.health(200)["consumers"] == {consumer.name: "working"}
        consumer.session.execute("DROP TABLE t")
        told = daemon.health(503)
        assert "does not exist" in told["consumers"][consumer.name]
        wait_for(lambda: metric("trouble") == 1, LIMIT, "the trouble to be shown")
        consumer.change(enabled=False)
        wait_for(lambda: metric("working") is None, LIMIT, "the metrics to forget it")
        assert daemon.health(200)["consumers"] == {}


def test_without_any_consumer_all_is_well(database: str) -> None:
    with WatchedConsume(database) as daemon:
        told = daemon.health(200)
        assert (told["database"], told["consumers"]) == ("ok", {})


def test_a_consumer_in_trouble_is_in_the_log_once(database: str, consumers: Desk) -> None:
    consumer = consumers()
    consumer.channel.queue_delete(consumer.queue)
    with ConsumeProcess(database) as daemon:
        consumer.wait_for_trouble("NOT_FOUND")
        consumer.declare()
        consumer.publish("a")
        consumer.wait_for_stored(1)
        assert len(daemon.events("could not consume")) == 1


def test_run_answers_a_request_with_what_a_function_returns(database: str, consumers: Desk) -> None:
    consumer = consumers(enabled=False)
    consumer.session.execute(
        "CREATE FUNCTION double(m amqp.message) RETURNS jsonb LANGUAGE sql"
        " RETURN to_jsonb(2 * (amqp.body_json(m))::integer)"
    )
    consumer.change(target_function="double", enabled=True)
    answers = Inbox(consumer.channel, "")
    with DaemonProcess(database) as daemon:
        for number in range(3):
            consumer.publish(str(number), reply_to=answers.queue, correlation_id=f"c{number}")
        wait_for(
            lambda: (
                consumer.channel.queue_declare(answers.queue, passive=True).method.message_count
                == 3
            ),
            LIMIT,
            "the answers",
        )
        found = [(answer.properties.correlation_id, answer.json) for answer in answers.drain()]
        assert found == [("c0", 0), ("c1", 2), ("c2", 4)]
        assert daemon.terminate() == 0
