"""Streams: the offset moves with the rows, and can be rewound from SQL."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from pg_amqp_daemon.consume.batch import new_batch
from pg_amqp_daemon.consume.inbox import RewoundError
from pg_amqp_py.wire.consume.delivery import Delivery
from servers.processes import wait_for
from servers.relay import ConsumeProcess
from support.consumers import Consumer, Desk, desk
from support.fix_servers import VHost
from support.patience import LIMIT
from support.sessions import Session, session_fixture
from support.storing import ARRIVED, consume_into, counted, dead, message, storing

session = session_fixture()


@pytest.fixture
def consumers(database: str, broker: VHost) -> Iterator[Desk]:
    """Makes consumers of streams."""
    with desk(database, broker) as make:

        def stream(**columns: object) -> Consumer:
            consumer = make(queue_type="stream", **columns)
            if not confirming:
                consumer.channel.confirm_delivery()
                confirming.append(True)
            return consumer

        confirming: list[bool] = []
        yield stream


def at(*offsets: int) -> list[Delivery]:
    """Messages of a stream, which hold their offsets."""
    return [message(json.dumps({"id": n}), offset=n) for n in offsets]


def offset(session: Session) -> tuple[int | None, int]:
    """Where the stream goes on, and how often it was rewound."""
    ((following, rewinds),) = session.run("SELECT next_offset, rewinds FROM amqp.inbox_offset")
    return following, rewinds


def ids(session: Session) -> list[int]:
    return [n for (n,) in session.run("SELECT id FROM t ORDER BY ctid")]


@pytest.fixture
def table(session: Session) -> None:
    session.run("CREATE TABLE t (id integer)")


# ---- The offset ----


@pytest.mark.usefixtures("table")
def test_the_offset_moves_in_the_transaction_of_the_rows(session: Session, database: str) -> None:
    consume_into(session, "t")
    with storing(database, is_stream=True) as one:
        one.put(*at(5, 6, 7), rewinds=0)
        assert (ids(session), offset(session)) == ([5, 6, 7], (8, 0))
        one.ask("SET default_transaction_read_only = on")
        with pytest.raises(Exception, match="read-only"):
            one.put_on(*at(8), rewinds=0)
        assert offset(session) == (8, 0)
        one.ask("SET default_transaction_read_only = off")
        done = one.put_on(*at(8), message("bad", offset=9), *at(10), rewinds=0)
    assert (done.stored, done.dead) == (2, 1)
    assert (ids(session), offset(session)) == ([5, 6, 7, 8, 10], (11, 0))
    assert dead(session, "stream_offset") == [9]


@pytest.mark.usefixtures("table")
def test_a_dead_message_at_the_end_moves_it_as_well(session: Session, database: str) -> None:
    consume_into(session, "t")
    deep = message("x")._replace(properties=b"\x80\0\xff")
    with storing(database, is_stream=True) as one:
        one.put(*at(1), message("bad", offset=2), rewinds=0)
        assert offset(session) == (3, 0)
        # What cannot be read says nothing of its offset; it comes behind the one before.
        one.put(*at(3), deep, rewinds=0)
        assert offset(session) == (5, 0)


@pytest.mark.usefixtures("table")
def test_what_was_stored_once_is_not_stored_again(session: Session, database: str) -> None:
    """As after a batch of which one part was committed when the session was lost."""
    consume_into(session, "t")
    with storing(database, is_stream=True) as one:
        one.put(*at(1, 2), rewinds=0)
        with pytest.raises(RewoundError):
            one.put(*at(1, 2, 3, 4), rewinds=0)
        one.put(*at(3, 4), rewinds=0)
    assert ids(session) == [1, 2, 3, 4]


@pytest.mark.usefixtures("table")
def test_a_batch_whose_commit_fails_by_parts_moves_it_by_parts(
    session: Session, database: str
) -> None:
    session.run(
        """CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF NEW.id = 4 AND current_setting('test.late', true) = '1' THEN RAISE 'no'; END IF;
               PERFORM set_config('test.late', '1', true); RETURN NULL; END $$;
           CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO late VALUES (NEW.id); RETURN NULL; END $$;
           CREATE TABLE late (id integer);
           CREATE CONSTRAINT TRIGGER a AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION no();
           CREATE CONSTRAINT TRIGGER b AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION note()"""
    )
    consume_into(session, "t")
    with storing(database, is_stream=True) as one:
        one.put(*at(*range(8)), rewinds=0)
    assert offset(session) == (8, 0)
    assert sorted(ids(session) + dead(session, "stream_offset")) == list(range(8))


@pytest.mark.usefixtures("table")
def test_only_the_offset_counts_unless_more_is_asked_for(session: Session, database: str) -> None:
    consume_into(session, "t")
    consume_into(session, "t", name="d", deduplicate_by="message_id")
    copies = [message('{"id": 1}', offset=n, message_id="a") for n in range(3)]
    with storing(database, is_stream=True) as one:
        assert one.put(*copies, rewinds=0).stored == 3
    with storing(database, "d", is_stream=True) as one:
        done = one.put(*copies, rewinds=0)
    assert (done.stored, done.duplicates) == (1, 2)
    assert session.value("SELECT count(*) FROM amqp.inbox_seen") == 1
    assert counted(session) == (3, 0, 0)


@pytest.mark.usefixtures("table")
def test_on_conflict_tells_copies_that_producers_wrote(session: Session, database: str) -> None:
    session.run("ALTER TABLE t ADD PRIMARY KEY (id)")
    consume_into(session, "t", on_conflict="ignore")
    with storing(database, is_stream=True) as one:
        done = one.put(*(message('{"id": 1}', offset=n) for n in range(3)), rewinds=0)
    assert (done.stored, done.duplicates) == (1, 2)


@pytest.mark.usefixtures("table")
def test_dead_messages_of_a_stream_are_tried_again_without_moving_it(
    session: Session, database: str
) -> None:
    consume_into(session, "t")
    with storing(database, is_stream=True) as one:
        one.put(message('{"id": 1099511627776}', offset=1), *at(2, 3), rewinds=0)
        session.run("ALTER TABLE t ALTER id TYPE bigint; SELECT amqp.retry_dead_messages('c')")
        assert one.retry().stored == 1
    assert offset(session) == (4, 0)
    assert ids(session)[-1] == 2**40


# ---- Rewinding ----


def test_rewind_says_what_is_wrong(session: Session) -> None:
    consume_into(session)
    for call, state in {
        "'nobody', 1": "42704",
        "'c', -1": "22023",
        "'c', NULL::bigint": "22023",
        "'c', NULL::timestamptz": "22023",
        "'c', 'infinity'::timestamptz": "22023",
    }.items():
        assert session.error(f"SELECT amqp.rewind({call})").sqlstate == state, call
    assert session.run("SELECT FROM amqp.inbox_offset") == []


@pytest.mark.usefixtures("table")
def test_rewind_wins_over_a_batch_in_flight(session: Session, database: str) -> None:
    consume_into(session, "t", deduplicate_by="message_id")
    with storing(database, is_stream=True) as one:
        one.put(message('{"id": 1}', offset=1, message_id="a"), rewinds=0)
        session.run("SELECT amqp.rewind('c', 0)")
        assert (offset(session), session.run("SELECT FROM amqp.inbox_seen")) == ((0, 1), [])
        with pytest.raises(RewoundError):
            one.put(message('{"id": 2}', offset=2, message_id="b"), rewinds=0)
        assert ids(session) == [1]
        one.put(message('{"id": 1}', offset=1, message_id="a"), rewinds=1)
        session.run("SELECT amqp.rewind('c', '2026-11-01'::timestamptz)")
        place = one.inbox.place("q")
        assert place is not None
        assert place == (None, int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()), 2)
        one.put(message('{"id": 1}', offset=0, message_id="a"), rewinds=2)
    assert (ids(session), offset(session)) == ([1, 1, 1], (1, 2))


@pytest.mark.usefixtures("table")
def test_rewind_waits_for_a_batch_that_is_being_stored(session: Session, database: str) -> None:
    """The offset is locked from the moment it has moved."""
    consume_into(session, "t")
    with storing(database, is_stream=True) as one:
        one.look()
        batch = new_batch(1, at(1, 2), [ARRIVED] * 2)
        with one.inbox.transaction():
            one.inbox.advance("q", batch, 0)
            assert session.run("SELECT FROM amqp.inbox_offset") == []
            session.run("SET lock_timeout = '100ms'")
            assert session.error("SELECT amqp.rewind('c', 0)").sqlstate == "55P03"
        session.run("SELECT amqp.rewind('c', 0)")
    assert offset(session) == (0, 1)


@pytest.mark.usefixtures("table")
def test_rewind_before_anything_was_stored(session: Session, database: str) -> None:
    consume_into(session, "t", stream_offset="next")
    session.run("SELECT amqp.rewind('c', 100)")
    with storing(database, is_stream=True) as one:
        with pytest.raises(RewoundError):
            one.put(*at(7), rewinds=0)
        one.put(*at(100), rewinds=1)
    assert offset(session) == (101, 1)


# ---- With a broker ----


def bodies(consumer: Consumer) -> list[str]:
    return consumer.inbox()


def fill(consumer: Consumer, *numbers: int) -> None:
    """Publish numbers, all of which are in the stream in the end."""
    consumer.publish(*map(str, numbers))


@pytest.mark.parametrize(
    ("start", "expected"),
    [("first", [*"0123456"]), ("3", [*"3456"]), ("next", [*"56"]), (None, [*"56"])],
)
def test_a_stream_begins_where_the_row_says(
    database: str, consumers: Desk, start: str | None, expected: list[str]
) -> None:
    consumer = consumers(stream_offset=start)
    fill(consumer, *range(5))
    with ConsumeProcess(database) as daemon:
        daemon.wait_for_event("consuming")
        fill(consumer, 5, 6)
        consumer.wait_for_stored(len(expected))
    assert bodies(consumer) == expected


def test_a_stream_begins_at_a_time(database: str, consumers: Desk) -> None:
    first = consumers()
    fill(first, 0, 1)
    # RabbitMQ tells chunks apart by the time, in whole seconds.
    begun = time.time()
    wait_for(lambda: time.time() > begun + 2, LIMIT, "the next second but one")
    moment = datetime.now(UTC)
    wait_for(lambda: datetime.now(UTC) > moment + timedelta(seconds=1), LIMIT, "the next second")
    fill(first, 2, 3)
    consumer = consumers(queue=first.queue, stream_offset=str(moment))
    with ConsumeProcess(database):
        consumer.wait_for_stored(2)
    assert bodies(consumer) == ["2", "3"]


def test_a_restart_goes_on_at_the_offset(database: str, consumers: Desk) -> None:
    consumer = consumers(stream_offset="first")
    for end, stop in ((100, "kill"), (200, "terminate"), (300, "kill")):
        fill(consumer, *range(end - 100, end))
        with ConsumeProcess(database) as daemon:
            consumer.wait_for_stored(end)
            getattr(daemon, stop)()
    assert bodies(consumer) == [str(n) for n in range(300)]


@pytest.mark.parametrize("live", [True, False], ids=["while it runs", "while nobody runs"])
def test_a_stream_is_rewound_by_offset_and_by_time(
    database: str, consumers: Desk, live: bool
) -> None:
    consumer = consumers(stream_offset="first")
    fill(consumer, *range(10))
    with ConsumeProcess(database) as daemon:
        consumer.wait_for_stored(10)
        if not live:
            daemon.terminate()
        consumer.session.run("SELECT amqp.rewind(%s, 7)", consumer.name)
        if not live:
            daemon.start()
        consumer.wait_for_stored(13)
        consumer.session.run("SELECT amqp.rewind(%s, '2026-01-01'::timestamptz)", consumer.name)
        consumer.wait_for_stored(23)
        fill(consumer, 10)
        consumer.wait_for_stored(24)
    expected = [*range(10), *range(7, 10), *range(10), 10]
    assert bodies(consumer) == [str(n) for n in expected]


def test_rewinding_while_thousands_are_being_stored_loses_none(
    database: str, consumers: Desk
) -> None:
    consumer = consumers(stream_offset="first", batch_size=50)
    session = consumer.session
    session.run("CREATE TABLE t (id integer PRIMARY KEY, times integer DEFAULT 1)")
    consumer.change(target_table="t", on_conflict="ignore", columns='{"id": "body"}')
    fill(consumer, *range(2000))
    with ConsumeProcess(database):
        for least in (100, 500, 1000):
            wait_for(
                lambda least=least: session.value("SELECT count(*) FROM t") >= least,  # type: ignore[misc]
                LIMIT,
                f"{least} rows",
            )
            session.run("TRUNCATE t")
            session.run("SELECT amqp.rewind(%s, 0)", consumer.name)
        wait_for(lambda: session.value("SELECT count(*) FROM t") == 2000, LIMIT, "all rows")
        wait_for(
            lambda: session.run("SELECT next_offset FROM amqp.inbox_offset") == [(2000,)],
            LIMIT,
            "the end",
        )
