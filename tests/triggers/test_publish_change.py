"""amqp.publish_change(): every change of a table as a message."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg import errors, sql

from support.messages import Delivery, Inbox, Session

KEYS = ["operation", "schema", "table", "new", "old", "changed", "transaction_id", "time"]


def publish_rows(session: Session, table: str, *template: str) -> None:
    """Publish every change of a table row by row."""
    arguments = ", ".join(f"'{text}'" for text in ("1", "amq.topic", *template))
    session.execute(
        f"""
        CREATE TRIGGER publish_rows AFTER INSERT OR UPDATE OR DELETE ON {table}
        FOR EACH ROW EXECUTE FUNCTION amqp.publish_change({arguments})
        """
    )


def publish_statements(
    session: Session,
    table: str,
    *template: str,
    new: str = "new_rows",
    old: str = "old_rows",
) -> None:
    """Publish every change of a table at the end of the statement."""
    arguments = ", ".join(f"'{text}'" for text in ("1", "amq.topic", *template))
    for operation, referencing in {
        "INSERT": f"NEW TABLE AS {new}",
        "UPDATE": f"OLD TABLE AS {old} NEW TABLE AS {new}",
        "DELETE": f"OLD TABLE AS {old}",
    }.items():
        session.execute(
            f"""
            CREATE TRIGGER publish_{operation} AFTER {operation} ON {table}
            REFERENCING {referencing}
            FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change({arguments})
            """
        )


def publish_truncate(session: Session, table: str, *template: str) -> None:
    """Publish the truncation of a table."""
    arguments = ", ".join(f"'{text}'" for text in ("1", "amq.topic", *template))
    session.execute(
        f"""
        CREATE TRIGGER publish_truncate AFTER TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change({arguments})
        """
    )


LEVELS = pytest.mark.parametrize("level", ["row", "statement"])


def publish_changes(session: Session, table: str, level: str, *template: str) -> None:
    """Publish every change of a table at this level."""
    (publish_rows if level == "row" else publish_statements)(session, table, *template)


def changes(inbox: Inbox) -> list[tuple[str, Any, Any, Any]]:
    """Take all messages out: operation, new, old and changed columns of each."""
    return [
        (m["operation"], m["new"], m["old"], m["changed"])
        for m in (delivery.json for delivery in inbox.drain())
    ]


def only(deliveries: list[Delivery]) -> Delivery:
    """The one delivery that there is."""
    assert len(deliveries) == 1
    return deliveries[0]


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


# ---- Values keep their exact form ----

TYPES = {
    "numeric scale": ("numeric", "1.10", "1.10"),
    "numeric declared scale": ("numeric(10, 4)", "2.5", "2.5000"),
    "numeric beyond a double": (
        "numeric",
        "123456789012345678901234567890.123456789012345678901234567890",
        "123456789012345678901234567890.123456789012345678901234567890",
    ),
    "numeric NaN": ("numeric", "'NaN'", '"NaN"'),
    "bigint": ("bigint", "9223372036854775807", "9223372036854775807"),
    "smallest bigint": ("bigint", "-9223372036854775808", "-9223372036854775808"),
    "double": ("double precision", "0.1::float8 + 0.2::float8", "0.30000000000000004"),
    "double NaN": ("double precision", "'NaN'", '"NaN"'),
    "double infinity": ("double precision", "'-Infinity'", '"-Infinity"'),
    "boolean": ("boolean", "true", "true"),
    "text": ("text", "E'\"a\\\\b\\n\\u00e9 \\U0001F600'", '"\\"a\\\\b\\né 😀"'),
    "empty text": ("text", "''", '""'),
    "padded char": ("char(4)", "'ab'", '"ab  "'),
    "uuid": (
        "uuid",
        "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
        '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"',
    ),
    "timestamptz": (
        "timestamptz",
        "'2024-02-29 12:34:56.789012+02'",
        '"2024-02-29T16:04:56.789012+05:30"',
    ),
    "timestamp": ("timestamp", "'2024-02-29 12:34:56.5'", '"2024-02-29T12:34:56.5"'),
    "timestamp infinity": ("timestamptz", "'infinity'", '"infinity"'),
    "date": ("date", "'2024-02-29'", '"2024-02-29"'),
    "time": ("time", "'23:59:59.25'", '"23:59:59.25"'),
    "bytea": ("bytea", r"'\x00ff10'", r'"\\x00ff10"'),
    "integer array": ("integer[]", "'{1,NULL,3}'", "[1, null, 3]"),
    "array of arrays": ("numeric[]", "'{{1.0,2.00},{3,4}}'", "[[1.0, 2.00], [3, 4]]"),
    "empty array": ("text[]", "'{}'", "[]"),
    "composite": (
        "address",
        "ROW('Main St', 7.50, ARRAY['a', NULL])",
        '{"street": "Main St", "number": 7.50, "tags": ["a", null]}',
    ),
    "array of composites": (
        "address[]",
        "ARRAY[ROW('x', 1, NULL)::address, NULL]",
        '[{"street": "x", "number": 1, "tags": null}, null]',
    ),
    "jsonb": (
        "jsonb",
        """'{"b": 1.00, "a": [null, true, {"c": 12345678901234567890}]}'""",
        '{"b": 1.00, "a": [null, true, {"c": 12345678901234567890}]}',
    ),
    "json": ("json", """'{"b": 1.0, "a": "x"}'""", '{"b": 1.0, "a": "x"}'),
    "jsonb null": ("jsonb", "'null'", "null"),
    "enum": ("mood", "'very happy'", '"very happy"'),
    "domain": ("positive", "1.50", "1.50"),
    "range": ("int4range", "'[1,5)'", '"[1,5)"'),
    "inet": ("inet", "'10.0.0.1/8'", '"10.0.0.1/8"'),
    "null": ("numeric", "NULL", "null"),
}


def exact(text: bytes | str) -> Any:
    """Decode JSON so that 1.1 and 1.10 differ, and no number loses a digit."""
    return json.loads(
        text, parse_float=lambda digits: ("number", digits), parse_int=lambda d: ("number", d)
    )


@LEVELS
def test_values_keep_their_exact_form(session: Session, inbox: Inbox, level: str) -> None:
    session.execute(
        """
        SET DateStyle = 'German';
        SET TimeZone = 'Asia/Kolkata';
        SET IntervalStyle = 'sql_standard';
        SET bytea_output = 'hex';
        CREATE TYPE mood AS ENUM ('sad', 'very happy');
        CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
        CREATE TYPE address AS (street text, number numeric, tags text[])
        """
    )
    columns = ", ".join(f'"{name}" {type_}' for name, (type_, _, _) in TYPES.items())
    session.execute(f"CREATE TABLE item ({columns})")
    publish_changes(session, "item", level)
    session.execute(
        f"INSERT INTO item VALUES ({', '.join(value for _, value, _ in TYPES.values())})"
    )
    session.execute("UPDATE item SET boolean = boolean")
    session.execute("DELETE FROM item")
    inserted, updated, deleted = (exact(delivery.body) for delivery in inbox.drain())
    expected = {name: exact(text) for name, (_, _, text) in TYPES.items()}
    assert inserted["new"] == expected
    assert updated["new"] == updated["old"] == expected
    assert updated["changed"] == []
    assert deleted["old"] == expected
    time = datetime.fromisoformat(inserted["time"])
    assert abs(time - datetime.now(UTC)) < timedelta(minutes=1)


CHANGES = {
    "scale alone": ("numeric", "1.0", "1.00", True),
    "same numeric": ("numeric", "1.10", "1.10", False),
    "last digit of a bigint": ("bigint", "9223372036854775807", "9223372036854775806", True),
    "to null": ("text", "'x'", "NULL", True),
    "from null": ("text", "NULL", "''", True),
    "null stays": ("text", "NULL", "NULL", False),
    "case of letters": ("text", "'a'", "'A'", True),
    "text null": ("text", "NULL", "'null'", True),
    "array element to null": ("integer[]", "'{1}'", "'{NULL}'", True),
    "array order": ("integer[]", "'{1,2}'", "'{2,1}'", True),
    "composite field": ("pair", "ROW(1, 2)", "ROW(1, 3)", True),
    "jsonb value": ("jsonb", """'{"a": 1}'""", """'{"a": 2}'""", True),
    "jsonb type": ("jsonb", "'1'", """'"1"'""", True),
    "jsonb boolean to text": ("jsonb", "'true'", """'"true"'""", True),
    "jsonb member to null": ("jsonb", """'{"a": 1}'""", """'{"a": null}'""", True),
    "jsonb member goes": ("jsonb", """'{"a": null}'""", "'{}'", True),
    "jsonb order of keys": ("jsonb", """'{"a": 1, "b": 2}'""", """'{"b": 2, "a": 1}'""", False),
    "microsecond": ("timestamptz", "'2024-01-01 00:00:00.000001+00'", "'2024-01-01+00'", True),
    "bytea": ("bytea", r"'\x00'", r"'\x0000'", True),
    "NaN stays": ("double precision", "'NaN'", "'NaN'", False),
}


@LEVELS
def test_changed_columns(session: Session, inbox: Inbox, level: str) -> None:
    columns = ", ".join(f'"{name}" {type_}' for name, (type_, _, _, _) in CHANGES.items())
    values = ", ".join(old for _, old, _, _ in CHANGES.values())
    assignments = ", ".join(f'"{name}" = {new}' for name, (_, _, new, _) in CHANGES.items())
    session.execute("CREATE TYPE pair AS (a integer, b integer)")
    session.execute(f"CREATE TABLE item ({columns}); INSERT INTO item VALUES ({values})")
    publish_changes(session, "item", level)
    session.execute(f"UPDATE item SET {assignments}")
    changed = only(inbox.drain()).json["changed"]
    assert sorted(changed) == sorted(name for name, (*_, is_) in CHANGES.items() if is_)


@LEVELS
def test_generated_identity_and_dropped_columns(session: Session, inbox: Inbox, level: str) -> None:
    session.execute(
        """
        CREATE TABLE item (
            id integer GENERATED ALWAYS AS IDENTITY,
            gone text,
            price numeric,
            gross numeric GENERATED ALWAYS AS (price * 1.20) STORED
        );
        ALTER TABLE item DROP COLUMN gone
        """
    )
    publish_changes(session, "item", level)
    session.execute("INSERT INTO item (price) VALUES (10)")
    session.execute("ALTER TABLE item ADD COLUMN added text DEFAULT 'x'")
    session.execute("UPDATE item SET price = 20")
    old = {"id": 1, "price": 10, "gross": 12}
    assert changes(inbox) == [
        ("insert", old, None, None),
        (
            "update",
            {"id": 1, "price": 20, "gross": 24, "added": "x"},
            {**old, "added": "x"},
            ["gross", "price"],
        ),
    ]


def test_value_that_is_large(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE item (content text)")
    session.execute("ALTER TABLE item ALTER content SET STORAGE EXTERNAL")
    publish_rows(session, "item")
    session.execute("INSERT INTO item VALUES (repeat('é', 1000000))")
    session.execute("UPDATE item SET content = content || '!'")
    inserted, updated = (delivery.json for delivery in inbox.drain())
    assert inserted["new"]["content"] == "é" * 1000000
    assert updated["old"] == inserted["new"]
    assert updated["new"]["content"] == "é" * 1000000 + "!"


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


# ---- Partitions, inheritance, views ----


@pytest.fixture
def partitioned(session: Session) -> Session:
    """The session, with table event: partition event_low below 100, event_high from there on."""
    session.execute(
        """
        CREATE TABLE event (id integer, name text) PARTITION BY RANGE (id);
        CREATE TABLE event_low PARTITION OF event FOR VALUES FROM (0) TO (100);
        CREATE TABLE event_high PARTITION OF event FOR VALUES FROM (100) TO (1000)
        """
    )
    return session


def test_partitioned_table_by_row_names_the_partition(partitioned: Session, inbox: Inbox) -> None:
    publish_rows(partitioned, "event")
    partitioned.execute("INSERT INTO event VALUES (1, 'a'), (100, 'b')")
    partitioned.execute("UPDATE event SET name = 'c' WHERE id = 100")
    deliveries = inbox.drain()
    assert [delivery.routing_key for delivery in deliveries] == [
        "public.event_low.insert",
        "public.event_high.insert",
        "public.event_high.update",
    ]
    assert [delivery.json["new"] for delivery in deliveries] == [
        {"id": 1, "name": "a"},
        {"id": 100, "name": "b"},
        {"id": 100, "name": "c"},
    ]


def test_row_that_moves_to_another_partition_is_deleted_and_inserted(
    partitioned: Session, inbox: Inbox
) -> None:
    partitioned.execute("INSERT INTO event VALUES (1, 'a')")
    publish_rows(partitioned, "event")
    partitioned.execute("UPDATE event SET id = 101")
    assert [(d.routing_key, d.json["new"], d.json["old"]) for d in inbox.drain()] == [
        ("public.event_low.delete", None, {"id": 1, "name": "a"}),
        ("public.event_high.insert", {"id": 101, "name": "a"}, None),
    ]


def test_partitioned_table_by_statement_names_the_table_of_the_statement(
    partitioned: Session, inbox: Inbox
) -> None:
    publish_statements(partitioned, "event")
    partitioned.execute("INSERT INTO event VALUES (1, 'a'), (100, 'b'), (2, 'c')")
    # One row stays in its partition, and one moves.
    partitioned.execute("UPDATE event SET id = id + 98 WHERE name IN ('b', 'c')")
    partitioned.execute("DELETE FROM event WHERE id = 1")
    deliveries = inbox.drain()
    assert [delivery.routing_key for delivery in deliveries[:3]] == ["public.event.insert"] * 3
    assert [delivery.json["new"]["id"] for delivery in deliveries[:3]] == [1, 100, 2]
    pairs = [(d.json["old"]["id"], d.json["new"]["id"]) for d in deliveries[3:5]]
    assert sorted(pairs) == [(2, 100), (100, 198)]
    assert deliveries[5].routing_key == "public.event.delete"
    assert len(deliveries) == 6


def test_partition_whose_columns_are_in_another_order(partitioned: Session, inbox: Inbox) -> None:
    partitioned.execute("CREATE TABLE event_huge (extra text, name text, id integer)")
    partitioned.execute("ALTER TABLE event_huge DROP COLUMN extra")
    partitioned.execute(
        "ALTER TABLE event ATTACH PARTITION event_huge FOR VALUES FROM (1000) TO (9999)"
    )
    publish_statements(partitioned, "event")
    partitioned.execute("INSERT INTO event VALUES (1, 'a'), (1001, 'b')")
    partitioned.execute("UPDATE event SET id = id + 1000")
    found = changes(inbox)
    assert [new for _, new, _, _ in found[:2]] == [
        {"id": 1, "name": "a"},
        {"id": 1001, "name": "b"},
    ]
    for _, new, old, changed in found[2:]:
        assert (new["id"], new["name"]) == (old["id"] + 1000, old["name"])
        assert changed == ["id"]


def test_row_that_a_partition_refuses_to_take_over_breaks_no_pairs(
    partitioned: Session, inbox: Inbox
) -> None:
    # The row that moves is gone without a new one: the UPDATE has more old rows than new ones.
    partitioned.execute(
        """
        INSERT INTO event VALUES (1, 'moves'), (2, 'stays'), (3, 'stays too');
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON event_high
        FOR EACH ROW EXECUTE FUNCTION refuse()
        """
    )
    publish_statements(partitioned, "event")
    # Which one has none is not to be known, and no pairs are better than wrong ones.
    with pytest.raises(errors.FeatureNotSupported):
        partitioned.execute(
            "UPDATE event SET id = CASE name WHEN 'moves' THEN 101 ELSE id + 10 END"
        )
    assert inbox.drain() == []


def test_truncate_of_a_partitioned_table_is_one_message(partitioned: Session, inbox: Inbox) -> None:
    publish_truncate(partitioned, "event")
    partitioned.execute("TRUNCATE event")
    assert [delivery.routing_key for delivery in inbox.drain()] == ["public.event.truncate"]


def test_view_with_a_trigger_on_its_table(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE item (id integer); CREATE VIEW seen AS SELECT * FROM item")
    publish_rows(session, "item")
    session.execute("INSERT INTO seen VALUES (1)")
    assert [d.routing_key for d in inbox.drain()] == ["public.item.insert"]


# ---- Names that need quoting ----

NAMES = ["Order Lines", 'a "quoted" one', "päron", "semi;colon", "select", "per%cent %s %I", "$1"]


def test_names_that_need_quoting(session: Session, inbox: Inbox) -> None:
    for name in NAMES:
        table = sql.Identifier(name, name)
        session.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        session.execute(sql.SQL("CREATE TABLE {} ({} text)").format(table, sql.Identifier(name)))
        for level in ("ROW", "STATEMENT"):
            session.execute(
                sql.SQL(
                    """
                    CREATE TRIGGER {} AFTER INSERT ON {} {} FOR EACH {}
                    EXECUTE FUNCTION amqp.publish_change('1', 'amq.topic')
                    """
                ).format(
                    sql.Identifier(f"{name} {level}"),
                    table,
                    sql.SQL("REFERENCING NEW TABLE AS {}").format(sql.Identifier(f"{name} rows"))
                    if level == "STATEMENT"
                    else sql.SQL(""),
                    sql.SQL(level),
                )
            )
        session.execute(sql.SQL("INSERT INTO {} VALUES ('x')").format(table))
        by_row, by_statement = inbox.drain()
        for delivery in (by_row, by_statement):
            assert delivery.routing_key == f"{name}.{name}.insert"
            message = delivery.json
            assert (message["schema"], message["table"]) == (name, name)
            assert message["new"] == {name: "x"}


# ---- Routing keys ----


@LEVELS
def test_routing_key_templates(session: Session, inbox: Inbox, level: str) -> None:
    session.execute("CREATE TABLE orders (id integer, customer text)")
    publish_changes(session, "orders", level, "{schema}.{table}.{op}.{new.id}.{old.id}!")
    session.execute("INSERT INTO orders VALUES (1, 'a')")
    session.execute("UPDATE orders SET id = 2")
    session.execute("DELETE FROM orders")
    # A row that the operation does not have gives way to the other one.
    assert [delivery.routing_key for delivery in inbox.drain()] == [
        "public.orders.insert.1.1!",
        "public.orders.update.2.1!",
        "public.orders.delete.2.2!",
    ]


@LEVELS
def test_routing_key_template_without_placeholders(
    session: Session, inbox: Inbox, level: str
) -> None:
    session.execute("CREATE TABLE orders (id integer)")
    publish_changes(session, "orders", level, "orders}")
    session.execute("INSERT INTO orders VALUES (1), (2)")
    assert [delivery.routing_key for delivery in inbox.drain()] == ["orders}", "orders}"]


def test_routing_key_template_that_is_empty(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE orders (id integer)")
    publish_rows(session, "orders", "")
    session.execute("INSERT INTO orders VALUES (1)")
    assert [delivery.routing_key for delivery in inbox.drain()] == [""]


@LEVELS
def test_routing_key_from_values_of_every_sort(session: Session, inbox: Inbox, level: str) -> None:
    values = {
        "a b": ("text", "'x.y #*é'", "x.y #*é"),
        "dotted.name": ("numeric", "1.10", "1.10"),
        "Ünï": ("boolean", "true", "true"),
        "op": ("bigint", "9223372036854775807", "9223372036854775807"),
        "braced": ("text", "'{op}{new.op}'", "{op}{new.op}"),
        "percent%s": ("text", "'%s\\1'", "%s\\1"),
        "nothing": ("text", "NULL", ""),
        "stamp": ("timestamptz", "'2024-01-01+00'", "2024-01-01T00:00:00+00:00"),
    }
    session.execute("SET TimeZone = 'UTC'")
    columns = ", ".join(f'"{name}" {type_}' for name, (type_, _, _) in values.items())
    session.execute(f"CREATE TABLE orders ({columns})".encode())
    for name in values:
        publish_changes(session, "orders", level, f"<{{new.{name}}}>")
        session.execute(
            f"INSERT INTO orders VALUES ({', '.join(v for _, v, _ in values.values())})".encode()
        )
        drop = ["rows"] if level == "row" else ["insert", "update", "delete"]
        for suffix in drop:
            session.execute(f"DROP TRIGGER publish_{suffix} ON orders")
    assert [delivery.routing_key for delivery in inbox.drain()] == [
        f"<{text}>" for _, _, text in values.values()
    ]


def test_routing_key_template_for_truncate(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE orders (id integer)")
    publish_truncate(session, "orders", "{table}.{op}.{new.id}.")
    session.execute("TRUNCATE orders")
    assert [delivery.routing_key for delivery in inbox.drain()] == ["orders.truncate.."]


# Templates, and what the DETAIL says of them: the placeholder, and no more of the template.
TEMPLATES = {
    "{new.nothing}": 'Table "orders" has no column "nothing".',
    "a.{old.Id}.b": 'Table "orders" has no column "Id".',
    "{new.}": 'Table "orders" has no column "".',
    "a.{nope}.b": '"{nope}" is no placeholder of table "orders".',
    "{op": '"{op" is no placeholder of table "orders".',
    "{}": '"{}" is no placeholder of table "orders".',
    "{new}": '"{new}" is no placeholder of table "orders".',
}


@LEVELS
def test_routing_key_template_that_is_wrong(session: Session, inbox: Inbox, level: str) -> None:
    for template, detail in TEMPLATES.items():
        session.execute("CREATE TABLE orders (id integer)")
        publish_changes(session, "orders", level, template)
        with pytest.raises(errors.InvalidParameterValue) as caught:
            session.execute("INSERT INTO orders VALUES (1)")
        diagnostic = caught.value.diag
        assert diagnostic.message_primary == f'invalid routing key template "{template}"'
        assert diagnostic.message_detail == detail
        assert "{new.column}" in str(diagnostic.message_hint)
        assert session.execute("SELECT count(*) FROM orders").fetchone() == (0,)
        session.execute("DROP TABLE orders")
    assert inbox.drain() == []


def test_routing_key_that_gets_too_long(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE orders (name text)")
    publish_rows(session, "orders", "orders.{new.name}")
    with pytest.raises(errors.StringDataRightTruncation):
        session.execute("INSERT INTO orders VALUES (repeat('x', 249))")
    session.execute("INSERT INTO orders VALUES (repeat('x', 248))")
    assert [delivery.routing_key for delivery in inbox.drain()] == ["orders." + "x" * 248]


# ---- Triggers that are defined wrongly ----

WRONG = {
    "no arguments": ("AFTER INSERT", "", "ROW", "", "22023"),
    "no exchange": ("AFTER INSERT", "", "ROW", "'1'", "22023"),
    "too many arguments": ("AFTER INSERT", "", "ROW", "'1', 'amq.topic', 'a', '{}', 'b'", "22023"),
    "broker is no number": ("AFTER INSERT", "", "ROW", "'one', 'amq.topic'", "22P02"),
    "no such broker": ("AFTER INSERT", "", "ROW", "'99', 'amq.topic'", "42704"),
    "no such exchange": ("AFTER INSERT", "", "ROW", "'1', 'nowhere'", "42704"),
    "before the operation": ("BEFORE INSERT", "", "ROW", "'1', 'amq.topic'", "42P17"),
    "before the statement": ("BEFORE INSERT", "", "STATEMENT", "'1', 'amq.topic'", "42P17"),
    "statement without its rows": (
        "AFTER INSERT",
        "",
        "STATEMENT",
        "'1', 'amq.topic'",
        "42P17",
    ),
    "update without the old rows": (
        "AFTER UPDATE",
        "REFERENCING NEW TABLE AS n",
        "STATEMENT",
        "'1', 'amq.topic'",
        "42P17",
    ),
    "update without the new rows": (
        "AFTER UPDATE",
        "REFERENCING OLD TABLE AS o",
        "STATEMENT",
        "'1', 'amq.topic'",
        "42P17",
    ),
    "delete without its rows": ("AFTER DELETE", "", "STATEMENT", "'1', 'amq.topic'", "42P17"),
}


def test_triggers_that_are_defined_wrongly(session: Session, inbox: Inbox) -> None:
    statements = {
        "INSERT": "INSERT INTO orders VALUES (1)",
        "UPDATE": "UPDATE orders SET id = 1",
        "DELETE": "DELETE FROM orders",
    }
    found = {}
    for name, (when, referencing, level, arguments, sqlstate) in WRONG.items():
        session.execute("CREATE TABLE orders (id integer); INSERT INTO orders VALUES (0)")
        session.execute(
            f"""
            CREATE TRIGGER wrong {when} ON orders {referencing}
            FOR EACH {level} EXECUTE FUNCTION amqp.publish_change({arguments})
            """
        )
        statement = statements[when.split()[1]]
        with pytest.raises(errors.Error) as caught:
            session.execute(statement)
        diagnostic = caught.value.diag
        found[name] = caught.value.sqlstate
        if sqlstate in ("22023", "42P17"):
            assert '"wrong"' in str(diagnostic.message_primary)
            assert diagnostic.message_hint or diagnostic.message_detail
        session.execute("DROP TRIGGER wrong ON orders")
        publish_rows(session, "orders")
        session.execute(statement)
        assert len(inbox.drain()) == 1
        session.execute("DROP TABLE orders")
    assert found == {name: sqlstate for name, (*_, sqlstate) in WRONG.items()}


def test_instead_of_trigger_is_refused(session: Session) -> None:
    session.execute("CREATE VIEW seen AS SELECT 1 AS id")
    session.execute(
        """
        CREATE TRIGGER wrong INSTEAD OF INSERT ON seen
        FOR EACH ROW EXECUTE FUNCTION amqp.publish_change('1', 'amq.topic')
        """
    )
    with pytest.raises(errors.InvalidObjectDefinition):
        session.execute("INSERT INTO seen VALUES (1)")


def test_direct_call_is_refused(session: Session) -> None:
    with pytest.raises(errors.FeatureNotSupported):
        session.execute("SELECT amqp.publish_change()")


# ---- Surroundings that are hostile ----


@LEVELS
def test_hostile_search_path_changes_nothing(session: Session, inbox: Inbox, level: str) -> None:
    session.execute(
        """
        CREATE TABLE public.orders (id integer, name text);
        CREATE SCHEMA evil
        """
    )
    publish_changes(session, "public.orders", level, "{table}.{op}.{new.name}")
    # Everything that a name without its schema could mean, and operators too.
    session.execute(
        """
        CREATE FUNCTION evil.trap(anyelement, anyelement) RETURNS boolean LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
        CREATE FUNCTION evil.trap(jsonb, text) RETURNS text LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
        CREATE FUNCTION evil.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql
        AS $$ SELECT '"evil"'::jsonb $$;
        CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
        CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql
        AS $$ SELECT 'evil' $$;
        CREATE FUNCTION evil.publish_change() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
        CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql
        AS $$ SELECT 'epoch'::timestamptz $$;
        CREATE FUNCTION evil.row_number() RETURNS bigint LANGUAGE sql AS $$ SELECT 1::bigint $$;
        CREATE TABLE evil.pg_trigger AS SELECT 1 AS tgrelid;
        CREATE TABLE evil.new_rows AS SELECT 'evil' AS id;
        CREATE TABLE evil.old_rows AS SELECT 'evil' AS id;
        CREATE DOMAIN evil.text AS pg_catalog.text CHECK (VALUE = 'evil');
        CREATE DOMAIN evil.jsonb AS pg_catalog.jsonb CHECK (false);
        CREATE DOMAIN evil.name AS pg_catalog.name CHECK (VALUE = 'evil')
        """
    )
    for operator in ("=", "<>", "<", ">", "-"):
        session.execute(
            f"CREATE OPERATOR evil.{operator}"
            " (LEFTARG = anyelement, RIGHTARG = anyelement, FUNCTION = evil.trap)"
        )
    for operator in ("->>", "->", "?"):
        session.execute(
            f"CREATE OPERATOR evil.{operator}"
            " (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = evil.trap)"
        )
    session.execute("SET search_path = evil, pg_catalog")
    session.execute("INSERT INTO public.orders VALUES (1, 'a')")
    session.execute("UPDATE public.orders SET name = 'b'")
    session.execute("DELETE FROM public.orders")
    deliveries = inbox.drain()
    assert [delivery.routing_key for delivery in deliveries] == [
        "orders.insert.a",
        "orders.update.b",
        "orders.delete.b",
    ]
    messages = [delivery.json for delivery in deliveries]
    one, two = {"id": 1, "name": "a"}, {"id": 1, "name": "b"}
    assert [(m["operation"], m["new"], m["old"], m["changed"]) for m in messages] == [
        ("insert", one, None, None),
        ("update", two, one, ["name"]),
        ("delete", None, two, None),
    ]
    assert not any(message["time"].startswith("1970") for message in messages)


@LEVELS
def test_temporary_objects_change_nothing(session: Session, inbox: Inbox, level: str) -> None:
    session.execute("CREATE TABLE orders (id integer)")
    publish_changes(session, "orders", level)
    session.execute(
        """
        CREATE TEMPORARY TABLE pg_trigger (tgrelid oid, tgname name, tgnewtable name);
        CREATE TEMPORARY TABLE new_rows AS SELECT 99 AS id;
        CREATE TEMPORARY TABLE old_rows AS SELECT 99 AS id;
        CREATE TEMPORARY TABLE broker (broker_id integer)
        """
    )
    session.execute("INSERT INTO orders VALUES (1)")
    session.execute("UPDATE orders SET id = 2")
    assert changes(inbox) == [
        ("insert", {"id": 1}, None, None),
        ("update", {"id": 2}, {"id": 1}, ["id"]),
    ]


def test_role_that_may_use_the_schema_publishes_its_changes(
    session: Session, database: str, inbox: Inbox
) -> None:
    session.execute(
        """
        CREATE ROLE publish_change_clerk;
        GRANT USAGE ON SCHEMA amqp TO publish_change_clerk;
        CREATE TABLE orders (id integer);
        GRANT ALL ON orders TO publish_change_clerk
        """
    )
    publish_statements(session, "orders")
    try:
        with session.transaction():
            session.execute("SET LOCAL ROLE publish_change_clerk")
            session.execute("INSERT INTO orders VALUES (1)")
            session.execute("UPDATE orders SET id = 2")
        assert [d.json["operation"] for d in inbox.drain()] == ["insert", "update"]
        session.execute("REVOKE USAGE ON SCHEMA amqp FROM publish_change_clerk")
        session.execute("SET ROLE publish_change_clerk")
        with pytest.raises(errors.InsufficientPrivilege):
            session.execute("INSERT INTO orders VALUES (3)")
        session.execute("RESET ROLE")
        assert inbox.drain() == []
    finally:
        session.execute("RESET ROLE; DROP OWNED BY publish_change_clerk")
        session.execute("DROP ROLE publish_change_clerk")


def test_numbers_survive_a_decimal_reader(session: Session, inbox: Inbox) -> None:
    session.execute("CREATE TABLE item (price numeric)")
    publish_rows(session, "item")
    session.execute("INSERT INTO item VALUES (0.1000000000000000055511151231257827)")
    message = json.loads(only(inbox.drain()).body, parse_float=Decimal)
    assert message["new"]["price"] == Decimal("0.1000000000000000055511151231257827")
