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

# A table of an earlier version stays with what is in it: a new column needs an ALTER TABLE as well.
_REPLACING = {
    "CREATE TABLE": "CREATE TABLE IF NOT EXISTS",
    "CREATE INDEX": "CREATE INDEX IF NOT EXISTS",
    "CREATE FUNCTION": "CREATE OR REPLACE FUNCTION",
    "CREATE TRIGGER": "CREATE OR REPLACE TRIGGER",
    "CREATE VIEW": "CREATE OR REPLACE VIEW",
}
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
    """Scripts that bring the outbox of an earlier version to this one."""
    return [_CREATE.sub(lambda found: _REPLACING[found.group()], script) for script in creation()]


def removal() -> list[str]:
    """Statements that remove all that `creation` creates; dependent objects are an error."""
    objects = [found for script in creation() for found in _OBJECT.finditer(script)]
    return [_drop(found) for found in reversed(objects)]


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
