"""The SQL of the outbox alone, from the same files of which the Makefile makes the extension."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

VERSION = version("pg_amqp_py")

_PACKAGED = Path(__file__).parent / "sql"
_FILES = _PACKAGED if _PACKAGED.exists() else Path(__file__).parents[3] / "sql"

# As in the Makefile; but without the extension, both names fill the outbox: triggers read the same.
_PUBLISH_CHANGE = {
    "@PUBLISH@": "publish_outbox",
    "@INNER@": "amqp",
}
_VERSION_FUNCTION = f"""
CREATE FUNCTION amqp.outbox_version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '{VERSION}';

COMMENT ON FUNCTION amqp.outbox_version() IS
'Version of the outbox in this schema, put there by pg-amqp install-outbox.';
"""

# A table of an earlier version stays with what is in it: see sql/outbox/upgrades/.
_REPLACING = {
    "CREATE TABLE": "CREATE TABLE IF NOT EXISTS",
    "CREATE INDEX": "CREATE INDEX IF NOT EXISTS",
    "CREATE FUNCTION": "CREATE OR REPLACE FUNCTION",
    "CREATE TRIGGER": "CREATE OR REPLACE TRIGGER",
    "CREATE VIEW": "CREATE OR REPLACE VIEW",
}
# This has to hold for the rows that are there.
_CONSTRAINT = "\nALTER TABLE amqp.outbox ADD CONSTRAINT"
_CREATE = re.compile(rf"^(?:{'|'.join(_REPLACING)})\b", re.MULTILINE)
_OBJECT = re.compile(
    r"^CREATE (?:(?P<kind>TABLE|VIEW) (?P<name>amqp\.\w+)"
    r"|FUNCTION (?P<function>amqp\.\w+)\((?P<parameters>[^()]*)\))",
    re.MULTILINE,
)


def creation() -> list[str]:
    """Scripts that create the outbox in an empty schema amqp, in order."""
    order = _read("outbox/order.txt").split()
    return [
        _read("functions/broker_check.sql"),
        _read("tables/broker.sql"),
        _read("triggers/broker_check.sql"),
        *(_read(f"outbox/{name}") for name in order),
        _publish_change("publish_change"),
        _publish_change("publish_change_outbox"),
        _VERSION_FUNCTION,
    ]


def upgrade() -> list[str]:
    """Scripts that bring the outbox of version 1.1.0, the first, to this one, in order.

    What creates is told to replace; around it comes what that does not do to a table with rows.
    """
    replacing = [
        _CREATE.sub(lambda found: _REPLACING[found.group()], script) for script in creation()
    ]
    constraints = [script for script in replacing if _CONSTRAINT in script]
    others = [script for script in replacing if _CONSTRAINT not in script]
    before, after = (_read(f"outbox/upgrades/1.1.0-{part}.sql") for part in ("before", "after"))
    return [before, *others, after, *constraints]


def removal() -> list[str]:
    """Statements that remove all that `creation` creates; dependent objects are an error."""
    objects = [found for script in creation() for found in _OBJECT.finditer(script)]
    # Of the table and a function of its rows, either needs the other.
    constraint = "ALTER TABLE IF EXISTS amqp.outbox DROP CONSTRAINT IF EXISTS outbox_check"
    return [constraint, *(_drop(found) for found in reversed(objects))]


def _drop(created: re.Match[str]) -> str:
    if created["kind"]:
        return f"DROP {created['kind']} IF EXISTS {created['name']}"
    parameters = re.sub(r"\s+DEFAULT\s+\w+", "", created["parameters"])
    return f"DROP FUNCTION IF EXISTS {created['function']}({parameters})"


def _publish_change(function: str) -> str:
    script = _read("publish_change.sql.in").replace("@FUNCTION@", function)
    for placeholder, text in _PUBLISH_CHANGE.items():
        script = script.replace(placeholder, text)
    return script


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")
