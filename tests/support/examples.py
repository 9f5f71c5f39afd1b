"""The examples of a document, and what it takes to run them as a reader would."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from servers.postgres import PostgreSQL, bindir


def all_blocks(document: str) -> list[tuple[str, str]]:
    """All examples of a document, each with its language, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str) -> list[str]:
    """Those in one language."""
    return [text for name, text in all_blocks(document) if name == language]


def examples(document: str) -> list[str]:
    """The SQL examples of a document, in order."""
    return blocks(document, "sql")


def statements(script: str) -> list[str]:
    """The statements of a script in which each ends with a line."""
    found = re.split(r"(?<=;)[ \t]*(?:--[^\n]*)?\n", script)
    return [statement.strip() for statement in found if statement.strip()]


def commands(document: str) -> Iterator[list[str]]:
    """The command lines of a document, each as the arguments of pg-amqp."""
    for block in blocks(document, "sh"):
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "pg-amqp"
            yield arguments


def here(dsn: str, postgres: PostgreSQL, database: str, *users: str) -> str:
    """A connection string of a document, made to lead to this database.

    Of the users that it names, only these are there; any other is the superuser.
    """
    given = conninfo_to_dict(dsn)
    hosts = str(given.get("host", "localhost")).split(",")
    return make_conninfo(
        dsn,
        host=",".join(["127.0.0.1"] * len(hosts)),
        port=",".join([str(postgres.port)] * len(hosts)),
        dbname=conninfo_to_dict(database)["dbname"],
        user=given["user"] if given.get("user") in users else "postgres",
    )


def psql(database: str, script: str, *options: str) -> str:
    """Run a script as a reader would, and return what it prints. Fails at the first error."""
    finished = subprocess.run(
        [
            *(bindir() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"),
            *(options or ("-At",)),
        ],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr
