"""Publishing follows the transaction: what commits is published once and in order, nothing else."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pika
import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import errors

from servers.management import Management
from servers.rabbitmq import RabbitMQ
from support.fix_servers import Broker
from support.messages import (
    Inbox,
    Session,
    open_session,
    publish,
    wait_for_end,
    wait_for_event,
    warnings_of,
)

# SQL that publishes $1, for the tests that speak of nothing but the text.
PUBLISH = """
CREATE FUNCTION say(message text) RETURNS boolean LANGUAGE sql
AS $$ SELECT amqp.publish(1, 'amq.topic', 'key', message) $$
"""


@pytest.fixture
def session(database: str, broker: Broker) -> Iterator[Session]:
    """A session in autocommit mode; it has broker 1, and the function say(text)."""
    with open_session(database, broker) as session:
        session.execute(PUBLISH)
        yield session


@pytest.fixture
def observer(session: Session, database: str) -> Iterator[Session]:
    """Another session in the same database."""
    with open_session(database) as observer:
        yield observer


@pytest.fixture
def inbox(channel: BlockingChannel) -> Inbox:
    """What is published to amq.topic."""
    return Inbox(channel)


@pytest.fixture
def other_broker(rabbitmq: RabbitMQ, management: Management) -> Iterator[Broker]:
    """Another virtual host."""
    vhost = "other"
    management.create_vhost(vhost)
    yield Broker(rabbitmq, vhost)
    management.delete_vhost(vhost)


def assert_usable(session: Session, inbox: Inbox) -> None:
    """Nothing was published, and the session's next transaction publishes as ever."""
    assert inbox.texts() == []
    with session.transaction():
        publish(session, "after")
    assert inbox.texts() == ["after"]


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
    session: Session, database: str, broker: Broker, inbox: Inbox
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


# ---- Whatever does not commit ----


def test_rollback_publishes_nothing(session: Session, inbox: Inbox) -> None:
    session.execute("BEGIN")
    publish(session, "never")
    session.execute("ROLLBACK")
    assert_usable(session, inbox)


def test_error_publishes_nothing(session: Session, inbox: Inbox) -> None:
    session.execute("BEGIN")
    publish(session, "never")
    with pytest.raises(errors.DivisionByZero):
        session.execute("SELECT 1/0")
    session.execute("ROLLBACK")
    assert_usable(session, inbox)


def test_commit_of_a_failed_transaction_publishes_nothing(session: Session, inbox: Inbox) -> None:
    session.execute("BEGIN")
    publish(session, "never")
    with pytest.raises(errors.UndefinedTable):
        session.execute("SELECT FROM nowhere")
    assert session.execute("COMMIT").statusmessage == "ROLLBACK"
    assert_usable(session, inbox)


def test_error_in_the_publishing_statement_publishes_nothing(
    session: Session, inbox: Inbox
) -> None:
    with pytest.raises(errors.DivisionByZero):
        session.execute("SELECT say(i::text), 1 / (5 - i) FROM generate_series(1, 9) AS i")
    assert_usable(session, inbox)


def test_refused_publish_call_publishes_nothing(session: Session, inbox: Inbox) -> None:
    session.execute("BEGIN")
    publish(session, "never")
    with pytest.raises(errors.UndefinedObject):
        publish(session, "never", broker=99)
    session.execute("ROLLBACK")
    assert_usable(session, inbox)


def test_cancelled_statement_publishes_nothing(
    session: Session, observer: Session, inbox: Inbox
) -> None:
    pid = session.info.backend_pid
    with ThreadPoolExecutor(1) as pool:
        statement = pool.submit(
            session.execute, "SELECT say(i::text), pg_sleep(i) FROM generate_series(0, 60, 60) AS i"
        )
        wait_for_event(observer, pid, "PgSleep")
        observer.execute("SELECT pg_cancel_backend(%s)", [pid])
        with pytest.raises(errors.QueryCanceled):
            statement.result()
    assert_usable(session, inbox)


def test_statement_timeout_publishes_nothing(session: Session, inbox: Inbox) -> None:
    session.execute("BEGIN")
    publish(session, "never")
    session.execute("SET LOCAL statement_timeout = '50ms'")
    with pytest.raises(errors.QueryCanceled):
        session.execute("SELECT say('never'), pg_sleep(60)")
    session.execute("ROLLBACK")
    assert_usable(session, inbox)


def test_lost_client_publishes_nothing(session: Session, observer: Session, inbox: Inbox) -> None:
    pid = session.info.backend_pid
    session.execute("BEGIN")
    publish(session, "never")
    with socket.socket(fileno=os.dup(session.fileno())) as connection:
        connection.shutdown(socket.SHUT_RDWR)
    session.close()
    wait_for_end(observer, pid)
    assert_usable(observer, inbox)


def test_client_that_leaves_in_order_with_an_open_transaction_publishes_nothing(
    session: Session, observer: Session, inbox: Inbox
) -> None:
    pid = session.info.backend_pid
    session.execute("BEGIN")
    publish(session, "never")
    session.close()
    wait_for_end(observer, pid)
    assert_usable(observer, inbox)


def test_backend_terminated_in_a_statement_publishes_nothing(
    session: Session, observer: Session, inbox: Inbox
) -> None:
    pid = session.info.backend_pid
    session.execute("BEGIN")
    publish(session, "never")
    with ThreadPoolExecutor(1) as pool:
        statement = pool.submit(session.execute, "SELECT say('never'), pg_sleep(60)")
        wait_for_event(observer, pid, "PgSleep")
        observer.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(errors.AdminShutdown):
            statement.result()
    wait_for_end(observer, pid)
    assert_usable(observer, inbox)


def test_backend_terminated_between_statements_publishes_nothing(
    session: Session, observer: Session, inbox: Inbox
) -> None:
    pid = session.info.backend_pid
    session.execute("BEGIN")
    publish(session, "never")
    observer.execute("SELECT pg_terminate_backend(%s)", [pid])
    wait_for_end(observer, pid)
    with pytest.raises(psycopg.OperationalError):
        session.execute("COMMIT")
    assert_usable(observer, inbox)


def test_serialization_failure_at_commit_publishes_nothing(
    session: Session, observer: Session, inbox: Inbox
) -> None:
    session.execute("CREATE TABLE doctor (name text, on_call boolean)")
    session.execute("INSERT INTO doctor VALUES ('alice', true), ('bob', true)")
    for each, name in ((observer, "alice"), (session, "bob")):
        each.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        each.execute("SELECT count(*) FROM doctor WHERE on_call")
        publish(each, f"{name} leaves")
    session.execute("UPDATE doctor SET on_call = false WHERE name = 'bob'")
    observer.execute("UPDATE doctor SET on_call = false WHERE name = 'alice'")
    observer.execute("COMMIT")
    with pytest.raises(errors.SerializationFailure):
        session.execute("COMMIT")
    assert inbox.texts() == ["alice leaves"]
    assert_usable(session, inbox)


def test_read_only_transaction_publishes(session: Session, inbox: Inbox) -> None:
    session.execute("BEGIN READ ONLY")
    publish(session, "one")
    session.execute("COMMIT")
    session.execute("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE")
    publish(session, "two")
    assert session.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
    session.execute("COMMIT")
    assert inbox.texts() == ["one", "two"]


def test_first_call_of_a_session_in_a_read_only_transaction_publishes(
    session: Session, observer: Session, inbox: Inbox
) -> None:
    observer.execute("SET default_transaction_read_only = on")
    publish(observer, "one")
    assert inbox.texts() == ["one"]


# ---- Savepoints ----

SAVEPOINTS = {
    "released": ("1 (2) 3", "1 2 3"),
    "rolled back": ("1 (2] 3", "1 3"),
    "nested, both released": ("1 (2 (3) 4) 5", "1 2 3 4 5"),
    "inner rolled back": ("1 (2 (3] 4) 5", "1 2 4 5"),
    "outer rolled back after inner was released": ("1 (2 (3) 4] 5", "1 5"),
    "outer rolled back after inner was": ("1 (2 (3] 4] 5", "1 5"),
    "neighbours": ("(1) (2] (3) (4] 5", "1 3 5"),
    "published only in released ones": ("((1)) ((2))", "1 2"),
    "rolled back with nothing before": ("((1) 2] 3", "3"),
    "all rolled back": ("(1 (2)] (3]", ""),
    "released deep in a rolled back one": ("1 (2 (3 (4 (5) 6) 7) 8] 9", "1 9"),
    "rolled back deep, the rest released": ("1 (2 (3 (4 (5] 6) 7) 8) 9", "1 2 3 4 6 7 8 9"),
    "empty ones between": ("1 () (] ((]) 2 ((2.5] 3) ()", "1 2 3"),
    "parent goes on after a released child, and is rolled back": ("(1 (2) 3 (4] 5 (6) 7] 8", "8"),
    "rolled back twice over": ("1 (2 ! 3 ! 4) 5", "1 4 5"),
    "error inside": ("1 (2 x] 3", "1 3"),
    "error deep inside, all of it rolled back": ("1 (2 (3 (4 x]]] 5", "1 5"),
    "error inside, caught by the inner one": ("1 (2 (3 x] 4) 5", "1 2 4 5"),
    "error after a release": ("1 (2 (3) x ! 4) 5", "1 4 5"),
}


def test_savepoints(session: Session, inbox: Inbox) -> None:
    found = {}
    for name, (script, _) in SAVEPOINTS.items():
        session.execute("BEGIN")
        run_script(session, script)
        session.execute("COMMIT")
        found[name] = " ".join(inbox.texts())
    assert found == {name: survivors for name, (_, survivors) in SAVEPOINTS.items()}
    session.execute("SELECT 1")
    assert inbox.texts() == []


def test_savepoints_of_a_transaction_that_rolls_back(session: Session, inbox: Inbox) -> None:
    for script, _ in SAVEPOINTS.values():
        session.execute("BEGIN")
        run_script(session, script)
        session.execute("ROLLBACK")
    assert_usable(session, inbox)


def run_script(session: Session, script: str) -> None:
    """Publish numbers; ( is SAVEPOINT, ) RELEASE, ! ROLLBACK TO, ] both, x an error."""
    for mark in "()]!":
        script = script.replace(mark, f" {mark} ")
    for step in script.split():
        if step == "(":
            session.execute("SAVEPOINT s")
        elif step == ")":
            session.execute("RELEASE SAVEPOINT s")
        elif step == "]":
            session.execute("ROLLBACK TO SAVEPOINT s")
            session.execute("RELEASE SAVEPOINT s")
        elif step == "!":
            session.execute("ROLLBACK TO SAVEPOINT s")
        elif step == "x":
            with pytest.raises(errors.DivisionByZero):
                session.execute("SELECT say('never'), 1/0")
        else:
            publish(session, step)


def test_savepoint_with_several_open_ones_below_is_rolled_back(
    session: Session, inbox: Inbox
) -> None:
    with session.transaction():
        publish(session, 1)
        for name in "abcd":
            session.execute(f"SAVEPOINT {name}")
            publish(session, name)
        session.execute("RELEASE SAVEPOINT d")
        session.execute("ROLLBACK TO SAVEPOINT b")
        publish(session, 2)
    assert inbox.texts() == ["1", "a", "2"]


def test_cancelled_statement_in_a_savepoint_takes_only_the_savepoint(
    session: Session, observer: Session, inbox: Inbox
) -> None:
    pid = session.info.backend_pid
    with session.transaction():
        publish(session, "before")
        session.execute("SAVEPOINT s")
        publish(session, "never")
        with ThreadPoolExecutor(1) as pool:
            statement = pool.submit(session.execute, "SELECT say('never'), pg_sleep(60)")
            wait_for_event(observer, pid, "PgSleep")
            observer.execute("SELECT pg_cancel_backend(%s)", [pid])
            with pytest.raises(errors.QueryCanceled):
                statement.result()
        session.execute("ROLLBACK TO SAVEPOINT s")
        publish(session, "after")
    assert inbox.texts() == ["before", "after"]


def test_refused_publish_call_in_a_savepoint_takes_only_the_savepoint(
    session: Session, inbox: Inbox
) -> None:
    with session.transaction():
        publish(session, "before")
        session.execute("SAVEPOINT s")
        publish(session, "never")
        with pytest.raises(errors.UndefinedObject):
            session.execute("SELECT amqp.publish(1, 'no such exchange', '', 'never')")
        session.execute("ROLLBACK TO SAVEPOINT s")
        publish(session, "after")
    assert inbox.texts() == ["before", "after"]


# ---- Blocks that catch errors ----


def test_exception_blocks(session: Session, inbox: Inbox) -> None:
    session.execute(
        """
        DO $$
        BEGIN
            PERFORM say('1');
            BEGIN
                PERFORM say('2');
                BEGIN
                    PERFORM say('lost');
                    PERFORM 1/0;
                EXCEPTION WHEN division_by_zero THEN
                    PERFORM say('3');
                    BEGIN
                        PERFORM say('lost');
                        RAISE EXCEPTION 'again';
                    EXCEPTION WHEN raise_exception THEN
                        PERFORM say('4');
                    END;
                END;
                PERFORM say('5');
            EXCEPTION WHEN OTHERS THEN
                PERFORM say('never');
            END;
            BEGIN
                PERFORM say('lost');
                BEGIN
                    PERFORM say('lost');
                EXCEPTION WHEN OTHERS THEN
                    PERFORM say('never');
                END;
                RAISE EXCEPTION 'the inner block was released';
            EXCEPTION WHEN OTHERS THEN
                PERFORM say('6');
            END;
            BEGIN
                PERFORM say('lost');
                PERFORM amqp.publish(99, 'amq.topic', 'key', 'lost');
            EXCEPTION WHEN undefined_object THEN
                PERFORM say('7');
            END;
            PERFORM say('8');
        END $$
        """
    )
    assert inbox.texts() == list("12345678")


def test_many_exception_blocks(session: Session, inbox: Inbox) -> None:
    session.execute(
        """
        DO $$
        BEGIN
            FOR i IN 1..3000 LOOP
                BEGIN
                    PERFORM say(i::text);
                    IF i % 3 = 0 THEN
                        RAISE EXCEPTION 'no';
                    END IF;
                EXCEPTION WHEN raise_exception THEN
                    IF i % 30 = 0 THEN
                        PERFORM say('instead of ' || i);
                    END IF;
                END;
            END LOOP;
        END $$
        """
    )
    expected = [
        str(i) if i % 3 else f"instead of {i}" for i in range(1, 3001) if i % 3 or i % 30 == 0
    ]
    assert inbox.texts() == expected


def test_plpython_subtransactions(session: Session, inbox: Inbox) -> None:
    session.execute(
        """
        DO LANGUAGE plpython3u $$
        def say(message):
            plpy.execute(f"SELECT say('{message}')")

        say("1")
        with plpy.subtransaction():
            say("2")
            try:
                with plpy.subtransaction():
                    say("lost")
                    plpy.execute("SELECT 1/0")
            except plpy.SPIError:
                say("3")
            # Without a subtransaction of its own PL/Python still makes one for each query.
            try:
                plpy.execute("SELECT say('lost'), 1/0")
            except plpy.SPIError:
                say("4")
        say("5")
        $$
        """
    )
    assert inbox.texts() == list("12345")


# ---- Several brokers ----


def test_two_brokers_in_one_transaction_each_get_theirs_in_order(
    session: Session,
    channel: BlockingChannel,
    inbox: Inbox,
    other_broker: Broker,
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


# ---- Two-phase commit ----


def test_prepare_with_messages_pending_is_refused(session: Session, inbox: Inbox) -> None:
    warnings = warnings_of(session)
    session.execute("CREATE TABLE item (id integer)")
    session.execute("BEGIN")
    session.execute("INSERT INTO item VALUES (1)")
    publish(session, "never", "never")
    with pytest.raises(errors.FeatureNotSupported):
        session.execute("PREPARE TRANSACTION 'one'")
    assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert [(w.sqlstate, w.message) for w in warnings] == [
        ("0A000", "amqp: a transaction with messages pending cannot be prepared")
    ]
    assert warnings[0].detail is not None
    assert warnings[0].detail.startswith("Messages pending: 2.")
    assert warnings[0].hint
    assert session.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone() == (0,)
    assert session.execute("SELECT count(*) FROM item").fetchone() == (0,)
    assert_usable(session, inbox)


def test_prepare_is_refused_while_a_cancel_request_is_pending(
    session: Session, inbox: Inbox
) -> None:
    # It interrupts the warning, and must not let the transaction through.
    session.execute("CREATE TABLE item (id integer)")
    session.execute(
        """CREATE FUNCTION cancel_me() RETURNS trigger LANGUAGE plpython3u
           AS $$import os, signal; os.kill(os.getpid(), signal.SIGINT)$$"""
    )
    session.execute(
        """CREATE CONSTRAINT TRIGGER t AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION cancel_me()"""
    )
    session.execute("BEGIN")
    publish(session, "never")
    session.execute("INSERT INTO item VALUES (1)")
    with pytest.raises((errors.FeatureNotSupported, errors.QueryCanceled)):
        session.execute("PREPARE TRANSACTION 'one'")
    assert session.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone() == (0,)
    assert_usable(session, inbox)


def test_prepare_with_nothing_pending_works(
    session: Session, observer: Session, inbox: Inbox
) -> None:
    warnings = warnings_of(session)
    session.execute("CREATE TABLE item (id integer)")
    publish(session, "earlier")
    session.execute("BEGIN; INSERT INTO item VALUES (1); SAVEPOINT s")
    publish(session, "never")
    session.execute("ROLLBACK TO SAVEPOINT s")
    session.execute("PREPARE TRANSACTION 'one'")
    publish(session, "meanwhile")
    observer.execute("COMMIT PREPARED 'one'")
    assert inbox.texts() == ["earlier", "meanwhile"]
    assert session.execute("SELECT id FROM item").fetchall() == [(1,)]
    assert warnings == []


def test_prepare_after_a_refused_one_works(session: Session, inbox: Inbox) -> None:
    session.execute("BEGIN")
    publish(session, "never")
    with pytest.raises(errors.FeatureNotSupported):
        session.execute("PREPARE TRANSACTION 'one'")
    session.execute("CREATE TABLE item (id integer)")
    session.execute("BEGIN; INSERT INTO item VALUES (1)")
    session.execute("PREPARE TRANSACTION 'one'")
    session.execute("ROLLBACK PREPARED 'one'")
    assert_usable(session, inbox)


# ---- Deferred triggers: they run inside the commit ----


@pytest.fixture
def deferred(session: Session) -> Session:
    """The session, with a table whose deferred trigger publishes each row at commit.

    The trigger also publishes in blocks of which it rolls back every other one.
    """
    session.execute(
        """
        CREATE TABLE item (id integer, parent integer);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM say(NEW.id || ' first');
            BEGIN
                PERFORM say(NEW.id || ' in a block');
                BEGIN
                    PERFORM say(NEW.id || ' in an inner block');
                    RAISE EXCEPTION 'no';
                EXCEPTION WHEN raise_exception THEN
                    NULL;
                END;
                IF NEW.id % 2 = 0 THEN
                    RAISE EXCEPTION 'no';
                END IF;
            EXCEPTION WHEN raise_exception THEN
                NULL;
            END;
            PERFORM say(NEW.id || ' last');
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION tell()
        """
    )
    return session


def test_deferred_trigger_publishes_at_commit(deferred: Session, inbox: Inbox) -> None:
    with deferred.transaction():
        deferred.execute("INSERT INTO item VALUES (1), (2)")
        publish(deferred, "in the transaction")
        with deferred.transaction(force_rollback=True):
            deferred.execute("INSERT INTO item VALUES (3)")
    assert inbox.texts() == [
        "in the transaction",
        "1 first",
        "1 in a block",
        "1 last",
        "2 first",
        "2 last",
    ]


def test_deferred_trigger_is_the_first_to_publish_in_a_session(
    deferred: Session, observer: Session, inbox: Inbox
) -> None:
    # Nothing is loaded or connected before the commit.
    observer.execute("INSERT INTO item VALUES (2)")
    assert inbox.texts() == ["2 first", "2 last"]


def test_deferred_trigger_that_fails_publishes_nothing(deferred: Session, inbox: Inbox) -> None:
    deferred.execute("BEGIN")
    publish(deferred, "never")
    deferred.execute(
        """
        INSERT INTO item VALUES (1);
        CREATE OR REPLACE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM say('never'); PERFORM 1/0; RETURN NULL; END $$
        """
    )
    with pytest.raises(errors.DivisionByZero):
        deferred.execute("COMMIT")
    assert_usable(deferred, inbox)


@pytest.mark.parametrize("constraint", ["a_first", "z_last"])
def test_commit_that_a_deferred_constraint_refuses_publishes_nothing(
    deferred: Session, inbox: Inbox, constraint: str
) -> None:
    # The refusal comes before the publishing trigger or after it: triggers fire in name order.
    deferred.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation'; END $$;
        CREATE CONSTRAINT TRIGGER {constraint} AFTER INSERT ON item
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.parent IS NOT NULL)
        EXECUTE FUNCTION refuse()
        """
    )
    deferred.execute("BEGIN")
    publish(deferred, "never")
    deferred.execute("INSERT INTO item VALUES (1, NULL), (2, 1)")
    with pytest.raises(errors.CheckViolation):
        deferred.execute("COMMIT")
    assert_usable(deferred, inbox)


def test_commit_that_a_deferred_foreign_key_refuses_publishes_nothing(
    session: Session, inbox: Inbox
) -> None:
    session.execute(
        """
        CREATE TABLE item (
            id integer PRIMARY KEY,
            parent integer REFERENCES item DEFERRABLE INITIALLY DEFERRED
        )
        """
    )
    session.execute("BEGIN")
    session.execute("INSERT INTO item VALUES (1, 2)")
    publish(session, "never")
    with pytest.raises(errors.ForeignKeyViolation):
        session.execute("COMMIT")
    assert_usable(session, inbox)


def test_deferred_trigger_made_immediate_publishes_in_call_order(
    deferred: Session, inbox: Inbox
) -> None:
    with deferred.transaction():
        deferred.execute("INSERT INTO item VALUES (2)")
        publish(deferred, "one")
        deferred.execute("SET CONSTRAINTS ALL IMMEDIATE")
        publish(deferred, "two")
    assert inbox.texts() == ["one", "2 first", "2 last", "two"]


def test_deferred_trigger_at_a_procedures_commit(deferred: Session, inbox: Inbox) -> None:
    deferred.execute(
        """
        DO $$
        BEGIN
            INSERT INTO item VALUES (2);
            PERFORM say('one');
            COMMIT;
            PERFORM say('two');
            INSERT INTO item VALUES (4);
            ROLLBACK;
            PERFORM say('three');
        END $$
        """
    )
    assert inbox.texts() == ["one", "2 first", "2 last", "three"]


# ---- Plans: a call is a call, whatever the planner knows of its arguments ----


def test_prepared_statement_of_the_protocol_publishes_every_time(
    session: Session, inbox: Inbox
) -> None:
    for _ in range(12):
        session.execute("SELECT amqp.publish(1, 'amq.topic', 'key', 'same')", prepare=True)
    assert inbox.texts() == ["same"] * 12
    for i in range(12):
        session.execute(
            "SELECT amqp.publish(1, 'amq.topic', 'key', %s)", [f"number {i}"], prepare=True
        )
    assert inbox.texts() == [f"number {i}" for i in range(12)]


def test_prepared_statement_of_sql_publishes_every_time(session: Session, inbox: Inbox) -> None:
    session.execute("PREPARE same AS SELECT amqp.publish(1, 'amq.topic', 'key', 'same')")
    session.execute("PREPARE given(text) AS SELECT amqp.publish(1, 'amq.topic', 'key', $1)")
    for mode in ("auto", "force_generic_plan", "force_custom_plan"):
        session.execute(f"SET plan_cache_mode = {mode}")
        for i in range(8):
            session.execute("EXECUTE same")
            session.execute(f"EXECUTE given('{i}')")
        assert inbox.texts() == [text for i in range(8) for text in ("same", str(i))]


@pytest.mark.parametrize("language", ["sql", "plpgsql", "plpython3u"])
def test_function_with_constant_arguments_publishes_every_time(
    session: Session, inbox: Inbox, language: str
) -> None:
    call = "SELECT amqp.publish(1, 'amq.topic', 'key', 'constant')"
    body = {
        "sql": call,
        "plpgsql": f"BEGIN RETURN ({call}); END",
        "plpython3u": f'return plpy.execute("{call} AS p")[0]["p"]',
    }[language]
    session.execute(f"CREATE FUNCTION constant() RETURNS boolean LANGUAGE {language} AS $${body}$$")
    for _ in range(8):
        assert session.execute("SELECT constant()").fetchone() == (True,)
    assert inbox.texts() == ["constant"] * 8
    session.execute("SELECT constant() FROM generate_series(1, 50)")
    assert inbox.texts() == ["constant"] * 50
    session.execute("DO $$ BEGIN FOR i IN 1..8 LOOP PERFORM constant(); END LOOP; END $$")
    assert inbox.texts() == ["constant"] * 8


def test_call_with_constants_publishes_for_each_row(session: Session, inbox: Inbox) -> None:
    call = "amqp.publish(1, 'amq.topic', 'key', 'x')"
    session.execute(f"SELECT {call} FROM generate_series(1, 5)")
    assert len(inbox.texts()) == 5
    session.execute(f"SELECT FROM generate_series(1, 5) WHERE {call}")
    assert len(inbox.texts()) == 5
    session.execute(f"SELECT FROM (SELECT {call} FROM generate_series(1, 5) OFFSET 0) AS s")
    assert len(inbox.texts()) == 5


def test_large_scan_is_not_given_to_parallel_workers(session: Session, inbox: Inbox) -> None:
    session.execute(
        """
        CREATE TABLE item AS SELECT i AS id FROM generate_series(1, 1000) AS i;
        SET parallel_setup_cost = 0;
        SET parallel_tuple_cost = 0;
        SET min_parallel_table_scan_size = 0
        """
    )
    session.execute("SELECT amqp.publish(1, 'amq.topic', 'key', id::text) FROM item")
    assert inbox.texts() == [str(i) for i in range(1, 1001)]


# ---- Where a statement may call it ----


def test_publishing_in_returning_and_with(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE item (id integer)")
    session.execute(
        "INSERT INTO item SELECT generate_series(1, 3) RETURNING say('inserted ' || id)"
    )
    session.execute(
        """
        WITH changed AS (UPDATE item SET id = id * 10 WHERE id > 1 RETURNING id)
        SELECT say('changed to ' || id) FROM changed ORDER BY id DESC
        """
    )
    # What modifies in WITH runs to its end though nothing reads it.
    session.execute("WITH gone AS (DELETE FROM item RETURNING say('deleted ' || id)) SELECT 1")
    texts = inbox.texts()
    assert texts[:3] == ["inserted 1", "inserted 2", "inserted 3"]
    assert sorted(texts[3:5]) == ["changed to 20", "changed to 30"]
    assert sorted(texts[5:]) == ["deleted 1", "deleted 20", "deleted 30"]


def test_cursor_publishes_what_is_fetched(session: Session, inbox: Inbox) -> None:
    with session.transaction():
        session.execute("DECLARE c CURSOR FOR SELECT say(i::text) FROM generate_series(1, 9) AS i")
        session.execute("FETCH 2 FROM c")
        with session.transaction(force_rollback=True):
            session.execute("FETCH 2 FROM c")
        with session.transaction():
            session.execute("FETCH 2 FROM c")
    assert inbox.texts() == ["1", "2", "5", "6"]


def test_cursor_with_hold_publishes_the_rest_at_commit(session: Session, inbox: Inbox) -> None:
    session.execute("BEGIN")
    # With SCROLL, PostgreSQL would compute the whole result again.
    session.execute(
        "DECLARE c NO SCROLL CURSOR WITH HOLD FOR"
        " SELECT say(i::text) FROM generate_series(1, 4) AS i"
    )
    session.execute("FETCH 1 FROM c")
    publish(session, "between")
    session.execute("COMMIT")
    assert inbox.texts() == ["1", "between", "2", "3", "4"]
    assert len(session.execute("FETCH ALL FROM c").fetchall()) == 3
    assert inbox.texts() == []


def test_copy_and_triggers_publish(session: Session, inbox: Inbox) -> None:
    session.execute(
        """
        CREATE TABLE item (id integer);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM say(NEW.id::text); RETURN NEW; END $$;
        CREATE TRIGGER tell BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION tell()
        """
    )
    with session.cursor().copy("COPY item FROM STDIN") as copy:
        copy.write("1\n2\n3\n")
    assert inbox.texts() == ["1", "2", "3"]
    with (
        pytest.raises(errors.InvalidTextRepresentation),
        session.cursor().copy("COPY item FROM STDIN") as copy,
    ):
        copy.write("4\n5\nsix\n")
    assert_usable(session, inbox)


# ---- Calls that do not wait for the commit ----


def call_autonomously(session: Session, message: str) -> Any:
    row = session.execute(
        "SELECT amqp.autonomous_publish(1, 'amq.topic', 'key', %s)", [message]
    ).fetchone()
    assert row is not None
    return row[0]


def test_autonomous_publish_arrives_at_once_whatever_becomes_of_the_transaction(
    session: Session, inbox: Inbox
) -> None:
    with session.transaction(force_rollback=True):
        publish(session, "never")
        assert call_autonomously(session, "now") is True
        assert inbox.texts() == ["now"]
        with session.transaction(force_rollback=True):
            assert call_autonomously(session, "in a savepoint") is True
    assert inbox.texts() == ["in a savepoint"]
    assert_usable(session, inbox)


def test_autonomous_publish_does_not_take_what_is_pending_with_it(
    session: Session, inbox: Inbox
) -> None:
    with session.transaction():
        publish(session, "one")
        call_autonomously(session, "now")
        publish(session, "two")
        assert inbox.texts() == ["now"]
    assert inbox.texts() == ["one", "two"]


def test_autonomous_publish_survives_an_error_in_its_statement(
    session: Session, inbox: Inbox
) -> None:
    with pytest.raises(errors.DivisionByZero):
        session.execute(
            "SELECT amqp.autonomous_publish(1, 'amq.topic', 'key', i::text), 1 / (3 - i)"
            " FROM generate_series(1, 5) AS i"
        )
    assert inbox.texts() == ["1", "2", "3"]


def test_disconnect_leaves_pending_messages_for_the_commit(
    session: Session, inbox: Inbox, broker: Broker, management: Management
) -> None:
    with session.transaction():
        publish(session, "one")
        session.execute("SELECT amqp.disconnect(1)")
        assert session.execute("SELECT connected FROM amqp.status()").fetchone() == (False,)
        assert inbox.texts() == []
        publish(session, "two")
        session.execute("SELECT amqp.disconnect(1)")
        session.execute("SELECT amqp.disconnect(1)")
    assert inbox.texts() == ["one", "two"]


def test_disconnect_in_a_transaction_that_rolls_back_publishes_nothing(
    session: Session, inbox: Inbox
) -> None:
    with session.transaction(force_rollback=True):
        publish(session, "never")
        session.execute("SELECT amqp.disconnect(1)")
    assert_usable(session, inbox)


def test_disconnect_does_nothing_where_nothing_is_connected(session: Session, inbox: Inbox) -> None:
    for broker in ("1", "99", "NULL"):
        assert session.execute(f"SELECT amqp.disconnect({broker})").fetchone() == ("",)
    assert_usable(session, inbox)
