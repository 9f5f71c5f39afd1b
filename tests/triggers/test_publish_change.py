"""amqp.publish_change(): every change of a table as a message."""

from __future__ import annotations

from datetime import datetime, timedelta

from support.changes import (
    LEVELS,
    changes,
    only,
    publish_changes,
    publish_rows,
    publish_statements,
    publish_truncate,
)
from support.messages import Inbox
from support.sessions import Session

KEYS = ["operation", "schema", "table", "new", "old", "changed", "transaction_id", "time"]


# ---- What a message says ----


@LEVELS
def test_insert_update_and_delete(session: Session, inbox: Inbox, level: str) -> None:
    session.execute("CREATE TABLE orders (id integer, customer text, note text)")
    publish_changes(session, "orders", level)
    one = {"id": 1, "customer": "ada", "note": None}
    two = {"id": 1, "customer": "bob", "note": "x"}
    session.execute("INSERT INTO orders VALUES (1, 'ada', NULL)")
    session.execute("UPDATE orders SET customer = 'bob', note = 'x'")
    session.execute("UPDATE orders SET customer = 'bob'")
    session.execute("UPDATE orders SET note = NULL")
    session.execute("DELETE FROM orders")
    assert changes(inbox) == [
        ("insert", one, None, None),
        ("update", two, one, ["note", "customer"]),
        ("update", two, two, []),
        ("update", {**two, "note": None}, two, ["note"]),
        ("delete", None, {**two, "note": None}, None),
    ]


def test_truncate(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE orders (id integer)")
    publish_truncate(session, "orders")
    session.execute("INSERT INTO orders VALUES (1), (2)")
    session.execute("TRUNCATE orders")
    delivery = only(inbox.drain())
    assert delivery.routing_key == "public.orders.truncate"
    message = delivery.json
    assert [message[key] for key in KEYS[:6]] == [
        "truncate",
        "public",
        "orders",
        None,
        None,
        None,
    ]


@LEVELS
def test_envelope_of_the_message(session: Session, inbox: Inbox, level: str) -> None:
    session.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id integer)")
    publish_changes(session, "shop.orders", level)
    with session.transaction():
        session.execute("INSERT INTO shop.orders VALUES (1)")
        row = session.execute("SELECT pg_current_xact_id()::text, now()").fetchone()
    assert row is not None
    transaction_id, now = row
    delivery = only(inbox.drain())
    message = delivery.json
    assert list(message) == KEYS
    assert message["schema"] == "shop"
    assert message["table"] == "orders"
    assert message["transaction_id"] == int(transaction_id)
    time = datetime.fromisoformat(message["time"])
    assert timedelta(0) <= time - now < timedelta(minutes=1)
    assert delivery.exchange == "amq.topic"
    assert delivery.routing_key == "shop.orders.insert"
    assert delivery.properties.content_type == "application/json"
    assert delivery.properties.delivery_mode is None
    assert delivery.properties.headers is None


def test_time_is_when_the_trigger_ran(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE orders (id integer); CREATE TABLE items (id integer)")
    publish_rows(session, "orders")
    publish_statements(session, "items")
    for table in ("orders", "items"):
        with session.transaction():
            session.execute("SELECT pg_sleep(0.01)")
            session.execute(f"INSERT INTO {table} VALUES (1), (2), (3)")
            row = session.execute("SELECT now(), clock_timestamp()").fetchone()
        assert row is not None
        times = [datetime.fromisoformat(delivery.json["time"]) for delivery in inbox.drain()]
        assert row[0] + timedelta(milliseconds=10) <= times[0] <= times[1] <= times[2] <= row[1]
        # A trigger for each row runs three times.
        assert len(set(times)) == (3 if table == "orders" else 1)


def test_one_transaction_has_one_id_and_another_one_another(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE orders (id integer)")
    publish_rows(session, "orders")
    with session.transaction():
        session.execute("INSERT INTO orders VALUES (1), (2)")
        with session.transaction():
            session.execute("UPDATE orders SET id = 3 WHERE id = 2")
    session.execute("DELETE FROM orders WHERE id = 1")
    first, second, third, other = [d.json["transaction_id"] for d in inbox.drain()]
    assert first == second == third < other


def test_changes_that_a_savepoint_rolls_back_are_not_published(
    session: Session, inbox: Inbox
) -> None:
    session.execute("CREATE TABLE orders (id integer)")
    publish_rows(session, "orders")
    with session.transaction():
        session.execute("INSERT INTO orders VALUES (1)")
        with session.transaction(force_rollback=True):
            session.execute("INSERT INTO orders VALUES (2)")
        session.execute("INSERT INTO orders VALUES (3)")
    assert [delivery.json["new"]["id"] for delivery in inbox.drain()] == [1, 3]


# ---- Several rows ----


@LEVELS
def test_update_of_many_rows_pairs_old_and_new(session: Session, inbox: Inbox, level: str) -> None:
    session.execute("CREATE TABLE item (id integer, value integer)")
    session.execute("INSERT INTO item SELECT i, i FROM generate_series(1, 500) AS i")
    publish_changes(session, "item", level)
    session.execute("UPDATE item SET id = 2000 - id, value = -value WHERE id % 2 = 0")
    found = changes(inbox)
    assert [old["id"] for _, _, old, _ in found] == list(range(2, 501, 2))
    for operation, new, old, changed in found:
        assert operation == "update"
        assert new == {"id": 2000 - old["id"], "value": -old["value"]}
        assert changed == ["id", "value"]


def test_bulk_insert_publishes_one_message_a_row_in_order(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE item (id integer, name text)")
    publish_statements(session, "item", "item.{new.id}")
    session.execute("INSERT INTO item SELECT i, 'n' || i FROM generate_series(1, 3000) AS i")
    deliveries = inbox.drain()
    assert [delivery.json["new"] for delivery in deliveries] == [
        {"id": i, "name": f"n{i}"} for i in range(1, 3001)
    ]
    assert [delivery.routing_key for delivery in deliveries] == [
        f"item.{i}" for i in range(1, 3001)
    ]


def test_copy_publishes_one_message_a_row_in_order(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE item (id integer)")
    publish_statements(session, "item")
    with session.cursor().copy("COPY item FROM STDIN") as copy:
        copy.write("".join(f"{i}\n" for i in range(100)))
    assert [delivery.json["new"]["id"] for delivery in inbox.drain()] == list(range(100))


@LEVELS
def test_statement_that_changes_no_row_publishes_nothing(
    session: Session, inbox: Inbox, level: str
) -> None:
    session.execute("CREATE TABLE item (id integer)")
    publish_changes(session, "item", level)
    session.execute("INSERT INTO item SELECT 1 WHERE false")
    session.execute("UPDATE item SET id = 1")
    session.execute("DELETE FROM item")
    assert inbox.drain() == []


@LEVELS
def test_insert_on_conflict_do_update_is_an_insert_or_an_update(
    session: Session, inbox: Inbox, level: str
) -> None:
    session.execute("CREATE TABLE item (id integer PRIMARY KEY, n integer)")
    session.execute("INSERT INTO item VALUES (2, 0)")
    publish_changes(session, "item", level)
    session.execute(
        "INSERT INTO item VALUES (1, 1), (2, 1), (3, 1)"
        " ON CONFLICT (id) DO UPDATE SET n = item.n + 10"
    )
    found = changes(inbox)
    found.sort(key=lambda change: change[1]["id"])
    assert found == [
        ("insert", {"id": 1, "n": 1}, None, None),
        ("update", {"id": 2, "n": 10}, {"id": 2, "n": 0}, ["n"]),
        ("insert", {"id": 3, "n": 1}, None, None),
    ]


@LEVELS
def test_merge_is_what_it_does_to_each_row(session: Session, inbox: Inbox, level: str) -> None:
    session.execute("CREATE TABLE item (id integer PRIMARY KEY, n integer)")
    session.execute("INSERT INTO item VALUES (2, 0), (3, 0), (4, 0)")
    publish_changes(session, "item", level)
    session.execute(
        """
        MERGE INTO item USING generate_series(1, 3) AS given (id) ON item.id = given.id
        WHEN MATCHED AND item.id = 2 THEN UPDATE SET n = 10
        WHEN MATCHED THEN DELETE
        WHEN NOT MATCHED THEN INSERT VALUES (given.id, 1)
        """
    )
    found = changes(inbox)
    found.sort(key=lambda change: change[0])
    assert found == [
        ("delete", None, {"id": 3, "n": 0}, None),
        ("insert", {"id": 1, "n": 1}, None, None),
        ("update", {"id": 2, "n": 10}, {"id": 2, "n": 0}, ["n"]),
    ]


def test_transition_tables_may_have_any_name(session: Session, inbox: Inbox) -> None:
    for new, old in [("n", "o"), ('"New Rows"', '"old.rows"'), ("x", "pg_class"), ("c", "t")]:
        session.execute("CREATE TABLE item (id integer)")
        publish_statements(session, "item", new=new, old=old)
        session.execute("INSERT INTO item VALUES (1)")
        session.execute("UPDATE item SET id = 2")
        session.execute("DELETE FROM item")
        assert changes(inbox) == [
            ("insert", {"id": 1}, None, None),
            ("update", {"id": 2}, {"id": 1}, ["id"]),
            ("delete", None, {"id": 2}, None),
        ]
        session.execute("DROP TABLE item")


def test_changes_inside_a_trigger_of_a_change(session: Session, inbox: Inbox) -> None:
    # The statement inside has transition tables of the same names.
    session.execute(
        """
        CREATE TABLE item (id integer);
        CREATE FUNCTION count_down() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (SELECT FROM new_rows WHERE id > 1) THEN
                INSERT INTO item SELECT id - 1 FROM new_rows WHERE id > 1;
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER a_count_down AFTER INSERT ON item REFERENCING NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION count_down()
        """
    )
    publish_statements(session, "item")
    session.execute("INSERT INTO item VALUES (3)")
    assert [delivery.json["new"]["id"] for delivery in inbox.drain()] == [1, 2, 3]


@LEVELS
def test_columns_named_like_anything_inside(session: Session, inbox: Inbox, level: str) -> None:
    names = ["n", "o", "t", "c", "r", "new", "old", "position", "new_row", "old_row", "changed"]
    names += ["operation", "broker_id", "exchange", "template", "new_table", "key", "value", "item"]
    session.execute(f"CREATE TABLE item ({', '.join(f'{name} integer' for name in names)})")
    publish_changes(session, "item", level, "{new.n}.{old.o}.{new.position}")
    one = {name: i for i, name in enumerate(names)}
    two = {name: 100 + i for i, name in enumerate(names)}
    session.execute(f"INSERT INTO item VALUES ({', '.join(map(str, one.values()))})")
    session.execute("UPDATE item SET " + ", ".join(f"{name} = {name} + 100" for name in names))
    session.execute("DELETE FROM item")
    inserted, updated, deleted = inbox.drain()
    assert inserted.json["new"] == one
    assert (updated.json["new"], updated.json["old"]) == (two, one)
    assert sorted(updated.json["changed"]) == sorted(names)
    assert deleted.json["old"] == two
    assert inserted.routing_key == "0.1.7"
    assert updated.routing_key == "100.1.107"
    assert deleted.routing_key == "100.101.107"
