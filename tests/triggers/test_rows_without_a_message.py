"""Rows that no message can be made of: what becomes of them, and of the others."""

from __future__ import annotations

import pytest

from support.changes import LEVELS, changes, publish_changes, publish_rows
from support.messages import Inbox, publish
from support.sessions import Session

MESSAGE = 'cannot make a message of a row of table "public.orders"'
HINT = "A message has what to_jsonb() makes of a row: try it with this one."
NUL = r"""('{"a": "x\u0000y"}')"""
NUL_REASON = r"unsupported Unicode escape sequence. \u0000 cannot be converted to text."
# A row: its SQLSTATE, why no message can be made of it, and the hint.
BAD = {
    NUL: ("22P05", NUL_REASON, HINT),
    r"""('"\ud800"')""": (
        "22P02",
        "invalid input syntax for type json. Unicode low surrogate must follow a high surrogate.",
        HINT,
    ),
    "(NULL, 'bad')": ("P0123", "no such mood. Look up.", "Cheer up."),
}
TABLES = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    IF $1 = 'bad' THEN
        RAISE EXCEPTION 'no such mood'
        USING ERRCODE = 'P0123', DETAIL = 'Look up.', HINT = 'Cheer up.';
    END IF;
    RETURN '"good"'::json;
END $$;
CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);
CREATE TABLE orders (t json, mood mood, id integer GENERATED ALWAYS AS IDENTITY);
"""


@pytest.fixture
def orders(session: Session) -> Session:
    """The session, with a table whose rows may be such."""
    session.run(TABLES)
    return session


def ids(inbox: Inbox) -> list[int]:
    """The ids of the rows that messages tell of."""
    return [(new or old)["id"] for _, new, old, _ in changes(inbox)]


MIXED = f"""
INSERT INTO orders (t)
SELECT CASE WHEN i % 3 = 0 THEN {NUL}::json ELSE '1' END FROM generate_series(1, 7) AS i
"""


# ---- What amqp.on_failure says ----


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("on_failure", ["error", "outbox"])
@LEVELS
def test_the_statement_fails(
    orders: Session, inbox: Inbox, level: str, on_failure: str, bad: str
) -> None:
    sqlstate, reason, hint = BAD[bad]
    publish_changes(orders, "orders", level)
    orders.set(on_failure=on_failure)
    error = orders.error(f"INSERT INTO orders VALUES {bad}")
    assert error.sqlstate == sqlstate
    if (level, on_failure) == ("row", "error"):
        # There is no subtransaction to catch it in: it is PostgreSQL's own.
        assert f"{error.message}. {error.detail}" == reason
    else:
        assert error.message == f"amqp: {MESSAGE}"
        assert error.detail == f'Table "public.orders", insert: {reason}'
        assert error.hint == hint
    assert orders.run("SELECT FROM orders") == []
    assert inbox.drain() == []


@pytest.mark.parametrize("bad", BAD)
@LEVELS
def test_warn_keeps_the_row(orders: Session, inbox: Inbox, level: str, bad: str) -> None:
    sqlstate, reason, hint = BAD[bad]
    publish_changes(orders, "orders", level)
    orders.set(on_failure="warn")
    orders.run(f"INSERT INTO orders VALUES {bad}")
    (warning,) = orders.warnings()
    assert (warning.sqlstate, warning.message) == (sqlstate, f"amqp: {MESSAGE}")
    assert warning.detail == f'Table "public.orders", insert: {reason}'
    assert warning.hint == hint
    assert orders.value("SELECT count(*) FROM orders") == 1
    assert inbox.drain() == []


@LEVELS
def test_warn_publishes_the_other_rows_of_the_statement(
    orders: Session, inbox: Inbox, level: str
) -> None:
    publish_changes(orders, "orders", level)
    orders.set(on_failure="warn")
    with orders.transaction():
        publish(orders, "before")
        orders.run(MIXED)
        publish(orders, "after")
        assert orders.run("SELECT failed, pending FROM amqp.status()") == [(2, 7)]
    before, *rows, after = inbox.drain()
    assert (before.text, after.text) == ("before", "after")
    assert [row.json["new"]["id"] for row in rows] == [1, 2, 4, 5, 7]
    first, rest = orders.warnings()
    assert first.message == f"amqp: {MESSAGE}"
    assert rest.message == f"amqp: 1 more calls failed: {MESSAGE}"
    assert orders.value("SELECT count(*) FROM orders") == 7


@LEVELS
def test_warn_where_the_old_row_is_such(orders: Session, inbox: Inbox, level: str) -> None:
    orders.run(MIXED)
    publish_changes(orders, "orders", level)
    orders.set(on_failure="warn")
    orders.run("UPDATE orders SET t = '2' WHERE id > 1")
    assert [(new["id"], old["id"], c) for _, new, old, c in changes(inbox)] == [
        (n, n, ["t"]) for n in (2, 4, 5, 7)
    ]
    orders.run(f"UPDATE orders SET t = {NUL} WHERE id < 3")
    orders.run("DELETE FROM orders")
    assert ids(inbox) == [3, 4, 5, 6, 7]
    assert {w.detail.partition(":")[0] for w in orders.warnings() if w.detail} == {
        'Table "public.orders", update',
        'Table "public.orders", delete',
    }


@LEVELS
def test_a_savepoint_takes_back_an_error_and_earlier_messages_go_out(
    orders: Session, inbox: Inbox, level: str
) -> None:
    publish_changes(orders, "orders", level)
    with orders.transaction():
        publish(orders, "before")
        orders.run("INSERT INTO orders VALUES ('1'); SAVEPOINT a")
        orders.error(MIXED)
        orders.run("ROLLBACK TO a; INSERT INTO orders VALUES ('2')")
    before, one, two = inbox.drain()
    assert before.text == "before"
    assert (one.json["new"]["t"], two.json["new"]["t"]) == (1, 2)


# ---- What it does not cover ----


@LEVELS
def test_a_statement_is_cancelled_all_the_same(orders: Session, inbox: Inbox, level: str) -> None:
    orders.run(
        """
        CREATE OR REPLACE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(600); RETURN '1'; END $$
        """
    )
    publish_changes(orders, "orders", level)
    orders.set(on_failure="warn")
    orders.run("SET statement_timeout = '200ms'")
    assert orders.error("INSERT INTO orders VALUES ('1', 'good')").sqlstate == "57014"
    assert (orders.warnings(), inbox.drain()) == ([], [])


@LEVELS
def test_who_may_not_publish_may_not_here(orders: Session, level: str) -> None:
    publish_changes(orders, "orders", level)
    orders.set(on_failure="warn")
    orders.run("CREATE ROLE nobody_here; GRANT INSERT ON orders TO nobody_here")
    try:
        orders.run("SET ROLE nobody_here")
        assert orders.error(f"INSERT INTO orders VALUES {NUL}").sqlstate == "42501"
    finally:
        orders.run("RESET ROLE; DROP OWNED BY nobody_here; DROP ROLE nobody_here")


# ---- The outbox ----

OUTBOX = {
    "row": """
        CREATE TRIGGER publish AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW
        EXECUTE FUNCTION amqp.publish_change_outbox('1', 'amq.topic', {})
        """,
    "statement": """
        CREATE TRIGGER publish AFTER INSERT ON orders REFERENCING NEW TABLE AS n
        FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change_outbox('1', 'amq.topic', {})
        """,
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("on_failure", ["error", "warn", "outbox"])
@LEVELS
def test_through_the_outbox_the_statement_fails(
    orders: Session, level: str, on_failure: str, bad: str
) -> None:
    sqlstate, reason, hint = BAD[bad]
    orders.run(OUTBOX[level].format("'key'"))
    orders.set(on_failure=on_failure)
    error = orders.error(f"INSERT INTO orders VALUES {bad}")
    assert (error.sqlstate, error.message) == (sqlstate, MESSAGE)
    assert error.detail == f'Table "public.orders", insert: {reason}'
    assert error.hint == hint
    assert orders.run("SELECT FROM orders") == []
    assert orders.run("SELECT FROM amqp.outbox") == []


@LEVELS
def test_an_ordering_key_that_cannot_be_made(orders: Session, level: str) -> None:
    orders.run(OUTBOX[level].format("""'', '{"ordering_key": "{new.none}"}'"""))
    error = orders.error("INSERT INTO orders VALUES ('1')")
    assert (error.sqlstate, error.message) == ("22023", MESSAGE)
    assert error.detail == (
        'Table "public.orders", insert: invalid routing key template "{new.none}".'
        ' Table "orders" has no column "none".'
    )


def test_what_the_outbox_itself_refuses_is_told_as_ever(orders: Session) -> None:
    orders.run(OUTBOX["statement"].format(f"'{'x' * 256}'"))
    error = orders.error("INSERT INTO orders VALUES ('1')")
    assert (error.sqlstate, error.message) == ("22001", "routing_key is too long")


def test_rows_of_the_outbox_take_no_transaction_ids_of_their_own(orders: Session) -> None:
    orders.run(OUTBOX["row"].format("'key'"))
    orders.run("INSERT INTO orders (t) SELECT '1' FROM generate_series(1, 100)")
    assert orders.value("SELECT count(DISTINCT xmin::text) FROM amqp.outbox") == 1


def test_a_template_that_is_wrong_is_a_warning_too(orders: Session, inbox: Inbox) -> None:
    publish_rows(orders, "orders", "{new.none}")
    orders.set(on_failure="warn")
    orders.run("INSERT INTO orders VALUES ('1')")
    (warning,) = orders.warnings()
    assert "{new.column}" in warning.hint
    assert inbox.drain() == []
