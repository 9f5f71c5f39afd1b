"""What does not commit publishes nothing, however it ends."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import errors

from support.messages import Inbox, publish
from support.saying import assert_usable, saying_fixtures
from support.sessions import Session, wait_for_end, wait_for_event

session, observer = saying_fixtures()


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
