"""docs/how-to/influxdb.md: its examples, on a real InfluxDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servers.influxdb import InfluxDB
from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.relay import DaemonProcess
from support.examples import all_blocks, commands, examples, here, psql, statements
from support.fix_servers import VHost
from support.patience import LIMIT
from support.sessions import Session, open_session

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/influxdb.md").read_text()
SETTLED = """
SELECT sum(stored + duplicates + skipped) + (SELECT count(*) FROM amqp.inbox_dead)
FROM amqp.inbox_state
"""


@pytest.fixture
def session(database: str, broker: VHost, postgres: PostgreSQL) -> Iterator[Session]:
    """A session with the daemon of the page beside it."""
    ((run, _, dsn),) = commands(DOCUMENT)
    assert run == "run"
    with (
        open_session(database, broker) as session,
        DaemonProcess(here(dsn, postgres, database)),
    ):
        yield session


def wait_until_settled(session: Session, published: int) -> None:
    wait_for(lambda: session.value(SETTLED) == published, LIMIT, "all to be written")


@pytest.mark.slow
def test_the_examples_do_what_the_page_says(
    session: Session, influxdb: InfluxDB, influx_database: str
) -> None:
    published = 0
    answers: list[list[dict[str, Any]]] = []
    for language, text in all_blocks(DOCUMENT)[:-1]:
        if language == "influxql":
            answers.append(influxdb.query(text, influx_database))
        elif language == "sql":
            example = text.replace("http://influx.example:8086", influxdb.url)
            for statement in statements(example.replace("'rabbitmq'", f"'{influx_database}'")):
                rows = session.run(statement)
                if "SELECT amqp.publish(" in statement:
                    published += len(rows)
                    wait_until_settled(session, published)
    (pageview,), (climate,) = answers
    assert pageview.pop("time") % 10**9 != 0
    assert pageview == {"duration": 4.52, "uri": "/example", "user_id": "arthurdent"}
    assert climate == {
        "time": 1397597512500000000,
        "celsius": 31,
        "people": 2,
        "room.floor": 3,
        "room.name": "attic",
        "site": "eu",
    }
    (line,) = influxdb.query("SELECT * FROM disk", influx_database)
    assert line == {"time": 1397597512000000000, "host": "a", "used": 71.5}
    (untyped,) = influxdb.query("SELECT n FROM lines", influx_database)
    assert untyped["n"] == 1
    ((message_id, error),) = session.run("SELECT message_id, error FROM amqp.inbox_dead")
    assert message_id == "view-2"
    assert "field type conflict" in error


def test_the_rows_for_logins_and_for_version_2(database: str) -> None:
    assert psql(database, examples(DOCUMENT)[-1]) == ""
