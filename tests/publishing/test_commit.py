"""COMMIT publishes everything once, in the order of the calls; nothing else does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import errors

from servers.management import Management
from servers.rabbitmq import RabbitMQ
from support.fix_servers import VHost
from support.messages import Inbox, publish
from support.saying import saying_fixtures
from support.sessions import Session, open_session, wait_for_event

session, observer = saying_fixtures()


@pytest.fixture
def other_broker(rabbitmq: RabbitMQ, management: Management) -> Iterator[VHost]:
    """Another virtual host."""
    vhost = "other"
    management.create_vhost(vhost)
    yield VHost(rabbitmq, vhost)
    management.delete_vhost(vhost)


# ---- COMMIT ----


def test_commit_publishes_everything_in_call_order_once(session: Session, inbox: Inbox) -> None:
    with session.transaction():
        publish(session, *range(20))
        session.execute("SELECT say(i::text) FROM generate_series(20, 4999) AS i")
        publish(session, *range(5000, 5020))
        assert inbox.texts() == []
    assert inbox.texts() == [str(i) for i in range(5020)]
    session.execute("SELECT 1")
    assert inbox.texts() == []


def test_statement_of_its_own_is_a_transaction(session: Session, inbox: Inbox) -> None:
    publish(session, "one")
    assert inbox.texts() == ["one"]
    publish(session, "two")
    assert inbox.texts() == ["two"]


def test_discard_all_harms_nothing(session: Session, inbox: Inbox) -> None:
    # What a connection pooler says between two clients.
    for i in range(3):
        publish(session, i)
        session.execute("DISCARD ALL")
    assert inbox.texts() == ["0", "1", "2"]


def test_several_statements_of_one_query_are_one_transaction(
    session: Session, inbox: Inbox
) -> None:
    session.execute("SELECT say('one'); SELECT say('two')")
    assert inbox.texts() == ["one", "two"]
    with pytest.raises(errors.DivisionByZero):
        session.execute("SELECT say('one'); SELECT say('two'); SELECT 1/0")
    assert inbox.texts() == []


def test_pipeline_publishes_up_to_the_last_sync(session: Session, inbox: Inbox) -> None:
    with session.pipeline() as pipeline:
        publish(session, "one", "two")
        pipeline.sync()
        publish(session, "three")
        session.execute("SELECT 1/0")
        with pytest.raises(errors.DivisionByZero):
            pipeline.sync()
    assert inbox.texts() == ["one", "two"]


def test_commit_and_chain_publishes_each_transaction(session: Session, inbox: Inbox) -> None:
    session.execute("BEGIN")
    publish(session, "one")
    session.execute("COMMIT AND CHAIN")
    assert inbox.texts() == ["one"]
    publish(session, "two")
    session.execute("ROLLBACK AND CHAIN")
    publish(session, "three")
    session.execute("COMMIT")
    assert inbox.texts() == ["three"]


def test_consumer_finds_the_data_that_a_message_speaks_of(
    session: Session, database: str, broker: VHost, inbox: Inbox
) -> None:
    # The message is published before its row is there, and the commit takes its time.
    session.execute(
        """
        CREATE TABLE item (id integer PRIMARY KEY);
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_sleep(0.005); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION dawdle()
        """
    )
    number = 100
    consuming = threading.Event()

    def consume() -> list[tuple[int, bool]]:
        seen: list[tuple[int, bool]] = []
        connection = pika.BlockingConnection(pika.URLParameters(broker.url()))
        with connection, open_session(database) as reader:
            reader.execute("SELECT count(*) FROM item")
            consuming.set()
            for _, _, body in connection.channel().consume(
                inbox.queue, auto_ack=True, inactivity_timeout=30
            ):
                assert body is not None, "no message came"
                found = reader.execute("SELECT FROM item WHERE id = %s", [int(body)]).fetchall()
                seen.append((int(body), bool(found)))
                if len(seen) == number:
                    break
        return seen

    with ThreadPoolExecutor(1) as pool:
        consumer = pool.submit(consume)
        assert consuming.wait(30)
        for i in range(number):
            with session.transaction():
                publish(session, i)
                session.execute("INSERT INTO item VALUES (%s)", [i])
        assert consumer.result() == [(i, True) for i in range(number)]


# ---- Procedures ----


def test_commit_and_rollback_in_a_plpgsql_procedure(session: Session, inbox: Inbox) -> None:
    session.execute(
        """
        CREATE PROCEDURE work() LANGUAGE plpgsql AS $$
        BEGIN
            FOR i IN 1..10 LOOP
                PERFORM say(i::text);
                IF i % 2 = 0 THEN
                    COMMIT;
                ELSIF i % 3 = 0 THEN
                    ROLLBACK;
                END IF;
            END LOOP;
            PERFORM say('11');
            PERFORM 1/0;
        END $$
        """
    )
    with pytest.raises(errors.DivisionByZero):
        session.execute("CALL work()")
    # 3 and 9 were rolled back, 5 and 7 went with the next commit, 11 with the error.
    assert inbox.texts() == ["1", "2", "4", "5", "6", "7", "8", "10"]


def test_commit_and_rollback_in_a_plpython_procedure(session: Session, inbox: Inbox) -> None:
    session.execute(
        """
        CREATE PROCEDURE work() LANGUAGE plpython3u AS $$
        for i in range(1, 11):
            plpy.execute(f"SELECT say('{i}')")
            if i % 2 == 0:
                plpy.commit()
            elif i % 3 == 0:
                plpy.rollback()
        plpy.execute("SELECT say('11')")
        $$
        """
    )
    session.execute("CALL work()")
    assert inbox.texts() == ["1", "2", "4", "5", "6", "7", "8", "10", "11"]


def test_procedure_publishes_when_it_commits_not_when_it_ends(
    session: Session, observer: Session, inbox: Inbox
) -> None:
    observer.execute("SELECT pg_advisory_lock(1)")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(
            session.execute,
            """
            DO $$
            BEGIN
                PERFORM say('one');
                COMMIT;
                PERFORM say('two');
                PERFORM pg_advisory_lock(1);
            END $$
            """,
        )
        wait_for_event(observer, session.info.backend_pid, "advisory")
        assert inbox.texts() == ["one"]
        observer.execute("SELECT pg_advisory_unlock(1)")
        call.result()
    assert inbox.texts() == ["two"]


# ---- Several brokers ----


def test_two_brokers_in_one_transaction_each_get_theirs_in_order(
    session: Session,
    channel: BlockingChannel,
    inbox: Inbox,
    other_broker: VHost,
) -> None:
    session.execute("SELECT amqp.add_broker(%s)", [other_broker.url()])
    connection = pika.BlockingConnection(pika.URLParameters(other_broker.url()))
    with connection:
        other_inbox = Inbox(connection.channel())
        with session.transaction():
            for i in range(100):
                publish(session, i, broker=1 + i % 2)
                with session.transaction(force_rollback=i % 10 < 5):
                    publish(session, f"{i} a", broker=2 - i % 2)
                    publish(session, f"{i} b", broker=1 + i % 2)
            assert other_inbox.texts() == inbox.texts() == []
        expected: dict[int, list[str]] = {0: [], 1: []}
        for i in range(100):
            expected[i % 2].append(str(i))
            if i % 10 >= 5:
                expected[1 - i % 2].append(f"{i} a")
                expected[i % 2].append(f"{i} b")
        assert inbox.texts() == expected[0]
        assert other_inbox.texts() == expected[1]


def test_unreachable_broker_keeps_nothing_from_another_one(session: Session, inbox: Inbox) -> None:
    session.execute("SELECT amqp.add_broker('amqp://127.0.0.1:1/')")
    with session.transaction():
        publish(session, "before")
        with pytest.raises(errors.SqlclientUnableToEstablishSqlconnection), session.transaction():
            publish(session, "never", broker=2)
        publish(session, "after")
    assert inbox.texts() == ["before", "after"]
