"""`pg-amqp tail`: shows what comes, and takes nothing away that it was not told to."""

from __future__ import annotations

import base64
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.management import Management
from servers.processes import wait_for
from support.consuming import CLASSIC, QUORUM, STREAM
from support.fix_servers import VHost
from support.patience import LIMIT
from support.queues import count, declare, open_channel, take
from support.sessions import Session

PROGRAM = Path(sys.executable).with_name("pg-amqp")


@contextmanager
def tailing(
    *arguments: str, output: int = subprocess.PIPE, errors: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [PROGRAM, "tail", *arguments], stdout=output, stderr=errors, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class BoundTo:
    """Knows whether tail looks at an exchange."""

    def __init__(self, management: Management, vhost: str) -> None:
        self._management, self._vhost = management, vhost

    def queues(self, exchange: str) -> list[str]:
        bindings = self._management.request(
            "GET", "exchanges", self._vhost, exchange, "bindings", "source"
        )
        names = [binding["destination"] for binding in bindings]
        return [name for name in names if name.startswith("pg-amqp.tail.")]

    def wait(self, exchange: str, keys: int = 1) -> None:
        wait_for(lambda: len(self.queues(exchange)) == keys, LIMIT, "its queue to be bound")

    def wait_for_none(self, exchange: str) -> None:
        wait_for(lambda: not self.queues(exchange), LIMIT, "its queue to be deleted")


@pytest.fixture
def bound(management: Management, broker: VHost) -> BoundTo:
    return BoundTo(management, broker.vhost)


class Terminal:
    """Keeps what is written to it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._shown = bytearray()
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def _keep(self) -> None:
        # Linux says EIO when the last that can write has gone.
        with suppress(OSError):
            while data := os.read(self._descriptor, 1 << 16):
                self._shown += data
        os.close(self._descriptor)

    def read(self) -> str:
        """All, when nobody can write any more."""
        self._thread.join(LIMIT)
        return self._shown.decode()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().rstrip("\n")


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=LIMIT)
    return process.returncode, said


def test_an_exchange_is_looked_at_without_taking_anything(
    broker: VHost, channel: BlockingChannel, bound: BoundTo
) -> None:
    declare(channel, "events", "others")
    with tailing("--broker", broker.url(), "--exchange", "events", "--json") as tail:
        bound.wait("events")
        given = pika.BasicProperties(
            content_type="text/plain", headers={"rows": 3, "late": False}, priority=5
        )
        channel.basic_publish("events", "orders.created", "grüße".encode(), given)
        channel.basic_publish("events", "raw", b"\xff\x00")
        assert json.loads(line(tail)) == {
            "exchange": "events",
            "routing_key": "orders.created",
            "redelivered": False,
            "properties": {
                "content_type": "text/plain",
                "headers": {"rows": 3, "late": False},
                "priority": 5,
            },
            "body": "grüße",
        }
        second = json.loads(line(tail))
        assert base64.b64decode(second["body_base64"]) == b"\xff\x00"
        assert "body" not in second
        assert count(channel, "others") == 2
        tail.send_signal(signal.SIGINT)
        assert end(tail) == (0, "")
    bound.wait_for_none("events")


def test_only_the_keys_that_were_asked_for_are_shown(
    broker: VHost, channel: BlockingChannel, bound: BoundTo
) -> None:
    declare(channel, "events")
    keys = ("--key", "orders.#", "--key", "stock")
    with tailing(
        "--broker", broker.url(), "--exchange", "events", *keys, "--json", "--count", "2"
    ) as tail:
        bound.wait("events", 2)
        for key in ("other", "orders.created", "stock.low", "stock"):
            channel.basic_publish("events", key, b"")
        assert [json.loads(line(tail))["routing_key"] for _ in range(2)] == [
            "orders.created",
            "stock",
        ]
        assert end(tail) == (0, "")


@pytest.mark.parametrize("colours", [True, False])
def test_people_see_lines_and_colours_and_nothing_that_moves_their_terminal(
    broker: VHost,
    channel: BlockingChannel,
    bound: BoundTo,
    monkeypatch: pytest.MonkeyPatch,
    colours: bool,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colours:
        monkeypatch.setenv("NO_COLOR", "1")
    declare(channel, "events")
    ours, theirs = pty.openpty()
    terminal = Terminal(ours)
    try:
        arguments = ("--broker", broker.url(), "--exchange", "events", "--count", "1")
        with tailing(*arguments, output=theirs) as tail:
            bound.wait("events")
            given = pika.BasicProperties(app_id="\x1b[31m")
            channel.basic_publish("events", "a\x9b", b"one\n\x1b]0;title\x07two" * 500, given)
            assert end(tail) == (0, "")
    finally:
        os.close(theirs)
    shown = terminal.read().replace("\r\n", "\n")
    assert ("\x1b[1mevents / a\\x9b\x1b[0m" in shown) == colours
    assert ("\x1b" in shown) == colours
    assert "\\x1b[31m" in shown
    assert "  one\n  \\x1b]0;title\\x07twoone\n" in shown
    assert shown.endswith(" ... (8,500 characters)\n")


def test_on_a_terminal_it_says_when_it_is_ready(broker: VHost, channel: BlockingChannel) -> None:
    declare(channel, "events")
    ours, theirs = pty.openpty()
    with (
        os.fdopen(ours) as shown,
        tailing("--broker", broker.url(), "--exchange", "events", errors=theirs) as tail,
    ):
        os.close(theirs)
        assert shown.readline() == "What comes from now on is shown. Ctrl-C ends.\n"
        channel.basic_publish("events", "a", b"at once")
        assert line(tail).endswith("events / a")


@pytest.mark.parametrize("kind", [CLASSIC, QUORUM])
def test_a_queue_is_left_alone_unless_one_says_take(
    broker: VHost, channel: BlockingChannel, kind: str
) -> None:
    channel.queue_declare("orders", durable=True, arguments={"x-queue-type": kind})
    channel.confirm_delivery()
    for number in range(5):
        channel.basic_publish("", "orders", str(number).encode())
    with tailing("--broker", broker.url(), "--queue", "orders") as tail:
        status, said = end(tail)
    assert status == 1
    assert 'queue "orders" is not a stream' in said
    assert "--take" in said
    arguments = ("--broker", broker.url(), "--queue", "orders", "--take", "--json", "--count", "2")
    with tailing(*arguments) as tail:
        assert [json.loads(line(tail))["body"] for _ in range(2)] == ["0", "1"]
        assert end(tail) == (0, "")
    with tailing("--broker", broker.url(), "--queue", "orders", "--take", "--json") as tail:
        # No more was sent than was to be shown: else it would come as redelivered.
        assert [json.loads(line(tail))["redelivered"] for _ in range(3)] == [False] * 3
        tail.send_signal(signal.SIGTERM)
        assert end(tail) == (0, "")
    assert take(channel, "orders") == []


def test_no_more_than_count_are_taken_where_there_are_many(
    broker: VHost, channel: BlockingChannel
) -> None:
    channel.queue_declare("orders", durable=True)
    channel.confirm_delivery()
    for number in range(400):
        channel.basic_publish("", "orders", str(number).encode())
    arguments = ("--broker", broker.url(), "--queue", "orders", "--take", "--json")
    with tailing(*arguments, "--count", "250") as tail:
        assert [json.loads(line(tail))["body"] for _ in range(250)] == [*map(str, range(250))]
        assert end(tail) == (0, "")
    wait_for(lambda: count(channel, "orders") == 150, LIMIT, "the rest")
    method, _, body = channel.basic_get("orders", auto_ack=True)
    assert (method and method.redelivered, body) == (False, b"250")


def test_a_stream_is_read_from_where_one_says(broker: VHost, channel: BlockingChannel) -> None:
    channel.queue_declare("audit", durable=True, arguments={"x-queue-type": STREAM})
    channel.confirm_delivery()
    for number in range(5):
        channel.basic_publish("", "audit", str(number).encode())
    for _ in range(2):
        arguments = ("--broker", broker.url(), "--queue", "audit", "--json", "--count", "3")
        with tailing(*arguments, "--from", "2") as tail:
            assert [json.loads(line(tail))["body"] for _ in range(3)] == ["2", "3", "4"]
            assert end(tail) == (0, "")


def test_it_ends_when_nobody_reads_any_more(
    broker: VHost, channel: BlockingChannel, bound: BoundTo
) -> None:
    declare(channel, "events")
    with tailing("--broker", broker.url(), "--exchange", "events") as tail:
        bound.wait("events")
        assert tail.stdout
        tail.stdout.close()
        # Nothing is published: it has to look by itself.
        assert tail.wait(LIMIT) == 1
        assert tail.stderr
        assert tail.stderr.read() == ""
    bound.wait_for_none("events")


def test_it_says_that_the_connection_was_lost(broker: VHost, bound: BoundTo) -> None:
    with open_channel(broker.url()) as channel:
        declare(channel, "events")
    with tailing("--broker", broker.url(), "--exchange", "events") as tail:
        bound.wait("events")
        broker.rabbitmq.rabbitmqctl("close_all_connections", "--vhost", broker.vhost, "over now")
        status, said = end(tail)
    assert status == 1
    assert said.startswith("Error: the connection was lost: ")
    assert "over now" in said


def test_a_broker_of_the_database_is_found(
    database: str, session: Session, broker: VHost, channel: BlockingChannel, bound: BoundTo
) -> None:
    session.run("SELECT amqp.add_broker(%s)", broker.url())
    declare(channel, "events")
    with tailing("--dsn", database, "--exchange", "events", "--count", "1") as tail:
        bound.wait("events")
        session.run("SELECT amqp.publish(1, 'events', 'key', 'hello')")
        assert line(tail).endswith(" events / key")
        assert line(tail) == "  hello"
        assert end(tail) == (0, "")
    with tailing("--dsn", database, "--broker-id", "7", "--exchange", "events") as tail:
        assert end(tail) == (1, "Error: broker 7 has no row in amqp.broker\n")


def test_what_cannot_be_looked_at_is_said_in_a_line(
    broker: VHost, channel: BlockingChannel
) -> None:
    declare(channel, "events", "orders")
    cases: tuple[tuple[tuple[str, ...], int, str], ...] = (
        (("--exchange", "nowhere"), 1, "NOT_FOUND - no exchange 'nowhere'"),
        (("--queue", "nowhere"), 1, "NOT_FOUND - no queue 'nowhere'"),
        (("--exchange", "x" * 256), 2, "longer than 255 bytes"),
        (("--exchange", "e", "--queue", "q"), 2, "say --exchange or --queue"),
        (("--exchange", ""), 2, "the default exchange"),
        (("--exchange", "e", "--take"), 2, "go with --queue"),
        (("--queue", "q", "--key", "k"), 2, "--key goes with --exchange"),
        (("--queue", "q", "--from", "second"), 2, "not first, last, next, or a number"),
    )
    for arguments, status, words in cases:
        with tailing("--broker", broker.url(), *arguments) as tail:
            found, said = end(tail)
        assert (found, words in said) == (status, True), said
        assert "Traceback" not in said
    with tailing("--broker", "amqp://guest:secret@127.0.0.1:1/", "--exchange", "e") as tail:
        status, said = end(tail)
    assert status == 1
    assert "could not connect to 127.0.0.1:1" in said
    assert "secret" not in said
    with tailing("--broker", broker.url(), "--queue", "orders", "--take") as tail:
        channel.basic_publish("", "orders", b"it consumes")
        line(tail)
        channel.queue_delete("orders")
        assert end(tail) == (1, "Error: the queue is gone: RabbitMQ has ended the consumer\n")
