"""amqp.publish_outbox_batch(): what it delivers, what it leaves, and that it does so once."""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import free_port, wait_for
from servers.proxy import CuttingProxy, Direction, Welcome
from support.calls import Call
from support.fix_servers import VHost
from support.messages import Inbox
from support.patience import LIMIT
from support.queues import declare, numbers_in, take
from support.sessions import Session, open_session, session_fixture, wait_for_end, wait_for_event

session = session_fixture()

BATCH = "SELECT amqp.publish_outbox_batch()"


def put(
    session: Session,
    broker_id: int,
    numbers: range | list[int],
    exchange: str = "events",
    key: str | None = None,
) -> None:
    """Put numbers into the outbox."""
    session.run(
        "SELECT amqp.publish_outbox(%s, %s, 'key', n::text, ordering_key => %s)"
        " FROM unnest(%s::int[]) AS n",
        broker_id,
        exchange,
        key,
        list(numbers),
    )


def waiting(session: Session) -> list[int]:
    """The numbers in the outbox, in order."""
    rows = session.run("SELECT convert_from(body, 'UTF8')::int FROM amqp.outbox ORDER BY id")
    return [number for (number,) in rows]


def make_due(session: Session) -> None:
    """End the waits between attempts."""
    session.run("UPDATE amqp.outbox SET next_attempt_at = now() WHERE next_attempt_at < 'infinity'")


# ---- What arrives ----


def test_all_properties_arrive(session: Session, broker: VHost, channel: BlockingChannel) -> None:
    inbox = Inbox(channel)
    broker_id = session.add_broker(broker.url())
    session.run(
        """SELECT amqp.publish_outbox(%s, 'amq.topic', 'a.b', '{"a": "ß"}'::jsonb,
               delivery_mode => 2, reply_to => 'r', correlation_id => 'c', mandatory => true,
               headers => '{"h": [1, null], "s": "x"}', content_encoding => 'utf-8', priority => 5,
               expiration => '60000', message_id => 'm', "timestamp" => '2026-01-02 03:04:05.9+00',
               type => 't', user_id => 'guest', app_id => 'a')""",
        broker_id,
    )
    session.run("SELECT amqp.publish_outbox(%s, 'amq.topic', 'k', '\\x00ff'::bytea)", broker_id)
    assert session.value(BATCH) == 2
    first, second = inbox.drain()
    assert (first.exchange, first.routing_key, first.json) == ("amq.topic", "a.b", {"a": "ß"})
    properties = {k: v for k, v in vars(first.properties).items() if v is not None}
    assert properties == {
        "delivery_mode": 2,
        "content_type": "application/json",
        "reply_to": "r",
        "correlation_id": "c",
        "headers": {"h": [1, None], "s": "x"},
        "content_encoding": "utf-8",
        "priority": 5,
        "expiration": "60000",
        "message_id": "m",
        "timestamp": 1767323045,
        "type": "t",
        "user_id": "guest",
        "app_id": "a",
    }
    assert second.body == b"\x00\xff"
    given = {k for k, v in vars(second.properties).items() if v is not None}
    assert given == {"delivery_mode", "message_id"}
    assert waiting(session) == []
    assert session.run("SELECT published, confirmed, failed FROM amqp.status()") == [(2, 2, 0)]
    assert session.value("SELECT delivered_last_minute FROM amqp.outbox_status()") == 2


def test_in_order_and_up_to_the_limit(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    put(session, direct, range(250))
    assert session.value(BATCH) == 100
    assert session.value("SELECT amqp.publish_outbox_batch(batch_limit => 3)") == 3
    assert session.value("SELECT amqp.publish_outbox_batch(%s, 1000)", direct) == 147
    assert session.value(BATCH) == 0
    assert numbers_in(channel, "events", 250) == list(range(250))


def test_more_than_fits_one_reading(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    session.run(
        "SELECT amqp.publish_outbox(%s, 'events', 'key', n || repeat('x', 3000000))"
        " FROM generate_series(0, 9) AS n",
        direct,
    )
    assert session.value("SELECT amqp.publish_outbox_batch(batch_limit => 9)") == 9
    assert [body[0] for body in take(channel, "events", 9)] == list("012345678")
    assert session.value("SELECT count(*) FROM amqp.outbox") == 1


def test_every_broker_that_has_messages(
    session: Session, broker: VHost, direct: int, channel: BlockingChannel
) -> None:
    other = session.add_broker(broker.url())
    away = session.add_broker(f"amqp://127.0.0.1:{free_port()}/")
    declare(channel, "others")
    put(session, other, range(3), "others")
    put(session, direct, range(3))
    put(session, away, [7])
    put(session, 1000, [8])
    # Only what is due, but that as well where nothing else is.
    session.run("SELECT amqp.publish_outbox(%s, 'events', 'key', '3', deliver_at => now())", direct)
    assert session.value("SELECT amqp.publish_outbox_batch(batch_limit => 100)") == 7
    assert numbers_in(channel, "events", 4) == list(range(4))
    assert numbers_in(channel, "others", 3) == list(range(3))
    assert waiting(session) == [7, 8]
    # One broker's failure does not stop the others, and is told.
    assert [report.sqlstate for report in session.warnings()] == ["08001", "42704"]
    troubles = session.run("SELECT broker_id, last_error FROM amqp.outbox_trouble ORDER BY 1")
    assert [number for number, _ in troubles] == [away, 1000]
    assert "connection refused" in troubles[0][1]
    # Where nothing else was delivered it is an error.
    assert session.error(BATCH).sqlstate == "42704"
    assert session.error("SELECT amqp.publish_outbox_batch(%s)", away).sqlstate == "08001"
    session.warnings()
    session.set(on_failure="warn")
    assert session.value(BATCH) == 0
    assert len(session.warnings()) == 2


def test_what_is_not_due_is_left(session: Session, direct: int, channel: BlockingChannel) -> None:
    put(session, direct, [1])
    session.run(
        "SELECT amqp.publish_outbox(%s, 'events', 'key', '2', deliver_at => now() + '1 hour')",
        direct,
    )
    put(session, direct, [3])
    assert session.value(BATCH) == 2
    assert numbers_in(channel, "events", 2) == [1, 3]
    make_due(session)
    assert session.value(BATCH) == 1
    assert numbers_in(channel, "events", 1) == [2]


def test_what_the_same_transaction_has_published_is_left(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    put(session, direct, [1])
    with session.transaction():
        put(session, direct, [2])
        session.run("SAVEPOINT a")
        put(session, direct, [3])
        session.run("ROLLBACK TO a")
        session.run("SAVEPOINT c")
        put(session, direct, [5])
        assert session.value(BATCH) == 1
        session.run("SAVEPOINT b")
        put(session, direct, [4])
        session.run("RELEASE b")
        assert session.value(BATCH) == 0
    assert numbers_in(channel, "events", 1) == [1]
    assert session.value(BATCH) == 3
    assert numbers_in(channel, "events", 3) == [2, 5, 4]


def test_keep_delivered(session: Session, direct: int, channel: BlockingChannel) -> None:
    session.set(keep_delivered="1 hour")
    put(session, direct, [1, 2])
    assert session.value(BATCH) == 2
    kept = "SELECT count(*) FROM amqp.outbox_delivered"
    assert session.value(kept) == 2
    session.set(keep_delivered="0")
    put(session, direct, [3])
    assert session.value(BATCH) == 1
    assert session.value(kept) == 0
    assert numbers_in(channel, "events", 3) == [1, 2, 3]


# ---- Several callers ----


def test_several_callers_deliver_each_message_once(
    session: Session, database: str, direct: int, channel: BlockingChannel
) -> None:
    put(session, direct, range(3000))

    def work(_: int) -> int:
        with open_session(database) as worker:
            total = 0
            while delivered := worker.value("SELECT amqp.publish_outbox_batch(batch_limit => 50)"):
                total += delivered
            return total

    with ThreadPoolExecutor(4) as pool:
        totals = list(pool.map(work, range(4)))
    assert sum(totals) == 3000
    assert sum(total > 0 for total in totals) > 1
    assert numbers_in(channel, "events", 3000) == list(range(3000))


def test_a_caller_waits_for_another_and_can_be_cancelled(
    session: Session, database: str, direct: int, channel: BlockingChannel
) -> None:
    put(session, direct, range(4))
    with open_session(database) as other:
        with session.transaction():
            assert session.value("SELECT amqp.publish_outbox_batch(batch_limit => 2)") == 2
            call = Call(lambda: other.error(BATCH))
            with open_session(database) as observer:
                wait_for_event(observer, other.pid, "transactionid")
                observer.run("SELECT pg_cancel_backend(%s)", other.pid)
            assert call.result().sqlstate == "57014"
            waits = Call(lambda: other.value(BATCH))
            with open_session(database) as observer:
                wait_for_event(observer, other.pid, "transactionid")
        assert waits.result() == 2
    assert numbers_in(channel, "events", 4) == list(range(4))


def test_a_relay_is_left_alone(session: Session, database: str, direct: int) -> None:
    put(session, direct, [1])
    with open_session(database) as relay:
        assert relay.value("SELECT amqp_inner.outbox_lock(%s)", direct)
        assert session.value(BATCH) == 0
    with open_session(database) as observer:
        wait_for_end(observer, relay.pid)
    assert session.value(BATCH) == 1


def test_isolation_levels(session: Session, direct: int) -> None:
    put(session, direct, [1])
    for level in "REPEATABLE READ", "SERIALIZABLE":
        session.run(f"BEGIN ISOLATION LEVEL {level}")
        error = session.error(BATCH)
        assert error.sqlstate == "0A000"
        assert "READ COMMITTED" in error.hint
        session.run("ROLLBACK")
    session.run("BEGIN READ ONLY")
    assert session.error(BATCH).sqlstate == "25006"
    session.run("ROLLBACK")
    assert waiting(session) == [1]
    session.run("BEGIN ISOLATION LEVEL READ UNCOMMITTED")
    assert session.value(BATCH) == 1
    session.run("COMMIT")


def test_bad_parameters(session: Session, direct: int) -> None:
    put(session, direct, [1])
    for limit, sqlstate in ("0", "22023"), ("-1", "22023"), ("NULL", "22004"):
        call = f"SELECT amqp.publish_outbox_batch(batch_limit => {limit})"
        assert session.error(call).sqlstate == sqlstate
    session.set(capture="on")
    assert session.error(BATCH).sqlstate == "55000"
    session.set(capture="off", max_attempts="few")
    # Before anything is sent, not behind it.
    assert session.error(BATCH).sqlstate == "22P02"
    session.set(max_attempts="")
    assert session.run("SELECT sum(published) FROM amqp.status()") == [(None,)]
    assert waiting(session) == [1]


# ---- A broker that is away or goes ----


def test_a_broker_that_is_down(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    put(session, through, range(5))
    proxy.refuse()
    error = session.error(BATCH)
    assert error.sqlstate == "08001"
    assert "connection refused" in error.message
    assert waiting(session) == list(range(5))
    assert session.value("SELECT max(attempts) FROM amqp.outbox") == 0
    proxy.pass_all()
    session.run("SELECT amqp.disconnect(%s)", through)
    assert session.value(BATCH) == 5
    assert numbers_in(channel, "events", 5) == list(range(5))


ACK = 21
"""Bytes of a Basic.Ack; with one ordering key, each message is written and confirmed for itself."""


def meet(session: Session, broker_id: int) -> None:
    """Have the session connected, and let it know the exchange."""
    session.run("BEGIN")
    session.run("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
    session.run("ROLLBACK")


def test_a_broker_that_goes_in_the_middle(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    put(session, through, range(80), key="one by one")
    meet(session, through)
    session.set(confirm_timeout="300ms")
    proxy.cut_after(50 * ACK, Direction.TO_CLIENT, then=Welcome.REFUSE)
    assert session.value(BATCH) == 50
    (found,) = session.warnings()
    assert found.sqlstate == "08006"
    assert "connection refused" in found.detail
    assert waiting(session) == list(range(50, 80))
    assert "did not confirm" in session.value("SELECT last_error FROM amqp.outbox_trouble")
    proxy.pass_all()
    session.run("SELECT amqp.disconnect(%s)", through)
    assert session.value(BATCH) == 30
    arrived = numbers_in(channel, "events", 80)
    # The one that was under way may have come twice; what was confirmed has not.
    assert list(dict.fromkeys(arrived)) == list(range(80))
    assert {number for number, times in Counter(arrived).items() if times > 1} <= {50}


def test_a_cancel_in_the_middle_loses_nothing_that_is_confirmed(
    session: Session, database: str, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    put(session, through, range(4), key="one by one")
    meet(session, through)
    session.set(confirm_timeout="10min")
    connections = proxy.connections
    proxy.cut_after(ACK, Direction.TO_CLIENT, then=Welcome.STALL)
    session.run("BEGIN")
    call = Call(lambda: session.value(BATCH))
    wait_for(lambda: proxy.connections > connections, LIMIT, "the wait for another connection")
    with open_session(database) as observer:
        observer.run("SELECT pg_cancel_backend(%s)", session.pid)
    assert call.result() == 1
    (found,) = session.warnings()
    assert found.sqlstate == "57014"
    proxy.pass_all()
    assert session.value(BATCH) == 3
    session.run("COMMIT")
    assert waiting(session) == []
    arrived = numbers_in(channel, "events", 4)
    assert list(dict.fromkeys(arrived)) == [0, 1, 2, 3]
    assert arrived.count(0) == 1


def test_a_cancel_before_anything_is_confirmed(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    put(session, through, range(4))
    session.set(confirm_timeout="10min", on_failure="warn")
    session.run("SELECT amqp.ping(%s)", through)
    proxy.stall()
    session.run("SET statement_timeout = '200ms'")
    assert Call(lambda: session.error(BATCH)).result().sqlstate == "57014"
    session.run("RESET statement_timeout")
    assert waiting(session) == [0, 1, 2, 3]


def test_a_rolled_back_call_comes_again(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    put(session, direct, [1])
    with session.transaction(force_rollback=True):
        assert session.value(BATCH) == 1
    assert session.value(BATCH) == 1
    first, second = (channel.basic_get("events", auto_ack=True) for _ in range(2))
    assert first[1].message_id == second[1].message_id


# ---- What the broker refuses ----


def test_bad_rows_at_the_head_do_not_stop_the_others(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    put(session, direct, range(100), "nowhere")
    put(session, direct, range(100, 150))
    delivered = sum(session.value(BATCH) for _ in range(3))
    assert delivered == 50
    assert numbers_in(channel, "events", 50) == list(range(100, 150))
    rows = session.run(
        "SELECT DISTINCT attempts, last_error, next_attempt_at > now() FROM amqp.outbox"
    )
    ((attempts, last_error, later),) = rows
    assert (attempts, later) == (1, True)
    assert "no exchange 'nowhere'" in last_error
    assert session.value("SELECT failed FROM amqp.status()") == 100
    assert "nowhere" in session.value("SELECT last_error FROM amqp.outbox_status()")


def test_bad_rows_between_good_ones(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    for number in range(60):
        put(session, direct, [number], "nowhere" if number % 3 == 1 else "events")
    assert session.value(BATCH) == 40
    good = [number for number in range(60) if number % 3 != 1]
    assert numbers_in(channel, "events", 40) == good
    assert waiting(session) == [number for number in range(60) if number % 3 == 1]


def test_unroutable_messages(session: Session, direct: int, channel: BlockingChannel) -> None:
    channel.queue_unbind("events", "events", "#")
    channel.queue_bind("events", "events", "here")
    put_one = "SELECT amqp.publish_outbox(%s, 'events', %s, %s, mandatory => %s, message_id => %s)"
    for number, key, mandatory in (
        (1, "here", True),
        (2, "nowhere", True),
        (3, "nowhere", False),
        (4, "nowhere", True),
        (5, "here", True),
    ):
        # Of the same message_id, all but one.
        session.run(put_one, direct, key, str(number), mandatory, "m" if number < 5 else "n")
    assert session.value(BATCH) == 3
    assert numbers_in(channel, "events", 2) == [1, 5]
    assert waiting(session) == [2, 4]
    assert "NO_ROUTE" in session.value("SELECT min(last_error) FROM amqp.outbox")
    channel.queue_bind("events", "events", "#")
    make_due(session)
    assert session.value(BATCH) == 2
    assert numbers_in(channel, "events", 2) == [2, 4]


def test_dead_letters(
    session: Session, small_messages: int, direct: int, channel: BlockingChannel
) -> None:
    session.set(max_attempts="2")
    put(session, direct, [1])
    for _ in range(2):
        session.run(
            "SELECT amqp.publish_outbox(%s, 'events', 'key', repeat('9', %s))",
            direct,
            small_messages + 1,
        )
    put(session, direct, [2])
    assert session.value(BATCH) == 2
    # What was under way beside a refused message may come twice.
    assert set(numbers_in(channel, "events", 2)) == {1, 2}
    dead = "SELECT attempts, last_error FROM amqp.dead_letters"
    assert (session.run(dead), session.warnings()) == ([], [])
    make_due(session)
    assert session.value(BATCH) == 0
    (warning,) = session.warnings()
    assert warning.message == f"amqp: 2 messages to broker {direct} became dead letters"
    assert re.match(r"The first has id 2: .*message size", warning.detail)
    assert "amqp.dead_letters" in warning.hint
    assert session.value("SELECT count(*) FROM amqp.outbox") == 0
    for attempts, last_error in session.run(dead):
        assert attempts == 2
        assert "message size" in last_error
    assert session.value("SELECT dead FROM amqp.outbox_status()") == 2
    ((first,), (second,)) = session.run("SELECT id FROM amqp.dead_letters ORDER BY id")
    assert session.value("SELECT amqp.discard_dead_letters(%s, %s)", direct, [first]) == 1
    session.run("UPDATE amqp.outbox_dead SET body = '3'")
    assert session.value("SELECT amqp.retry_dead_letters()") == 1
    assert session.value(BATCH) == 1
    assert numbers_in(channel, "events", 1) == [3]
    assert second > first


def test_what_cannot_be_encoded_is_a_dead_letter_at_once(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    # Nobody can insert that any more.
    session.run("ALTER TABLE amqp.outbox DROP CONSTRAINT outbox_check")
    session.run(
        "INSERT INTO amqp.outbox (broker_id, exchange, body, priority, ordering_key)"
        " VALUES (%s, 'events', '1', 300, 'k')",
        direct,
    )
    put(session, direct, [2])
    put(session, direct, [3], key="k")
    assert session.value(BATCH) == 1
    assert numbers_in(channel, "events", 1) == [2]
    assert session.value("SELECT last_error FROM amqp.dead_letters") == (
        "invalid value for priority: 300"
    )
    (warning,) = session.warnings()
    assert warning.message == f"amqp: 1 message to broker {direct} became a dead letter"
    # A dead one holds back what has its ordering key.
    assert (session.value(BATCH), session.warnings()) == (0, [])
    assert session.value("SELECT amqp.discard_dead_letters()") == 1
    assert session.value(BATCH) == 1
    assert numbers_in(channel, "events", 1) == [3]


def test_a_full_queue_never_makes_dead_letters(
    session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    channel.exchange_declare("events", "topic")
    channel.queue_declare("events", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.queue_bind("events", "events", "#")
    direct = session.add_broker(broker.url())
    session.set(max_attempts="1")
    put(session, direct, range(3))
    arrived: list[int] = []

    def emptied() -> bool:
        session.value(BATCH)
        arrived.extend(numbers_in(channel, "events"))
        make_due(session)
        return waiting(session) == []

    wait_for(emptied, LIMIT, "room for all of them")
    assert sorted(arrived) == [0, 1, 2]
    assert session.value("SELECT count(*) FROM amqp.dead_letters") == 0


def test_an_ordering_key_waits_for_its_first_message(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    put(session, direct, [1], key="a")
    put(session, direct, [2], "late", key="b")
    put(session, direct, [3], key="b")
    put(session, direct, [4], key="a")
    put(session, direct, [5])
    put(session, direct, [6], key="b")
    assert session.value(BATCH) == 3
    assert sorted(numbers_in(channel, "events", 3)) == [1, 4, 5]
    assert session.value(BATCH) == 0
    channel.exchange_declare("late", "topic")
    channel.queue_bind("events", "late", "#")
    make_due(session)
    assert session.value(BATCH) == 3
    assert numbers_in(channel, "events", 3) == [2, 3, 6]


# ---- Rights ----


def test_execute_is_all_that_a_role_needs(
    session: Session, database: str, direct: int, channel: BlockingChannel
) -> None:
    put(session, direct, [1, 2], "nowhere")
    put(session, direct, [3])
    session.run("CREATE ROLE scheduler LOGIN")
    try:
        session.run("GRANT USAGE ON SCHEMA amqp TO scheduler")
        with open_session(database, role="scheduler") as scheduler:
            assert scheduler.error(BATCH).sqlstate == "42501"
            session.run(
                "GRANT EXECUTE ON FUNCTION amqp.publish_outbox_batch(integer, integer) TO scheduler"
            )
            assert scheduler.value(BATCH) == 1
            assert scheduler.value("SELECT current_user") == "scheduler"
            assert scheduler.error("SELECT body FROM amqp.outbox").sqlstate == "42501"
            settings = [
                scheduler.value(f"SHOW {name}") for name in ("enable_seqscan", "search_path")
            ]
            assert settings == ["on", '"$user", public']
        assert numbers_in(channel, "events", 1) == [3]
    finally:
        session.run("DROP OWNED BY scheduler; DROP ROLE scheduler")


def test_a_view_in_the_place_of_the_outbox(session: Session, direct: int) -> None:
    session.run("ALTER TABLE amqp.outbox RENAME TO other")
    session.run("CREATE VIEW amqp.outbox AS SELECT * FROM amqp.other")
    assert session.error(BATCH).sqlstate == "42809"
