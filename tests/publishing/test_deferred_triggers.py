"""Deferred triggers run inside the commit, and publish with it."""

from __future__ import annotations

import pytest
from psycopg import errors

from support.messages import Inbox, publish
from support.saying import assert_usable, saying_fixtures
from support.sessions import Session

session, observer = saying_fixtures()


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
