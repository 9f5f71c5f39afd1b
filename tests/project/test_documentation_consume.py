"""docs/how-to/consume.md: its examples do what it says, and its tables say what the code does."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_daemon.consume import fault
from pg_amqp_py.wire.consume.headers import headers_as_json
from servers.postgres import PostgreSQL
from servers.processes import free_port, wait_for
from servers.relay import PROGRAM, ConsumeProcess, DaemonProcess
from support.examples import blocks, commands, examples, here, psql, statements
from support.fix_servers import VHost
from support.patience import LIMIT
from support.queues import take
from support.sessions import Session, open_session

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/consume.md").read_text()
LAPTOP = "amqp://guest:guest@localhost/"
CLICKS = (5, 7, 12)
"""How many rows there are after each example that publishes to the stream, or rewinds it."""
SETTLED = """
SELECT sum(stored + duplicates + skipped) + (SELECT count(*) FROM amqp.inbox_dead)
FROM amqp.inbox_state WHERE consumer <> 'clicks'
"""


@pytest.fixture(autouse=True)
def _roles(postgres: PostgreSQL, database: str) -> Iterator[None]:
    """Remove the roles of the examples: they belong to all databases."""
    yield
    for role in "amqp_consumer", "amqp_monitor":
        with suppress(psycopg.errors.UndefinedObject):
            with open_session(database) as connection:
                connection.execute(f"DROP OWNED BY {role}".encode())
            with open_session(postgres.dsn()) as connection:
                connection.execute(f"DROP ROLE {role}".encode())


class Reader:
    """Types the examples, and lets the daemon finish what each has published."""

    def __init__(self, session: Session, url: str) -> None:
        self._session = session
        self._url = url
        self._published = 0
        self._clicks = iter(CLICKS)

    def type(self, example: str) -> None:
        assert self._url or LAPTOP not in example
        for statement in statements(example.replace(LAPTOP, self._url)):
            rows = self._session.run(statement)
            if re.search(r"amqp\.(publish|rewind)\(.*'clicks'", statement):
                self.wait_for_clicks(next(self._clicks))
            elif "SELECT amqp.publish(" in statement:
                self._published += len(rows)
                self.wait_until_settled()

    def wait_for_clicks(self, clicks: int) -> None:
        wait_for(
            lambda: rows_of(self._session, "clicks") == clicks, LIMIT, "the rows of the stream"
        )

    def wait_until_settled(self) -> None:
        wait_for(
            lambda: self._session.value(SETTLED) == self._published,
            LIMIT,
            "the daemon to store all that was published",
        )


def rows_of(session: Session, table: str) -> int:
    return int(session.value(f"SELECT count(*) FROM {table}"))


def read(session: Session, broker: VHost) -> Reader:
    """Type the whole page but for what needs no extension; the daemon must run beside it."""
    reader = Reader(session, broker.url())
    for example in examples(DOCUMENT)[1:-1]:
        reader.type(example)
    return reader


def rows(session: Session, table: str) -> list[tuple[object, ...]]:
    return session.run(f"SELECT * FROM {table} ORDER BY 1")


@pytest.fixture
def page(
    database: str, broker: VHost, postgres: PostgreSQL
) -> Iterator[tuple[Session, DaemonProcess]]:
    """A session that has typed the page, and its first daemon."""
    arguments = next(commands(DOCUMENT))
    assert arguments[:2] == ["run", "--dsn"]
    with open_session(database) as session:
        Reader(session, broker.url()).type(examples(DOCUMENT)[0])
        with DaemonProcess(here(arguments[2], postgres, database)) as daemon:
            read(session, broker)
            yield session, daemon


@pytest.mark.slow
def test_the_examples_do_what_the_page_says(
    page: tuple[Session, DaemonProcess], database: str, channel: BlockingChannel
) -> None:
    session, _ = page
    (shown,) = [block for block in blocks(DOCUMENT, "") if block.startswith(" order_id")]
    (example,) = [text for text in examples(DOCUMENT) if "FROM orders_in;" in text]
    printed = psql(database, statements(example)[-1], "--no-psqlrc").splitlines()
    assert [line.rstrip() for line in printed[:3]] == shown.splitlines()

    ((device, celsius, unit, _),) = rows(session, "readings")
    assert (device, celsius, unit) == ("attic", Decimal("31.5"), "C")
    ((consumer, error, attempts),) = session.run(
        "SELECT consumer, error, attempts FROM amqp.inbox_dead"
    )
    assert consumer == "readings"
    assert f"`{error}`" in DOCUMENT
    wait_for(
        lambda: session.value("SELECT attempts FROM amqp.inbox_dead") == 2, LIMIT, "a second try"
    )
    assert attempts in (1, 2)

    assert rows(session, "orders") == [(1, True)]
    assert take(channel, "answers", 1) == ['{"paid": 1}']
    assert session.run("SELECT message_id, convert_from(body, 'UTF8') FROM amqp.inbox") == [
        ("audit-1", "Ada logged in")
    ]
    status = session.run("SELECT consumer, trouble FROM amqp.inbox_status()")
    assert [trouble for _, trouble in status] == [None] * 5


@pytest.mark.slow
def test_what_the_first_example_says_of_copies_and_of_what_is_no_json(
    page: tuple[Session, DaemonProcess],
) -> None:
    session, _ = page
    counts = "SELECT stored, duplicates, dead FROM amqp.inbox_status() WHERE consumer = 'orders'"
    assert session.run(counts) == [(1, 0, 0)]
    session.run(
        "SELECT amqp.publish(1, '', 'placed_orders', '{\"order\": 1}', message_id => 'order-1'),"
        " amqp.publish(1, '', 'placed_orders', 'no JSON'),"
        " amqp.publish(1, '', 'placed_orders', '{\"order\": 2}')"
    )
    wait_for(lambda: session.run(counts) == [(2, 1, 1)], LIMIT, "a row, a copy, a dead message")


@pytest.mark.slow
def test_the_consumer_s_role_can_do_its_work_with_the_privileges_that_are_granted(
    page: tuple[Session, DaemonProcess], database: str, postgres: PostgreSQL
) -> None:
    session, daemon = page
    assert daemon.terminate() == 0
    (arguments,) = (arguments for arguments in commands(DOCUMENT) if arguments[0] == "consume")
    dsn = here(arguments[-1], postgres, database, "amqp_consumer")
    assert "amqp_consumer" in dsn
    stored = "SELECT sum(stored) FROM amqp.inbox_status()"
    before = session.value(stored)
    session.run(
        """SELECT amqp.publish(1, '', 'placed_orders', '{"order": 1}'),
                  amqp.publish(1, '', 'placed_orders', '{"order": 7}'),
                  amqp.publish(1, '', 'readings', '{"celsius": 1}'),
                  amqp.publish(1, '', 'readings', 'dead, too'),
                  amqp.publish(1, '', 'payments', '{"order": 1}', reply_to => 'answers'),
                  amqp.publish(1, '', 'audit', 'x', message_id => 'audit-2'),
                  amqp.publish(1, '', 'clicks', '{"page": "x"}')"""
    )
    with ConsumeProcess(dsn) as consume:
        wait_for(lambda: session.value(stored) == before + 6, LIMIT, "all to be stored")
        wait_for(lambda: rows_of(session, "amqp.inbox_dead") == 2, LIMIT, "the dead")
        assert consume.events("the target does not take anything") == []
        assert rows_of(session, "amqp.outbox") == 1
        session.execute("SET ROLE amqp_monitor")
        status = session.run("SELECT running, trouble FROM amqp.inbox_status()")
        assert all(running and trouble is None for running, trouble in status)


def test_running_it_on_two_hosts(database: str, broker: VHost, postgres: PostgreSQL) -> None:
    (arguments,) = (each for each in commands(DOCUMENT) if "--listen-metrics" in each)
    run, _, dsn, option, address = arguments
    address = address.replace("9810", str(free_port()))
    assert run == "run"
    with (
        open_session(database, broker),
        DaemonProcess(here(dsn, postgres, database), option, address) as daemon,
    ):
        daemon.wait_for_event("working the outbox")
        with urlopen(f"http://{address}/metrics", timeout=LIMIT) as answer:
            assert b"pg_amqp_database_up 1.0" in answer.read()
        with suppress(HTTPError), urlopen(f"http://{address}/health", timeout=LIMIT) as answer:
            assert json.load(answer)["consumers"] == {}


@pytest.mark.server
def test_consuming_without_the_extension(
    postgres: PostgreSQL, broker: VHost, channel: BlockingChannel
) -> None:
    (arguments,) = (arguments for arguments in commands(DOCUMENT) if arguments[0] == "install")
    channel.queue_declare("audit", durable=True)
    channel.basic_publish("", "audit", b"whole")
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE alone")
        dsn = here(arguments[-1], postgres, postgres.dsn("alone"))
        subprocess.run([PROGRAM, *arguments[:-1], dsn], check=True)
        psql(dsn, examples(DOCUMENT)[-1])
        with open_session(dsn) as session:
            session.execute(
                "UPDATE amqp.broker SET host = '127.0.0.1', port = %s, vhost = %s,"
                " username = 'guest', password = 'guest'",
                [broker.rabbitmq.amqp_port, broker.vhost],
            )
            session.execute(
                "INSERT INTO amqp.consumer (name, broker_id, queue) VALUES ('audit', 1, 'audit')"
            )
            with ConsumeProcess(dsn):
                inbox = "SELECT convert_from(body, 'UTF8') FROM amqp.inbox"
                wait_for(lambda: session.run(inbox) == [("whole",)], LIMIT, "the message")
        admin.execute("DROP DATABASE alone WITH (FORCE)")


# ---- Its tables ----


def table(heading: str) -> list[list[str]]:
    """The cells of the table whose head begins so."""
    (found,) = re.findall(rf"^\| {heading} \|.*\n\| ---.*\n((?:\|.*\n)+)", DOCUMENT, re.M)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in found.splitlines()]


def test_every_source_that_is_named_is_one(session: Session) -> None:
    named = [name for row in table("source") for name in re.findall(r"`([^`]+)`", row[0])]
    assert len(named) > 12
    for source in named:
        session.run("SELECT amqp_inner.consumer_source(%s)", source)


def test_the_classes_of_errors_that_are_nobodys_fault_are_these() -> None:
    (said,) = re.findall(r"except those of the classes (.*?) and the code (\d+):", DOCUMENT)
    assert re.findall(r"\d+", said[0]) == sorted(fault._NOT_THE_MESSAGES)
    assert said[1] == fault._READ_ONLY


def test_headers_become_json_as_the_page_says() -> None:
    given = {
        "text": b"S" + struct.pack(">I", 4) + b"text",
        "integers": b"l" + struct.pack(">q", 42),
        "float, double": b"d" + struct.pack(">d", 1.5),
        "double NaN": b"d" + struct.pack(">d", float("nan")),
        "decimal": b"D" + struct.pack(">BI", 2, 1250),
        "boolean": b"t\1",
        "timestamp": b"T" + struct.pack(">Q", 1795719422),
        "bytes": b"x" + struct.pack(">I", 2) + b"\x00\xff",
    }
    rows = table("AMQP")
    for kind, value in given.items():
        (cell,) = [row[1] for row in rows if row[0].startswith(kind)]
        shown = re.findall(r"`([^`]+)`", cell)[0]
        entry = b"\x01k" + value
        text = headers_as_json(struct.pack(">I", len(entry)) + entry).decode()
        assert text == f'{{"k":{shown}}}', kind
