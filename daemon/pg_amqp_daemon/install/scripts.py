"""Every SQL script of the project, made from the files in sql/: one object a file, in order.

Operations: the script of the extension and its upgrades, for the Makefile; outbox and inbox alone,
their upgrade and their removal, for `pg-amqp install`. Goal: what they have in common stands in one
file. The Makefile runs this module as a program, with a Python that has no other packages:

    python scripts.py extension            CREATE EXTENSION
    python scripts.py upgrade 1.0.0        ALTER EXTENSION ... UPDATE, from this version
    python scripts.py outbox               outbox and inbox without the extension

A folder of sql/ is a component; its order.txt names its files, and the functions below say in which
scripts it is. In all files @PYTHON@ (sql/templates/python.txt), the parts of
sql/templates/change.txt and the names of _EXTENSION or _ALONE are filled in; in one whose name ends
in .in also:

    @MESSAGE_PARAMETERS@  what sql/templates/message.txt lists, for the head of a function
    @MESSAGE_TYPES@       their types, to name the function by; in this and the one before,
                          :destination puts a text of this name in the place of the address
    @MESSAGE_ARGUMENTS@   their names in Python, to hand them on; @MESSAGE_VALUES@ those in SQL
    @MESSAGE_COLUMNS@     the columns of a message in the outbox; @MESSAGE_COLUMNS:o@ of table o
    @REQUEST_PARAMETERS@, @REQUEST_TYPES@, @REQUEST_ARGUMENTS@
                          the same of what stands behind the message, where it is a request
    -- @EACH@ ... @END@   what is between comes once for each line of the table behind @EACH@; what
                          it calls in capitals is filled in, in small letters it is handed on in
                          place of the parameter of this name
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

_PACKAGED = Path(__file__).parent / "sql"
_PROJECT = Path(__file__).parents[3]
_FILES = _PACKAGED if _PACKAGED.exists() else _PROJECT / "sql"


def _version() -> str:
    # The control file is the one place for the version; a wheel has been given it.
    if _PACKAGED.exists():
        return version("pg_amqp_py")
    control = (_PROJECT / "pg_amqp_py.control").read_text(encoding="utf-8")
    found = re.search(r"^default_version = '(.*)'", control, re.M)
    assert found is not None
    return found[1]


VERSION = _version()
EARLIER = ("1.0.0", "1.1.0", "1.2.0", "1.3.0")
"""Versions that there are upgrades from: the Makefile reads them here."""

_EXTENSION = {"PUBLISH_OF_TRIGGERS": "publish"}
# Without it, both trigger functions fill the outbox: triggers read the same.
_ALONE = {"PUBLISH_OF_TRIGGERS": "publish_outbox"}

_EACH = re.compile(
    r"^-- @EACH@(?P<names>.*?)\n(?P<lines>(?:-- {8}[^\n]*\n)+)(?P<text>.*?)^-- @END@\n", re.M | re.S
)
_PART = re.compile(r"^\[([A-Z_]+)\]$", re.M)
_PLACEHOLDER = re.compile(r"@([A-Z_]+)(?::(\w+))?@")
_OF_REQUESTS = ("reply_to", "correlation_id", "mandatory", "expiration")
"""What is given to a message that is no request: of these, the requester makes its own."""

# An upgrade creates everything anew, each in the place of what it was.
_REPLACING = {
    "CREATE TABLE": "CREATE TABLE IF NOT EXISTS",
    "CREATE INDEX": "CREATE INDEX IF NOT EXISTS",
    "CREATE FUNCTION": "CREATE OR REPLACE FUNCTION",
    "CREATE TRIGGER": "CREATE OR REPLACE TRIGGER",
    "CREATE VIEW": "CREATE OR REPLACE VIEW",
}
# Of the table and a function of its rows, either needs the other.
_DROP_CONSTRAINT = "ALTER TABLE IF EXISTS amqp.outbox DROP CONSTRAINT IF EXISTS outbox_check;\n"
# Of a version that changed none, those of which other one it has.
_TABLES_OF = {"1.2.0": "1.3.0"}
_CREATE = re.compile(rf"^(?:{'|'.join(_REPLACING)})\b", re.M)
_OBJECT = re.compile(
    r"^CREATE (?:(?P<kind>TABLE|VIEW|TYPE) (?P<name>amqp\.\w+)"
    r"|FUNCTION (?P<function>amqp(?:_inner)?\.\w+)\((?P<parameters>[^()]*)\))",
    re.M,
)


# ---- Scripts ----


def extension() -> list[str]:
    """What CREATE EXTENSION runs, in order."""
    return [
        _file("extension/preamble.sql", _EXTENSION),
        *_components(_EXTENSION, "core", "outbox", "inbox", "listener", "triggers", "extension"),
    ]


def extension_upgrade(installed: str) -> list[str]:
    """What ALTER EXTENSION ... UPDATE runs from an earlier version, in order."""
    before, after = _around(f"extension/upgrades/{installed}", _EXTENSION)
    code = _functions(_EXTENSION, "core", "triggers", "extension")
    dump = _file("extension/dump.sql", _EXTENSION)
    return [
        *before,
        *_component("core", _EXTENSION, "schemas"),
        _file("extension/upgrades/publish_change.sql", _EXTENSION),
        *_outbox_upgrade(installed, [*code, dump], _EXTENSION),
        *after,
    ]


def outbox() -> list[str]:
    """What creates outbox and inbox in two empty schemas, amqp and amqp_inner, in order."""
    return [
        *_components(_ALONE, "core", "outbox", "inbox", "listener", "triggers"),
        _version_function(),
    ]


def outbox_upgrade(installed: str) -> list[str]:
    """What brings an earlier outbox to this version, in order; 1.1.0 was the first."""
    code = [*_functions(_ALONE, "core", "triggers"), _replacing(_version_function())]
    return [*_component("core", _ALONE, "schemas"), *_outbox_upgrade(installed, code, _ALONE)]


def outbox_removal() -> list[str]:
    """Statements that remove all that `outbox` creates; dependent objects are an error."""
    objects = [found for script in outbox() for found in _OBJECT.finditer(script)]
    return [_DROP_CONSTRAINT, *(_drop(found) for found in reversed(objects))]


def _outbox_upgrade(installed: str, others: list[str], names: Mapping[str, str]) -> list[str]:
    """The outbox's part, with what else is replaced: around it what replacing does not do."""
    # 1.3.0 was the last without these.
    others = [*_components(names, "inbox", "listener"), *others]
    if installed == "1.0.0":
        # There was none.
        return [*map(_replacing, _component("outbox", names)), *others]
    before, after = _around(f"outbox/upgrades/{_TABLES_OF.get(installed, installed)}", names)
    folders = ["functions", "views"]
    if installed == "1.1.0":
        folders += ["tables", "privileges"]
    # These have to hold for the rows that are there.
    constraints = [_DROP_CONSTRAINT, *_component("outbox", names, "constraints")]
    replaced = map(_replacing, _component("outbox", names, *folders))
    return [*before, *replaced, *others, *after, *constraints]


def _version_function() -> str:
    return f"""
CREATE FUNCTION amqp.outbox_version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '{VERSION}';

COMMENT ON FUNCTION amqp.outbox_version() IS
'Version of outbox and inbox in this schema, put there by pg-amqp install.';
"""


def _replacing(script: str) -> str:
    return _CREATE.sub(lambda found: _REPLACING[found.group()], script)


def _drop(created: re.Match[str]) -> str:
    if created["kind"]:
        return f"DROP {created['kind']} IF EXISTS {created['name']}"
    parameters = re.sub(r"\s+DEFAULT\s+('[^']*'|\w+)", "", created["parameters"])
    return f"DROP FUNCTION IF EXISTS {created['function']}({parameters})"


# ---- Files ----


def _components(names: Mapping[str, str], *components: str) -> Iterator[str]:
    for component in components:
        yield from _component(component, names)


def _component(component: str, names: Mapping[str, str], *folders: str) -> list[str]:
    """The files of a component in order, or of these only those whose path begins so."""
    return [
        _file(f"{component}/{name}", names)
        for name in _read(f"{component}/order.txt").split()
        if not folders or name.startswith(folders)
    ]


def _functions(names: Mapping[str, str], *components: str) -> list[str]:
    """Functions and comments of these components, to be replaced: what is granted must stay."""
    return [
        _replacing(script)
        for component in components
        for script in _component(component, names, "functions", "comments")
    ]


def _around(name: str, names: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """What comes before and after everything else, if there is such a file."""
    before, after = (
        [_file(f"{name}-{part}.sql", names)] if (_FILES / f"{name}-{part}.sql").exists() else []
        for part in ("before", "after")
    )
    return before, after


def _file(name: str, names: Mapping[str, str]) -> str:
    text = _read(name)
    names = {**_python(), **_change(), **names}
    if name.endswith(".in"):
        text = _EACH.sub(lambda found: "\n".join(_each(found, names)), text)
    text = _filled(text, names)
    if left := _PLACEHOLDER.search(text):
        raise ValueError(f"{name}: nothing is known to stand for {left.group()}")
    return text


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


# ---- Templates ----


def _each(found: re.Match[str], names: Mapping[str, str]) -> Iterator[str]:
    """The text, once for each line of the table before it."""
    heads = [head.strip() for head in found["names"].split("|")]
    for line in found["lines"].splitlines():
        words = [word.strip() for word in line.removeprefix("--").split("|")]
        yield _filled(found["text"], {**names, **dict(zip(heads, words, strict=True))})


def _filled(text: str, names: Mapping[str, str]) -> str:
    """The text with the placeholders filled in that are known; what fills them may have some."""

    def fill(found: re.Match[str]) -> str:
        name, table = found.groups()
        if name in names:
            return _filled(names[name], names)
        of_message = name.startswith(("MESSAGE_", "REQUEST_")) and "MESSAGE_TYPE" in names
        if of_message or name == "MESSAGE_COLUMNS":
            indent = " " * (found.start() - found.string.rfind("\n", 0, found.start()) - 1)
            return _message(name, table, names, indent if indent.isspace() else "")
        return found.group()

    return _PLACEHOLDER.sub(fill, text)


def _message(name: str, table: str | None, given: Mapping[str, str], indent: str) -> str:
    """What stands for a placeholder that is made from the list of a message's parameters."""
    lines = _read("templates/message.txt").splitlines()
    if name.startswith("REQUEST_"):
        at = next(at for at, line in enumerate(lines) if line.startswith("message "))
        behind = lines[at + 1 :]
        lines = [line for line in behind if line.split(maxsplit=1)[0] not in _OF_REQUESTS]
    parameters = [_filled(line, given) for line in lines if line and line[0] != "#"]
    if table and name in ("MESSAGE_PARAMETERS", "MESSAGE_TYPES"):
        at = parameters.index("exchange text")
        assert parameters[at + 1] == "routing_key text"
        parameters[at : at + 2] = [f"{table} text"]
    words = [parameter.partition(" DEFAULT ")[0].split(maxsplit=1) for parameter in parameters]
    if name in ("MESSAGE_PARAMETERS", "REQUEST_PARAMETERS"):
        return f",\n{indent}".join(parameters)
    if name in ("MESSAGE_TYPES", "REQUEST_TYPES"):
        return ", ".join(kind for _, kind in words)
    if name in ("MESSAGE_ARGUMENTS", "REQUEST_ARGUMENTS"):
        return ", ".join(given.get(word[0], word[0].strip('"')) for word in words)
    if name == "MESSAGE_VALUES":
        return ", ".join(given.get(word[0], word[0]) for word in words)
    if name == "MESSAGE_COLUMNS":
        columns = ["body" if word[0] == "message" else word[0] for word in words]
        return ", ".join(f"{table}.{column}" if table else column for column in columns)
    raise ValueError(f"no placeholder is called {name}")


def _python() -> dict[str, str]:
    """How a function in PL/Python finds the Python part of the extension."""
    lines = _read("templates/python.txt").splitlines()
    found = (line.partition(" ") for line in lines if not line.startswith("#"))
    return {name: text for name, _, text in found}


def _change() -> dict[str, str]:
    """What a trigger function does with a row, in parts."""
    _, *parts = _PART.split(_read("templates/change.txt"))
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


# ---- The program ----


def main(arguments: list[str]) -> None:
    """Print the script that is asked for."""
    match arguments:
        case ["extension"]:
            scripts = extension()
        case ["upgrade", installed]:
            scripts = extension_upgrade(installed)
        case ["outbox"]:
            scripts = outbox()
        case _:
            sys.exit("usage: scripts.py extension | upgrade VERSION | outbox")
    sys.stdout.write("\n".join(scripts))


if __name__ == "__main__":
    main(sys.argv[1:])
