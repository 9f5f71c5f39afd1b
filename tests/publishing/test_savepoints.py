"""What a savepoint or a block that catches errors rolls back is not published; the rest is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import errors

from support.messages import Inbox, publish
from support.saying import assert_usable, saying_fixtures
from support.sessions import Session, wait_for_event

session, observer = saying_fixtures()


MB = 1 << 20

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


def test_savepoints_around_large_messages(session: Session, inbox: Inbox) -> None:
    bodies = [
        letter * size
        for letter, size in zip("abcdefg", [9, MB, 9, MB, 5_000, 9, 9 * MB], strict=True)
    ]
    with session.transaction():
        for at, body in enumerate(bodies):
            session.execute("SAVEPOINT one")
            publish(session, body)
            session.execute("SAVEPOINT two")
            publish(session, "lost " * MB)
            session.execute("ROLLBACK TO two")
            publish(session, "lost")
            session.execute(f"ROLLBACK TO {'one' if at % 3 == 2 else 'two'}")
        kept = [body for at, body in enumerate(bodies) if at % 3 != 2]
        pending = session.execute("SELECT md5(message) FROM amqp.pending()").fetchall()
        assert pending == session.execute("SELECT md5(unnest(%s::text[]))", [kept]).fetchall()
    found = inbox.texts()
    assert [text[:10] for text in found] == [text[:10] for text in kept]
    assert found == kept


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
