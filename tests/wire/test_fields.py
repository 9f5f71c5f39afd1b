"""A field of a message is known wherever the list of fields is written out once more."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pg_amqp_py.wire import fields
from pg_amqp_py.wire.fields import FIELDS, PLACE, other_fields, with_field
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.properties import PROPERTIES

ROOT = Path(__file__).parents[2]


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


def test_parameters_of_sql() -> None:
    # From there come those of all functions that publish.
    lines = (ROOT / "sql/templates/message.txt").read_text().splitlines()
    names = [line.split()[0].strip('"') for line in lines if not line.startswith("#")]
    assert between(names, FIELDS[0], FIELDS[-1], but="message") == FIELDS


def test_columns_of_the_outbox() -> None:
    text = (ROOT / "sql/outbox/tables/outbox.sql").read_text()
    columns = text.partition("CREATE TABLE")[2].partition(");")[0]
    assert between(names_in(columns), FIELDS[0], FIELDS[-1], but="body") == FIELDS


@pytest.mark.parametrize("table", ["outbox_dead", "outbox_delivered"])
def test_columns_of_what_was_in_the_outbox(table: str) -> None:
    text = (ROOT / f"sql/outbox/tables/{table}.sql").read_text()
    columns = text.partition("CREATE TABLE")[2].partition(");")[0]
    assert between(names_in(columns), FIELDS[0], FIELDS[-1], but="body") == FIELDS


def test_columns_of_dead_letters() -> None:
    text = (ROOT / "sql/outbox/views/dead_letters.sql").read_text()
    assert {*FIELDS} <= {*re.findall(r'\bd\."?(\w+)', text)}


def test_what_the_outbox_checks() -> None:
    # Texts are checked for their length, together and one by one; these others have checks of
    # their own, or none.
    others = {"delivery_mode", "mandatory", "headers", "priority", "expiration", "timestamp"}
    texts = {*FIELDS} - others
    text = (ROOT / "sql/outbox/functions/outbox_check.sql").read_text()
    together, names, values = (
        found.split(")")[0].split("]")[0] for found in re.split(r"concat\(|ARRAY\[", text)[1:4]
    )
    assert {*re.findall(r"message\.(\w+)", together)} == texts
    assert {*re.findall(r"'(\w+)'", names)} == texts
    assert {*re.findall(r"message\.(\w+)", values)} == texts
    text = (ROOT / "sql/outbox/functions/outbox_sound.sql").read_text()
    (together,) = re.findall(r"concat\((.*?), 'UTF8'\)", text, re.DOTALL)
    assert {*re.findall(r"message\.(\w+)", together)} == texts | {"ordering_key"}


def test_columns_of_due_messages() -> None:
    text = (ROOT / "sql/outbox/functions/outbox_due.sql.in").read_text()
    columns = text.partition("RETURNS TABLE (")[2].partition("\n)")[0]
    assert {*FIELDS} < {*names_in(columns)}


def test_columns_that_are_inserted() -> None:
    # Read, because it can only be imported in a server.
    text = (ROOT / "extension/pg_amqp_py/backend/to_outbox.py").read_text()
    columns = text.partition("INSERT INTO amqp.outbox (")[2].partition(")")[0]
    names = [name.strip(' \n"') for name in columns.split(",")]
    assert between(names, FIELDS[0], FIELDS[-1], but="body") == FIELDS
    values, _, types = (
        text.partition("VALUES (")[2].partition("channel_or_outbox")[0].partition('"""')
    )
    assert re.findall(r"\$(\d+)", values) == [str(number + 1) for number in range(len(names))]
    assert len(re.findall(r'"\w+"', types)) == len(names)


def test_columns_of_pending() -> None:
    text = (ROOT / "sql/extension/functions/pending.sql").read_text()
    columns = text.partition("RETURNS TABLE (")[2].partition("\n)")[0]
    names = [name for name in names_in(columns) if name != "message"]
    assert between(names, FIELDS[0], FIELDS[-1], but="body") == FIELDS


def test_parameters_in_python() -> None:
    text = (ROOT / "extension/pg_amqp_py/backend/publishing.py").read_text()
    (publish,) = (
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name == "publish"
    )
    names = [argument.arg for argument in publish.args.args]
    assert between(names, FIELDS[0], FIELDS[-1], but="message") == FIELDS
    # What it makes of them, in order: each from the parameter of its name.
    (taken,) = (
        node.value
        for node in ast.walk(publish)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "fields"
    )
    assert isinstance(taken, ast.Tuple)
    for name, element in zip(FIELDS, taken.elts, strict=True):
        found = {node.id for node in ast.walk(element) if isinstance(node, ast.Name)}
        assert name in found, ast.unparse(element)


def test_what_is_not_given_is_none() -> None:
    given = other_fields(content_type="text/plain", app_id="a")
    assert Envelope("e", "k", *given)._asdict() == {  # type: ignore[arg-type]
        **dict.fromkeys(FIELDS),
        "exchange": "e",
        "routing_key": "k",
        "content_type": "text/plain",
        "app_id": "a",
    }
