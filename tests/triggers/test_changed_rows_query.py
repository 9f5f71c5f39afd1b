"""The query that a trigger FOR EACH STATEMENT runs over its transition tables, by itself."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from support.sessions import Session

QUERY = """
SELECT amqp_inner.changed_rows_query(
    'test.publish', %s, 'new rows', 'old rows', %s, %s, %s)
"""
TABLES = """
CREATE SCHEMA test;
CREATE TABLE test.calls (
    position serial, key text, message jsonb, properties jsonb, ordering_key text);
CREATE FUNCTION test.publish(
    broker_id integer, exchange text, routing_key text, message text,
    properties jsonb DEFAULT NULL, ordering_key text DEFAULT NULL
) RETURNS boolean LANGUAGE sql AS
    'INSERT INTO test.calls (key, message, properties, ordering_key)
     VALUES ($3, $4::jsonb, $5, $6) RETURNING true';
CREATE TEMPORARY TABLE "new rows" AS SELECT 1 AS id, 'one' AS name UNION ALL SELECT 2, 'two';
CREATE TEMPORARY TABLE "old rows" AS SELECT 1 AS id, 'first' AS name UNION ALL SELECT 2, 'two';
SET search_path = public;
"""
ONE, TWO, FIRST = {"id": 1, "name": "one"}, {"id": 2, "name": "two"}, {"id": 1, "name": "first"}
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "insert": [(ONE, None, None), (TWO, None, None)],
    "delete": [(None, FIRST, None), (None, TWO, None)],
    "update": [(ONE, FIRST, ["name"]), (TWO, TWO, [])],
}


def run(session: Session, operation: str, template: str | None, ordering_key: str | None) -> None:
    """Have the query made for the operation and execute it, as the trigger function does."""
    choices = [template is not None, ordering_key is not None, ordering_key is not None]
    ((query,),) = session.execute(QUERY, [operation, *choices]).fetchall()
    # The parameters' types are those of the trigger function's expressions.
    session.execute(
        f"PREPARE run (integer, text, text, text, name, name, text, text, jsonb, text) AS {query}"
    )
    session.execute(
        sql.SQL(
            """EXECUTE run (1, 'e', {}, {}, 's', 't', '{{"new" : ', '}}', '{{"type": "x"}}', {})"""
        ).format(template or "plain", operation, ordering_key)
    )


def calls(session: Session, columns: str) -> list[tuple[Any, ...]]:
    return session.execute(
        f"SELECT {columns} FROM test.calls ORDER BY position".encode()
    ).fetchall()


@pytest.fixture
def tables(session: Session) -> Session:
    """Two tables in the place of transition tables, and a function that writes down its calls."""
    session.execute(TABLES)
    return session


@pytest.mark.parametrize("operation", ["insert", "update", "delete"])
def test_a_message_for_each_row(tables: Session, operation: str) -> None:
    run(tables, operation, None, None)
    found = calls(tables, "message -> 'new', message -> 'old', message -> 'changed', key")
    assert found == [(*row, "plain") for row in ROWS[operation]]
    assert calls(tables, "properties, ordering_key") == [(None, None)] * 2


def test_keys_by_template_and_properties(tables: Session) -> None:
    run(tables, "update", "{op}.{new.id}.{old.name}", "{schema}.{table}.{new.name}")
    assert calls(tables, "key, properties ->> 'type', ordering_key") == [
        ("update.1.first", "x", "s.t.one"),
        ("update.2.two", "x", "s.t.two"),
    ]


def test_properties_without_an_ordering_key(tables: Session) -> None:
    ((query,),) = tables.execute(QUERY, ["insert", False, True, False]).fetchall()
    assert ", $9, NULL))" in query
    assert "$10" not in query


def test_names_are_quoted(tables: Session) -> None:
    ((query,),) = tables.execute(QUERY, ["update", False, False, False]).fetchall()
    assert 'FROM "new rows" AS t' in query
    assert 'FROM "old rows" AS t' in query
