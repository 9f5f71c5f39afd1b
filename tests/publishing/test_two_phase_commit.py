"""PREPARE TRANSACTION is refused where messages are pending."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from support.messages import Inbox, publish
from support.saying import assert_usable, saying_fixtures
from support.sessions import Session

session, observer = saying_fixtures()


def test_prepare_with_messages_pending_is_refused(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE item (id integer)")
    session.execute("BEGIN")
    session.execute("INSERT INTO item VALUES (1)")
    publish(session, "never", "never")
    with pytest.raises(errors.FeatureNotSupported):
        session.execute("PREPARE TRANSACTION 'one'")
    assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    (warning,) = session.warnings()
    assert warning.sqlstate == "0A000"
    assert warning.message == "amqp: a transaction with messages pending cannot be prepared"
    assert warning.detail.startswith("Messages pending: 2.")
    assert warning.hint
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
    assert session.warnings() == []


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
