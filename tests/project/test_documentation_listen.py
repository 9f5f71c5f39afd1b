"""docs/how-to/listen.md: its examples do what it says, and its tables say what the code does."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_daemon.listen import courier, outbox
from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.relay import PROGRAM, DaemonProcess, ListenProcess
from support.examples import blocks, commands, examples, here, statements
from support.fix_servers import VHost
from support.health import Watched
from support.patience import LIMIT
from support.sessions import Session, open_session

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/listen.md").read_text()
LAPTOP = "amqp://guest:guest@localhost/"
ROLES = ("notifier", "amqp_listen")


@pytest.fixture(autouse=True)
def _roles(postgres: PostgreSQL, database: str) -> Iterator[None]:
    """Remove the roles of the examples: they belong to all databases."""
    yield
    for role in ROLES:
        with suppress(psycopg.errors.UndefinedObject):
            with open_session(database) as connection:
                connection.execute(f"DROP OWNED BY {role}".encode())
            with open_session(postgres.dsn()) as connection:
                connection.execute(f"DROP ROLE {role}".encode())


def take(channel: BlockingChannel, queue: str) -> tuple[str | None, bytes]:
    """Type and body of the next message, when there is one."""
    found: list[tuple[str | None, bytes]] = []

    def arrived() -> bool:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is not None:
            assert properties is not None
            found.append((properties.type, body))
        return bool(found)

    wait_for(arrived, LIMIT, f"a message in {queue}")
    return found[0]


def type_all(session: Session, broker: VHost, *texts: str) -> list[list[tuple[object, ...]]]:
    """Type examples as a reader would; the rows of each statement."""
    return [
        session.run(statement)
        for text in texts
        for statement in statements(text.replace(LAPTOP, broker.url()))
    ]


def test_the_first_example(
    database: str, broker: VHost, channel: BlockingChannel, postgres: PostgreSQL
) -> None:
    first, then, row, *_ = examples(DOCUMENT)
    dsn = next(iter(commands(DOCUMENT)))[-1]
    with open_session(database) as session:
        type_all(session, broker, first)
        with DaemonProcess(here(dsn, postgres, database)) as daemon:
            daemon.wait_for_event("channels")
            type_all(session, broker, then)
            found = [take(channel, "heard") for _ in range(3)]
            bodies = sorted(len(body) for _, body in found)
            assert bodies == [0, len("This is a test"), 100_000]
            assert [kind for kind, _ in found].count("pg-amqp.gap") == 1
            channel.exchange_declare("events", "topic", durable=True)
            channel.queue_declare("events")
            channel.queue_bind("events", "events", "orders.orders")
            type_all(session, broker, row)
            daemon.wait_for_event("channels", 2)
            session.execute("NOTIFY orders, '{}'")
            assert take(channel, "events") == ("pg-amqp.gap", b"")
            assert take(channel, "events") == (None, b"{}")


def test_the_roles_may_do_what_the_page_says(
    database: str, broker: VHost, channel: BlockingChannel
) -> None:
    first, _, _, notifier, listens, *_ = examples(DOCUMENT)
    with open_session(database) as session:
        type_all(session, broker, first, notifier, listens)
        with ListenProcess(f"{database} user=amqp_listen") as daemon:
            daemon.wait_for_event("channels")
            session.execute("SET ROLE notifier")
            session.execute("SELECT amqp.notify('test', 'x')")
            session.execute("RESET ROLE")
            session.execute("NOTIFY test, 'heard'")
            assert take(channel, "heard") == ("pg-amqp.gap", b"")
            assert take(channel, "heard") == (None, b"heard")
            channel.exchange_delete("notify")
            session.execute("NOTIFY test, 'stored'")
            stored = "SELECT stored FROM amqp.listener_status()"
            wait_for(lambda: session.value(stored) == 1, LIMIT, "the outbox")


def test_the_move_from_the_listen_exchange(
    database: str, broker: VHost, channel: BlockingChannel
) -> None:
    move = examples(DOCUMENT)[-1]
    channel.queue_declare("q")
    with open_session(database, broker) as session:
        type_all(session, broker, move)
        with ListenProcess(database):
            assert take(channel, "q") == ("pg-amqp.gap", b"")
            session.execute("NOTIFY test, 'moved'")
            assert take(channel, "q") == (None, b"moved")


def test_each_column_of_the_status_is_explained(session: Session) -> None:
    cursor = session.execute("SELECT * FROM amqp.listener_status()")
    assert cursor.description is not None
    section = DOCUMENT.partition("## Watching it")[2].partition("`/metrics`")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == [
        column.name for column in cursor.description
    ]


def test_the_alarms_name_metrics_that_there_are(database: str) -> None:
    (alarms,) = blocks(DOCUMENT, "yaml")
    with WatchedListen(database) as daemon:
        daemon.health(200)
        named = set(re.findall(r"pg_amqp_\w+", alarms))
        assert named
        text = daemon.text()
        for name in named:
            assert re.search(rf"^# TYPE {name.removesuffix('_total')}", text, re.M), name


class WatchedListen(Watched):
    """A daemon that listens and answers."""

    command = "listen"

    def text(self) -> str:
        """All of /metrics."""
        return self._get("metrics")[1]


def test_the_command_lines_are_taken(postgres: PostgreSQL, database: str) -> None:
    for command, *arguments in commands(DOCUMENT):
        assert command in ("run", "listen")
        done = subprocess.run(
            [PROGRAM, command, *arguments, "--help"], capture_output=True, text=True, check=True
        )
        assert "--dsn" in done.stdout


def test_the_figures_are_those_of_the_code() -> None:
    assert f"confirm within {courier._PATIENCE:g} seconds" in DOCUMENT
    assert f"at most {outbox._MOST_HELD:,} notifications" in DOCUMENT
    assert f"or {outbox._MOST_HELD_BYTES >> 20} MB" in DOCUMENT
    assert courier._MOST_HELD == outbox._MOST_HELD
    assert courier._MOST_HELD_BYTES == outbox._MOST_HELD_BYTES
