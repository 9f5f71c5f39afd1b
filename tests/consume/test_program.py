"""pg-amqp consume and run, as administrators see them."""

from __future__ import annotations

from collections import Counter

from psycopg.conninfo import make_conninfo

from servers.processes import wait_for
from servers.relay import ConsumeProcess, DaemonProcess
from support.consumers import Desk
from support.health import Watched
from support.messages import Inbox
from support.patience import LIMIT


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


def test_the_log_says_why_messages_were_set_aside(database: str, consumers: Desk) -> None:
    consumer = consumers(enabled=False)
    consumer.session.execute("CREATE TABLE t (id smallint NOT NULL)")
    consumer.change(target_table="t", columns='{"id": "body.id"}', enabled=True)
    consumer.publish('{"id": "x"}', '{"id": 1}', '{"id": 70000}', '{"id": null}', '{"id": "y"}')
    with ConsumeProcess(database) as daemon:
        consumer.wait_until("all", lambda status: (status["stored"], status["dead"]) == (1, 4))
        wait_for(
            lambda: sum(e["messages"] for e in daemon.events("messages set aside")) == 4,
            LIMIT,
            "the log",
        )
        events = daemon.events("messages set aside")
    assert sum((Counter(event["sqlstates"]) for event in events), Counter()) == {
        "22P02": 2,
        "22003": 1,
        "23502": 1,
    }


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


def test_a_role_that_may_see_no_consumer_has_none_in_run(database: str, consumers: Desk) -> None:
    consumer = consumers()
    consumer.session.execute(
        """
        CREATE ROLE relay_alone LOGIN;
        GRANT USAGE ON SCHEMA amqp TO relay_alone;
        GRANT SELECT ON amqp.broker TO relay_alone;
        GRANT SELECT, INSERT, UPDATE, DELETE ON amqp.outbox, amqp.outbox_dead,
            amqp.outbox_delivered, amqp.outbox_progress, amqp.outbox_trouble, amqp.outbox_lease
        TO relay_alone
        """
    )
    try:
        dsn = make_conninfo(database, user="relay_alone")
        with Watched(dsn) as daemon:
            assert daemon.health(200)["consumers"] == {}
        with WatchedConsume(dsn) as daemon:
            wait_for(
                lambda: "permission denied" in daemon.health(503)["database"], LIMIT, "an error"
            )
    finally:
        consumer.session.execute("DROP OWNED BY relay_alone; DROP ROLE relay_alone")


def test_a_batch_is_on_disk_when_it_is_acknowledged(database: str, consumers: Desk) -> None:
    consumer = consumers(enabled=False)
    consumer.session.execute(
        """
        CREATE TABLE t (durability text);
        CREATE FUNCTION note(m amqp.message) RETURNS void LANGUAGE sql
            AS $$ INSERT INTO t VALUES (current_setting('synchronous_commit')) $$;
        """
    )
    consumer.session.execute("ALTER ROLE postgres SET synchronous_commit = off")
    try:
        consumer.change(target_function="note", enabled=True)
        with ConsumeProcess(database):
            consumer.publish("a")
            consumer.wait_for_stored(1)
    finally:
        consumer.session.execute("ALTER ROLE postgres RESET synchronous_commit")
    assert consumer.session.value("SELECT durability FROM t") == "on"


def test_what_nobody_works_any_more_is_forgotten(database: str, consumers: Desk) -> None:
    consumer, disabled = consumers(), consumers()
    with ConsumeProcess(database) as daemon:
        for one in (consumer, disabled):
            one.publish("a")
            one.wait_for_stored(1)
        daemon.terminate()
    consumer.session.run("DELETE FROM amqp.consumer WHERE name = %s", consumer.name)
    disabled.change(enabled=False, deduplicate_for="3 days")
    consumer.session.execute("UPDATE amqp.inbox_seen SET seen_at = seen_at - interval '2 days'")
    seen = "SELECT consumer FROM amqp.inbox_seen"
    with ConsumeProcess(database):
        wait_for(
            lambda: consumer.session.run(seen) == [(disabled.name,)], LIMIT, "it to be forgotten"
        )
