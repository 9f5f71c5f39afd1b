"""The pages of docs/reference are what the code says of itself: comments in SQL, and metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from inspect import cleandoc
from pathlib import Path

import click
from prometheus_client import Counter, Gauge

from pg_amqp_daemon.cli import main
from pg_amqp_daemon.consume.metrics import ConsumeMetrics
from pg_amqp_daemon.gateway.metrics import GatewayMetrics
from pg_amqp_daemon.install import scripts
from pg_amqp_daemon.listen.metrics import ListenMetrics
from pg_amqp_daemon.relay.metrics import RelayMetrics
from pg_amqp_daemon.runtime.metrics import Metrics
from support.examples import blocks
from support.sessions import Session

PROJECT = Path(__file__).parents[2]
FUNCTIONS_HEAD = """# Functions

What `\\df+` shows: made of the comments in `sql/`, which is where to change them.

A list with a line for each, in psql:

```sql
SELECT DISTINCT ON (p.proname) p.proname AS function,
       split_part(obj_description(p.oid, 'pg_proc'), E'\\n', 1) AS "what it does"
FROM pg_proc AS p
WHERE p.pronamespace = 'amqp'::regnamespace
ORDER BY p.proname;
```
"""
FUNCTIONS = """
SELECT p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
       obj_description(p.oid, 'pg_proc')
FROM pg_depend AS d
JOIN pg_extension AS e ON e.oid = d.refobjid
JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
WHERE d.deptype = 'e' AND e.extname = 'pg_amqp_py' AND p.pronamespace = 'amqp'::regnamespace
ORDER BY p.proname, p.oid
"""

INNER = re.compile(
    r"(outbox|inbox|listener)_(?!status$)|(consumer|change|broker|influxdb|load|deny)_"
    r"|.*_(check|fault|headers|query)$(?<!stomp_headers)"
)
"""Names as functions have that users do not call: they belong into schema amqp_inner."""


TABLES_HEAD = """# Tables

What `\\d+` shows: made of the comments in `sql/`, which is where to change them.
The tables of the outbox are described in [its page](../how-to/outbox.md).
"""
TABLES = (
    "broker",
    "consumer",
    "influxdb",
    "message",
    "inbox",
    "inbox_dead",
    "inbox_seen",
    "inbox_offset",
    "inbox_state",
    "listener",
    "listener_state",
)
TABLE = "SELECT obj_description(to_regclass(%s)), obj_description(to_regtype(%s))"
COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid),
       a.attnotnull, col_description(a.attrelid, a.attnum)
FROM pg_attribute AS a
JOIN pg_class AS c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'amqp'::regnamespace AND c.relname = %s AND a.attnum > 0
  AND NOT a.attisdropped
ORDER BY a.attnum
"""

METRICS_HEAD = """# Metrics

What `pg-amqp run`, `relay`, `consume`, `listen` and `gateway` answer at `/metrics`, for Prometheus.
Made of the code, `metrics.py` of each door.

| metric | labels | |
| --- | --- | --- |
"""


PROGRAM_HEAD = """# pg-amqp

The commands of the program, as `pg-amqp COMMAND --help` shows them: made of the code, `cli.py`.
[Install it](../how-to/install.md#the-program) first.
"""


def sentences(comment: str) -> str:
    """A comment, which has lines for psql, as the pages have it: one sentence a line."""
    return comment.replace("\n", " ").replace(". ", ".\n")


def functions_page(session: Session) -> str:
    """Functions of one name and one comment stand together."""
    heads: dict[tuple[str, str, str], list[list[str]]] = {}
    for name, arguments, result, comment in session.execute(FUNCTIONS):
        given = re.sub(r"NULL::[a-z_. ]+(\[\])?", "NULL", arguments).split(", ")
        heads.setdefault((name, comment, result), []).append(given)
    return FUNCTIONS_HEAD + "".join(
        f"\n## {name}\n\n```\namqp.{name}({head(calls)}) RETURNS {result}\n```\n\n"
        f"{sentences(comment)}\n"
        for (name, comment, result), calls in heads.items()
    )


def head(calls: list[list[str]]) -> str:
    """The parameters of functions that differ in the type of the message alone."""
    merged = []
    for same in zip(*calls, strict=True):
        kinds = dict.fromkeys(parameter.removeprefix("message ") for parameter in same)
        name = "message " if same[0].startswith("message ") else ""
        merged.append(name + " | ".join(kinds))
    one = ", ".join(merged)
    return one if len(one) <= 60 else "\n    " + ",\n    ".join(merged) + "\n"


def tables_page(session: Session) -> str:
    """What tables share with amqp.message is told once."""
    message = {row[0] for row in session.execute(COLUMNS, ["message"])}
    page = TABLES_HEAD
    for table in TABLES:
        name = f"amqp.{table}"
        ((of_table, of_type),) = session.execute(TABLE, [name, name])
        comment = sentences(of_table or of_type)
        page += f"\n## {table}\n\n{comment}\n\n| column | type | |\n| --- | --- | --- |\n"
        shared = table.startswith("inbox")
        rows = session.execute(COLUMNS, [table]).fetchall()
        for column, kind, default, not_null, what in rows:
            if shared and column in message and {row[0] for row in rows} >= message:
                if column == "broker_id":
                    page += "| `broker_id` ... `stream_offset` | | all of [message](#message) |\n"
                continue
            words = kind.replace("timestamp with time zone", "timestamptz")
            if default is not None:
                words += f" = {re.sub(r'::[a-z ]+', '', default)}"
            elif not_null:
                words += ", not null"
            said = (what or "").replace("\n", " ")
            page += f"| `{column}` | {words} | {said} |\n".replace("|  |", "| |")
    return page


class DeclaredMetrics(Metrics):
    """Keeps a row of the page for each metric that is declared."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[str] = []

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        self._declare(f"{name}_total", text, labels)
        return super().counter(name, text, labels)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        self._declare(name, text, labels)
        return super().gauge(name, text, labels)

    def _declare(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.rows.append(f"| `pg_amqp_{name}` | {', '.join(labels)} | {text} |\n")


def metrics_page() -> str:
    metrics = DeclaredMetrics()
    RelayMetrics(metrics)
    ConsumeMetrics(metrics)
    ListenMetrics(metrics)
    GatewayMetrics(metrics)
    assert metrics.database_up
    return METRICS_HEAD + "".join(metrics.rows).replace("|  |", "| |")


def program_page() -> str:
    page = PROGRAM_HEAD
    for name, command in sorted(main.commands.items()):
        if command.hidden:
            continue
        said = cleandoc(command.help or "").replace("\n\n", "\0").replace("\n", " ")
        text = said.replace(". ", ".\n").replace("\0", "\n\n")
        page += f"\n## {name}\n\n{text}\n\n| option | |\n| --- | --- |\n"
        for option in command.params:
            assert isinstance(option, click.Option)
            page += f"| {', '.join(f'`{one}`' for one in option.opts)} | {option.help} |\n"
    return page


def assert_up_to_date(name: str, found: str) -> None:
    made = PROJECT / "build" / name
    made.write_text(found)
    page = f"docs/reference/{name}"
    is_there = (PROJECT / page).exists() and (PROJECT / page).read_text()
    assert is_there == found, f"cp {made.relative_to(PROJECT)} {page}"


def functions_of_users(session: Session) -> dict[str, str | None]:
    """By name what is in schema amqp: what \\df amqp.* shows, with the comments."""
    return dict(
        session.run(
            """SELECT proname::text, obj_description(oid, 'pg_proc') FROM pg_proc
               WHERE pronamespace = 'amqp'::regnamespace"""
        )
    )


def test_schema_amqp_has_no_inner_functions(session: Session) -> None:
    found = functions_of_users(session)
    assert len(found) > 40
    assert [name for name in found if INNER.match(name)] == []
    assert [
        name
        for name, comment in found.items()
        if comment is None or comment.startswith(("Part of ", "Trigger function of "))
    ] == []
    # Without the extension there are fewer, and one that says what there is.
    alone = set(re.findall(r"^CREATE FUNCTION amqp\.(\w+)", "".join(scripts.outbox()), re.M))
    assert alone - set(found) == {"outbox_version"}


def test_every_function_in_schema_amqp_is_on_a_page(session: Session) -> None:
    """Beside the reference, which is made of all of them: somebody has said what it is for."""
    pages = "".join(
        path.read_text() for path in (PROJECT / "docs").rglob("*.md") if path.name != "functions.md"
    )
    assert [
        name
        for name in [*functions_of_users(session), "outbox_version"]
        if not re.search(rf"(amqp\.|`){name}\b", pages)
    ] == []


def test_the_page_of_functions_is_up_to_date(session: Session) -> None:
    assert_up_to_date("functions.md", functions_page(session))


def test_the_list_of_functions_has_a_line_for_each(session: Session) -> None:
    (query,) = blocks(FUNCTIONS_HEAD, "sql")
    lines = session.run(query)
    assert [name for name, _ in lines] == sorted(functions_of_users(session))
    assert [name for name, what in lines if not 10 < len(what) <= 100] == []


def test_the_page_of_tables_is_up_to_date(session: Session) -> None:
    assert_up_to_date("tables.md", tables_page(session))


def test_the_page_of_metrics_is_up_to_date() -> None:
    assert_up_to_date("metrics.md", metrics_page())


def test_the_page_of_the_program_is_up_to_date() -> None:
    assert_up_to_date("pg-amqp.md", program_page())
