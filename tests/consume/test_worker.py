"""A consumer's worker: it takes up changes, holds what it has, and hands over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.rabbitmq import RabbitMQ
from servers.relay import ConsumeProcess
from support.consumers import Desk, desk
from support.fix_servers import VHost
from support.messages import Inbox
from support.patience import LIMIT
from support.sessions import open_session

# -- what changes -----------------------------------------------------------------------------


def test_a_row_is_worked_without_a_restart(daemon: ConsumeProcess, consumers: Desk) -> None:
    daemon.wait_for_event("consume started")
    consumer = consumers()
    consumer.publish("a", "b", "c")
    consumer.wait_for_stored(3)
    assert consumer.inbox() == ["a", "b", "c"]


def test_a_changed_row_counts_for_what_comes_then(daemon: ConsumeProcess, consumers: Desk) -> None:
    consumer = consumers()
    consumer.session.execute("CREATE TABLE t (a text, b text DEFAULT 'none')")
    consumer.publish("1")
    consumer.wait_for_stored(1)

    def tell(body: str) -> bool:
        consumer.publish(body)
        return True

    consumer.change(target_table="t", columns='{"a": "body"}')
    wait_for(lambda: len(daemon.events("consuming")), LIMIT, "a daemon")
    consumer.wait_until(
        "the new plan",
        lambda _: tell("2") and consumer.session.value("SELECT count(*) FROM t"),
    )
    consumer.change(columns='{"a": "body", "b": "message_id"}')
    consumer.wait_until(
        "the newer plan",
        lambda _: (
            tell("3") and consumer.session.value("SELECT count(*) FROM t WHERE b LIKE 'id-%%'")
        ),
    )
    # The subscription stayed as it was.
    assert len(daemon.events("consuming")) == 1


def test_another_queue_is_consumed_when_what_came_from_the_first_is_stored(
    daemon: ConsumeProcess, consumers: Desk
) -> None:
    consumer, other = consumers(), consumers(enabled=False)
    consumer.publish(*map(str, range(500)))
    other.publish("other")
    consumer.change(queue=other.queue)
    consumer.wait_until("the other queue", lambda _: "other" in consumer.inbox())
    stored = [body for body in consumer.inbox() if body != "other"]
    # What was not received before the change stays where it is.
    assert stored == list(map(str, range(len(stored))))
    assert consumer.ready() == 500 - len(stored)


def test_a_disabled_consumer_lets_go_of_its_queue(
    daemon: ConsumeProcess, consumers: Desk, broker: VHost
) -> None:
    consumer = consumers()
    consumer.publish("a")
    consumer.wait_for_stored(1)
    consumer.change(enabled=False)
    wait_for(
        lambda: (
            consumer.channel.queue_declare(consumer.queue, passive=True).method.consumer_count == 0
        ),
        LIMIT,
        "no consumer",
    )
    consumer.publish("b")
    consumer.change(enabled=True)
    consumer.wait_for_stored(2)
    assert consumer.inbox() == ["a", "b"]


def test_a_queue_that_is_missing_is_told_and_awaited(
    daemon: ConsumeProcess, consumers: Desk
) -> None:
    consumer = consumers()
    consumer.publish("a")
    consumer.wait_for_stored(1)
    consumer.channel.queue_delete(consumer.queue)
    consumer.wait_for_trouble("NOT_FOUND")
    consumer.declare()
    consumer.publish("b")
    consumer.wait_for_stored(2)
    consumer.wait_until("no trouble", lambda status: status["trouble"] is None)
    assert consumer.inbox() == ["a", "b"]


def test_a_broker_without_a_row_is_told_and_awaited(
    daemon: ConsumeProcess, consumers: Desk
) -> None:
    consumer = consumers(broker_id=2)
    consumer.publish("a")
    consumer.wait_for_trouble("the broker has no row in amqp.broker")
    consumer.session.execute(
        "INSERT INTO amqp.broker (broker_id, host, port, vhost)"
        " SELECT 2, host, port, vhost FROM amqp.broker"
    )
    consumer.wait_for_stored(1)


FORGED = {"x-stream-offset": 7}


def test_a_queue_is_no_stream_whatever_a_publisher_says(
    daemon: ConsumeProcess, consumers: Desk
) -> None:
    consumer = consumers()
    consumer.publish("a", "b", message_id="same", headers=FORGED)
    consumer.publish("c", headers=FORGED)
    consumer.wait_for_stored(2)
    consumer.publish("d", message_id="same", headers=FORGED)
    consumer.wait_until("the copies", lambda status: status["duplicates"] == 2)
    assert consumer.inbox() == ["a", "c"]
    assert consumer.session.run("SELECT * FROM amqp.inbox_offset") == []
    wait_for(lambda: consumer.ready() == 0, LIMIT, "all to be received")


def test_a_stream_is_known_without_being_called_one(
    daemon: ConsumeProcess, consumers: Desk
) -> None:
    consumer = consumers(queue_type="stream")
    daemon.wait_for_event("consuming")
    consumer.publish(*map(str, range(100)), message_id="same")
    consumer.wait_for_stored(100)
    assert consumer.inbox() == list(map(str, range(100)))
    place = "SELECT next_offset FROM amqp.inbox_offset"
    assert consumer.session.run(place) == [(100,)]
    # And it ends, though there are always messages in it.
    consumer.change(enabled=False)
    wait_for(lambda: consumer.status()["running"] is None, LIMIT, "it to be let go")


def test_what_takes_the_place_of_a_stream_is_consumed(
    daemon: ConsumeProcess, consumers: Desk
) -> None:
    consumer = consumers(queue_type="stream")
    daemon.wait_for_event("consuming")
    consumer.publish("a")
    consumer.wait_for_stored(1)
    consumer.channel.queue_delete(consumer.queue)
    consumer.declare("classic")
    consumer.publish("b", message_id="b")
    consumer.publish("b", message_id="b")
    consumer.wait_until("both", lambda status: status["stored"] + status["duplicates"] == 3)
    assert consumer.inbox() == ["a", "b"]


# -- when something is away ---------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("end", [PostgreSQL.stop, PostgreSQL.kill])
def test_while_postgresql_is_away_messages_are_held_and_none_goes_back(
    broker: VHost, end: Callable[[PostgreSQL], None]
) -> None:
    with PostgreSQL(durable=True) as server:
        with open_session(server.dsn()) as session:
            session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
        with desk(server.dsn(), broker) as make:
            consumer = make(queue_type="quorum")
            consumer.publish("first")
            with ConsumeProcess(server.dsn()) as daemon:
                consumer.wait_for_stored(1)
                end(server)
                consumer.publish(*map(str, range(100)))
                wait_for(lambda: consumer.ready() == 0, LIMIT, "the daemon to receive them")
                daemon.wait_for_event("database not usable")
                server.start()
                with open_session(server.dsn()) as session:
                    consumer.session = session
                    consumer.wait_for_stored(101)
                    assert consumer.inbox() == ["first", *map(str, range(100))]
                    again = "SELECT count(*) FROM amqp.inbox WHERE redelivered"
                    assert session.value(again) == 0
                assert len(daemon.events("consuming")) == 1


@pytest.mark.server
@pytest.mark.slow
def test_a_crash_loop_while_postgresql_is_away_uses_up_no_delivery_limit(broker: VHost) -> None:
    with PostgreSQL() as server:
        with open_session(server.dsn()) as session:
            session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
        with desk(server.dsn(), broker) as make:
            limited = {"x-delivery-limit": 20, "x-dead-letter-exchange": "amq.fanout"}
            consumer = make(queue_type="quorum", arguments=limited)
            grave = Inbox(consumer.channel, "amq.fanout", "")
            consumer.publish("a")
            server.stop()
            with ConsumeProcess(server.dsn()) as daemon:
                for crash in range(1, 26):
                    daemon.wait_for_event("database not usable", crash)
                    daemon.kill()
                    daemon.start()
                server.start()
                with open_session(server.dsn()) as session:
                    consumer.session = session
                    consumer.wait_for_stored(1)
                    assert session.run("SELECT redelivered FROM amqp.inbox") == [(False,)]
            assert grave.drain() == []


@pytest.mark.server
def test_nothing_is_consumed_before_the_database_has_shown_that_it_can_be_stored(
    postgres: PostgreSQL, database: str, consumers: Desk
) -> None:
    consumer = consumers(queue_type="quorum")
    consumer.publish("a")
    consumer.session.execute("CREATE TABLE t (a text)")
    consumer.change(target_table="t", columns='{"a": "body"}')
    consumer.session.execute("ALTER TABLE t ADD CONSTRAINT c CHECK (false) NO INHERIT")
    consumer.session.execute("ALTER TABLE t DROP COLUMN a")
    with ConsumeProcess(database) as daemon:
        consumer.wait_for_trouble('column "a"')
        assert daemon.events("consuming") == []
        assert consumer.ready() == 1
        consumer.session.execute("ALTER TABLE t DROP CONSTRAINT c, ADD COLUMN a text")
        consumer.wait_for_stored(1)


def test_a_commit_whose_answer_is_lost_stores_nothing_twice(
    daemon: ConsumeProcess, consumers: Desk
) -> None:
    consumer = consumers()
    session = consumer.session
    # Without an id, no ledger tells a copy.
    consumer.publish("first", message_id=None)
    consumer.wait_until("all to be told", lambda status: status["rate"] and status["ready"] == 0)
    session.execute("SET synchronous_commit = local")
    session.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    try:
        session.execute("SELECT pg_reload_conf()")
        consumer.publish("second", message_id=None)
        # Committed, but for a standby that there is not, when its session is ended. Where the
        # setting comes too late for the batch, it is what is told of it that waits.
        waiting = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        )
        wait_for(lambda: session.run(waiting), LIMIT, "the batch to be committed")
    finally:
        session.execute("ALTER SYSTEM RESET synchronous_standby_names")
        session.execute("SELECT pg_reload_conf()")
    consumer.publish("third", message_id=None)
    consumer.wait_for_stored(3)
    wait_for(lambda: consumer.ready() == 0, LIMIT, "all to be received")
    assert consumer.inbox() == ["first", "second", "third"]
    assert len(daemon.events("working the consumer")) == 2


# -- several daemons ----------------------------------------------------------------------


@pytest.mark.slow
def test_when_a_daemon_is_killed_another_one_goes_on(database: str, consumers: Desk) -> None:
    consumer = consumers(batch_size=10)
    with ConsumeProcess(database) as first, ConsumeProcess(database) as second:
        daemons = {first.pid: first, second.pid: second}
        for turn in range(3):
            consumer.publish(*(f"{turn} {n}" for n in range(200)))
            consumer.wait_until("a daemon", lambda status: status["running"])
            pid = int(consumer.status()["running"].split()[2])
            daemon = daemons.pop(pid)
            daemon.kill()
            daemon.start()
            daemons[daemon.pid] = daemon
        consumer.wait_for_stored(600)
        wait_for(lambda: consumer.ready() == 0, LIMIT, "all to be received")
    assert sorted(consumer.inbox()) == sorted(f"{t} {n}" for t in range(3) for n in range(200))


@pytest.mark.slow
def test_when_a_daemon_stands_still_another_one_goes_on(database: str, consumers: Desk) -> None:
    consumer = consumers()
    with ConsumeProcess(database) as first:
        consumer.publish("a")
        consumer.wait_for_stored(1)
        with ConsumeProcess(database) as second:
            second.wait_for_event("standing by: another session works the consumer")
            first.pause()
            second.wait_for_event("working the consumer")
            consumer.publish("b")
            first.resume()
            consumer.wait_for_stored(2)
            wait_for(lambda: consumer.ready() == 0, LIMIT, "all to be received")
            assert str(second.pid) in consumer.status()["running"]
    assert consumer.inbox() == ["a", "b"]


def test_who_is_asked_to_end_stores_and_acknowledges_what_it_has(
    database: str, consumers: Desk
) -> None:
    consumer = consumers(queue_type="quorum", batch_size=50)
    with ConsumeProcess(database) as first:
        consumer.publish(*map(str, range(2000)))
        consumer.wait_for_stored(1)
        assert first.terminate() == 0
    with ConsumeProcess(database):
        consumer.wait_for_stored(2000)
    again = "SELECT count(*) FROM amqp.inbox WHERE redelivered"
    assert consumer.session.value(again) == 0
    assert sorted(map(int, consumer.inbox())) == list(range(2000))


def test_a_queue_that_is_slow_to_write_has_nothing_delivered_twice(
    database: str, consumers: Desk, rabbitmq: RabbitMQ
) -> None:
    """It answers before it has written what was acknowledged, and sends more when it has."""
    consumer = consumers(queue_type="quorum", batch_size=50)
    with ConsumeProcess(database) as first:
        consumer.publish(*map(str, range(10_000)))
        consumer.wait_for_stored(1)
        first.pause()
        # For half a second the node writes nothing of any quorum queue; the daemon's end is in it.
        rabbitmq.rabbitmqctl(
            "eval",
            "Log = whereis(ra_log_wal), sys:suspend(Log),"
            " spawn(fun() -> timer:sleep(500), sys:resume(Log) end).",
        )
        first.resume()
        assert first.terminate() == 0
    with ConsumeProcess(database):
        consumer.wait_for_stored(10_000)
    again = "SELECT count(*) FROM amqp.inbox WHERE redelivered"
    assert consumer.session.value(again) == 0


# -- bounds --------------------------------------------------------------------------------


def test_no_more_is_received_than_prefetch_says(
    daemon: ConsumeProcess, consumers: Desk, rabbitmq: RabbitMQ, database: str
) -> None:
    consumer = consumers(batch_size=5, prefetch=15)
    consumer.publish("first")
    consumer.wait_for_stored(1)
    with open_session(database, autocommit=False) as locker:
        locker.execute("LOCK TABLE amqp.inbox IN ACCESS EXCLUSIVE MODE")
        consumer.publish(*map(str, range(100)))
        wait_for(lambda: consumer.ready() == 85, LIMIT, "the prefetch to be used")
        locker.rollback()
    consumer.wait_for_stored(101)
    assert consumer.inbox() == ["first", *map(str, range(100))]


@pytest.mark.slow
def test_large_messages_are_held_within_bounds(
    daemon: ConsumeProcess, consumers: Desk, database: str
) -> None:
    consumer = consumers(prefetch=1000)
    consumer.publish("first")
    consumer.wait_for_stored(1)
    size = 4 << 20
    with open_session(database, autocommit=False) as locker:
        locker.execute("LOCK TABLE amqp.inbox IN ACCESS EXCLUSIVE MODE")
        consumer.publish(*[b"x" * size] * 60)
        wait_for(
            lambda: any(
                event["error"].endswith("lock timeout")
                for event in daemon.events("the target does not take anything")
            ),
            LIMIT,
            "the target to be locked",
        )
        locker.rollback()
    consumer.wait_for_stored(61)
    (peak,) = (
        int(line.split()[1])
        for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    assert peak < 150_000
    assert consumer.session.value("SELECT sum(length(body)) FROM amqp.inbox") == 60 * size + 5


@pytest.mark.slow
def test_a_batch_is_waited_for_no_longer_than_the_row_says(
    daemon: ConsumeProcess, consumers: Desk
) -> None:
    consumer = consumers(batch_size=10, batch_timeout="20 s")
    consumer.publish(*map(str, range(10)))
    consumer.wait_for_stored(10)
    # A batch that is full waits for nothing.
    batches = "SELECT count(DISTINCT stored_at) FROM amqp.inbox"
    assert consumer.session.value(batches) == 1
    consumer.publish("10", "11")
    consumer.wait_for_stored(12)
    waited = "SELECT stored_at - received_at FROM amqp.inbox WHERE body = '10'"
    (wait,) = consumer.session.run(waited)[0]
    assert 19 < wait.total_seconds() < 40
    # Meanwhile the session has shown that there is somebody.
    assert len(daemon.events("working the consumer")) == 1


def test_who_is_asked_to_end_waits_for_no_batch(database: str, consumers: Desk) -> None:
    consumer = consumers(batch_timeout="1 minute")
    with ConsumeProcess(database) as daemon:
        daemon.wait_for_event("consuming")
        consumer.publish("a")
        consumer.wait_until("it to be held", lambda status: status["unacked"] == 1)
        assert daemon.terminate(20) == 0
    assert consumer.inbox() == ["a"]
