"""Partitions, inheritance, views, and names that need quoting."""

from __future__ import annotations

import pytest
from psycopg import errors, sql

from support.changes import (
    changes,
    publish_rows,
    publish_statements,
    publish_truncate,
)
from support.messages import Inbox
from support.sessions import Session

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
