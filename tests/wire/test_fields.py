"""A field of a message is known wherever the list of fields is written out once more."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pg_amqp_py.wire import fields
from pg_amqp_py.wire.fields import FIELDS, PLACE, with_field
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.properties import PROPERTIES

ROOT = Path(__file__).parents[2]
PUBLISHING = ["publish", "autonomous_publish"]


def names_in(text: str) -> list[str]:
    """The names that begin the lines of a list of parameters or columns."""
    return re.findall(r'^\s+"?([a-z_]+)"?\s+[a-z]', text, re.MULTILINE)


def between(names: list[str], first: str, last: str, but: str) -> tuple[str, ...]:
    """The names from one to another, without the message itself."""
    found = names[names.index(first) : names.index(last) + 1]
    return tuple(name for name in found if name != but)


def test_positions_by_name() -> None:
    named = {name: value for name, value in vars(fields).items() if isinstance(value, int)}
    assert named
    for name, position in named.items():
        assert FIELDS[position] == name.lower()
    assert [*FIELDS[PLACE]] == ["exchange", "routing_key"]


def test_one_field_changed() -> None:
    before = tuple(Envelope("e", "k", delivery_mode=7, app_id="a"))
    after = tuple(Envelope("e", "k", delivery_mode=None, app_id="a"))
    assert with_field(before, fields.DELIVERY_MODE, None) == after


def test_types_of_all_fields() -> None:
    assert Envelope._fields == FIELDS


def test_every_field_is_a_property_or_part_of_the_method() -> None:
    assert sorted(FIELDS) == sorted([*PROPERTIES, "exchange", "routing_key", "mandatory"])


@pytest.mark.parametrize("function", [*PUBLISHING, "publish_outbox"])
def test_parameters_of_sql(function: str) -> None:
    folder = ROOT / "sql" / ("outbox/functions" if "outbox" in function else "functions")
    text = (folder / f"{function}.sql").read_text()
    lists = re.findall(rf"CREATE FUNCTION amqp\.{function}\((.*?)\n\)", text, re.DOTALL)
    assert len(lists) == 3
    for parameters in lists:
        assert between(names_in(parameters), "exchange", "app_id", but="message") == FIELDS


def test_columns_of_the_outbox() -> None:
    text = (ROOT / "sql/outbox/tables/outbox.sql").read_text()
    columns = text.partition("CREATE TABLE")[2].partition(");")[0]
    assert between(names_in(columns), "exchange", "app_id", but="body") == FIELDS


def test_columns_of_due_messages() -> None:
    text = (ROOT / "sql/outbox/functions/outbox_due.sql").read_text()
    columns = text.partition("RETURNS TABLE (")[2].partition("\n)")[0]
    assert {*FIELDS} < {*names_in(columns)}


def test_columns_of_pending() -> None:
    text = (ROOT / "sql/functions/pending.sql").read_text()
    columns = text.partition("RETURNS TABLE (")[2].partition("\n)")[0]
    names = [name for name in names_in(columns) if name != "message"]
    assert between(names, "exchange", "app_id", but="body") == FIELDS


def test_parameters_in_python() -> None:
    # Read, because it can only be imported in a server.
    text = (ROOT / "extension/pg_amqp_py/backend/publishing.py").read_text()
    (publish,) = (
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name == "publish"
    )
    names = [argument.arg for argument in publish.args.args]
    assert between(names, "exchange", "app_id", but="message") == FIELDS
