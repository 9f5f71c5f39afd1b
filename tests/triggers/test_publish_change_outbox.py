"""amqp.publish_change_outbox(): every change of a table as a row of amqp.outbox."""

from __future__ import annotations

import json
from typing import Any

import pytest
from psycopg import errors

from support.sessions import Session

PUBLISH = "EXECUTE FUNCTION amqp.publish_change_outbox('1', 'amq.topic', '{table}.{op}.{new.id}')"
TRIGGERS = {
    "row": f"""
        CREATE TRIGGER publish_rows AFTER INSERT OR UPDATE OR DELETE ON orders
        FOR EACH ROW {PUBLISH}
        """,
    "statement": f"""
        CREATE TRIGGER publish_insert AFTER INSERT ON orders REFERENCING NEW TABLE AS n
        FOR EACH STATEMENT {PUBLISH};
        CREATE TRIGGER publish_update AFTER UPDATE ON orders
        REFERENCING OLD TABLE AS o NEW TABLE AS n
        FOR EACH STATEMENT {PUBLISH};
        CREATE TRIGGER publish_delete AFTER DELETE ON orders REFERENCING OLD TABLE AS o
        FOR EACH STATEMENT {PUBLISH}
        """,
}
LEVELS = pytest.mark.parametrize("level", list(TRIGGERS))


@pytest.fixture
def orders(session: Session) -> Session:
    """The session, with the table orders."""
    session.execute("CREATE TABLE orders (id integer, note text)")
    return session


def outbox(session: Session) -> list[tuple[str, dict[str, Any]]]:
    """Routing key and message of each row of the outbox, in order."""
    rows = session.execute(
        "SELECT routing_key, convert_from(body, 'UTF8') FROM amqp.outbox"
        " WHERE broker_id = 1 AND exchange = 'amq.topic' AND content_type = 'application/json'"
        " ORDER BY id"
    )
    return [(routing_key, json.loads(message)) for routing_key, message in rows]


@LEVELS
def test_every_change_is_a_row_in_order(orders: Session, level: str) -> None:
    orders.execute(TRIGGERS[level])
    orders.execute("INSERT INTO orders VALUES (1, 'a'), (2, 'b'), (3, NULL)")
    orders.execute("UPDATE orders SET note = 'c' WHERE id > 1")
    orders.execute("DELETE FROM orders WHERE id = 3")
    found = outbox(orders)
    assert [(key, m["new"], m["old"], m["changed"]) for key, m in found] == [
        ("orders.insert.1", {"id": 1, "note": "a"}, None, None),
        ("orders.insert.2", {"id": 2, "note": "b"}, None, None),
        ("orders.insert.3", {"id": 3, "note": None}, None, None),
        ("orders.update.2", {"id": 2, "note": "c"}, {"id": 2, "note": "b"}, ["note"]),
        ("orders.update.3", {"id": 3, "note": "c"}, {"id": 3, "note": None}, ["note"]),
        ("orders.delete.3", None, {"id": 3, "note": "c"}, None),
    ]
    # Nothing was published past the outbox.
    assert orders.execute("SELECT published FROM amqp.status()").fetchall() == []


def test_rows_are_delivered_at_once_and_in_no_strict_order(orders: Session) -> None:
    orders.execute(TRIGGERS["row"])
    orders.execute("INSERT INTO orders VALUES (1, 'a')")
    row = orders.execute("SELECT next_attempt_at, ordering_key, attempts FROM amqp.outbox")
    assert row.fetchall() == [(None, None, 0)]


def test_truncate_is_a_row_without_rows(orders: Session) -> None:
    orders.execute(
        "CREATE TRIGGER publish_truncate AFTER TRUNCATE ON orders"
        " FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change_outbox('1', 'amq.topic')"
    )
    orders.execute("TRUNCATE orders")
    ((routing_key, message),) = outbox(orders)
    assert routing_key == "public.orders.truncate"
    assert (message["operation"], message["new"], message["old"]) == ("truncate", None, None)


@LEVELS
def test_what_is_rolled_back_leaves_no_row(orders: Session, level: str) -> None:
    orders.execute(TRIGGERS[level])
    with orders.transaction():
        orders.execute("INSERT INTO orders VALUES (1)")
        with orders.transaction(force_rollback=True):
            orders.execute("INSERT INTO orders VALUES (2)")
        orders.execute("INSERT INTO orders VALUES (3)")
    with orders.transaction(force_rollback=True):
        orders.execute("INSERT INTO orders VALUES (4)")
    assert [key for key, _ in outbox(orders)] == ["orders.insert.1", "orders.insert.3"]


def test_errors_name_the_function_that_the_trigger_calls(orders: Session) -> None:
    orders.execute(
        "CREATE TRIGGER wrong AFTER INSERT ON orders"
        " FOR EACH ROW EXECUTE FUNCTION amqp.publish_change_outbox('1')"
    )
    with pytest.raises(errors.InvalidParameterValue) as caught:
        orders.execute("INSERT INTO orders VALUES (1)")
    assert "amqp.publish_change_outbox()" in str(caught.value.diag.message_primary)
    assert "amqp.publish_change_outbox(" in str(caught.value.diag.message_hint)


@LEVELS
def test_an_overload_of_publish_outbox_is_not_called(orders: Session, level: str) -> None:
    # Of functions that take what is given, PostgreSQL prefers one without parameters left over.
    arguments = orders.execute(
        """
        SELECT regexp_replace(pg_get_function_identity_arguments(oid), ', deliver_at.*', '')
        FROM pg_proc WHERE oid = to_regprocedure('amqp.publish_outbox(integer, text, text, text,'
            'integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz,'
            'text, text, text, timestamptz, text)')
        """
    ).fetchone()
    assert arguments is not None
    orders.execute(
        f"CREATE FUNCTION amqp.publish_outbox({arguments[0]}) RETURNS bigint LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$"
    )
    orders.execute(TRIGGERS[level])
    orders.execute("INSERT INTO orders VALUES (1)")
    assert [key for key, _ in outbox(orders)] == ["orders.insert.1"]


def test_the_comments_name_their_own_function(session: Session) -> None:
    for function, publisher in [
        ("publish_change", "amqp.publish()"),
        ("publish_change_outbox", "amqp.publish_outbox()"),
    ]:
        row = session.execute(
            "SELECT obj_description(%s::regproc, 'pg_proc')", [f"amqp.{function}"]
        ).fetchone()
        assert row is not None
        assert f"EXECUTE FUNCTION amqp.{function}(" in row[0].replace("\n", " ")
        assert publisher in row[0]
