"""A call is a call, wherever a statement has it and whatever the planner knows of it."""

from __future__ import annotations

import pytest
from psycopg import errors

from support.messages import Inbox, publish
from support.saying import assert_usable, saying_fixtures
from support.sessions import Session

session, observer = saying_fixtures()


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
