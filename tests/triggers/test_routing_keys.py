"""Routing key templates."""

from __future__ import annotations

import pytest
from psycopg import errors

from support.changes import (
    LEVELS,
    publish_changes,
    publish_rows,
    publish_truncate,
)
from support.messages import Inbox
from support.sessions import Session


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
        reason = f'invalid routing key template "{template}"'
        if level == "statement":
            detail = f'Table "public.orders", insert: {reason}. {detail}'
            reason = 'amqp: cannot make a message of a row of table "public.orders"'
        assert (diagnostic.message_primary, diagnostic.message_detail) == (reason, detail)
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
