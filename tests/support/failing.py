"""What the failure tests share: a session that keeps its warnings, queues, and hostile peers."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pika
import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import sql

from servers.management import Management
from servers.postgres import PostgreSQL
from servers.rabbitmq import RabbitMQ
from support.fix_servers import Broker

LIMIT = 20.0
"""Seconds that bound what would otherwise hang; nothing comes near it."""


@dataclass(frozen=True)
class Report:
    """What PostgreSQL reported: the fields of an error or of a notice."""

    severity: str
    sqlstate: str
    message: str
    detail: str
    hint: str
    context: str

    @classmethod
    def of(cls, diagnostic: psycopg.errors.Diagnostic) -> Report:
        """Copy the fields: psycopg's own object is valid only while the handler runs."""
        return cls(
            diagnostic.severity_nonlocalized or "",
            diagnostic.sqlstate or "",
            diagnostic.message_primary or "",
            diagnostic.message_detail or "",
            diagnostic.message_hint or "",
            diagnostic.context or "",
        )


class Session:
    """An autocommitting session that keeps every notice."""

    def __init__(self, dsn: str, *, role: str | None = None) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.reports: list[Report] = []
        self.connection.add_notice_handler(lambda d: self.reports.append(Report.of(d)))
        self.pid: int = self.connection.info.backend_pid
        if role is not None:
            self.run(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))

    def run(self, query: str | sql.Composable, *values: object) -> list[tuple[Any, ...]]:
        """Run a query and return its rows."""
        cursor = self.connection.execute(query, values or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []

    def value(self, query: str | sql.Composable, *values: object) -> Any:
        """Run a query and return the one value that it yields."""
        ((value,),) = self.run(query, *values)
        return value

    def error(self, query: str | sql.Composable, *values: object) -> Report:
        """Run a query that must fail, and return how it did."""
        with pytest.raises(psycopg.Error) as raised:
            self.run(query, *values)
        return Report.of(raised.value.diag)

    def warnings(self) -> list[Report]:
        """Return the warnings since the last call."""
        found = [report for report in self.reports if report.severity == "WARNING"]
        self.reports.clear()
        return found

    def add_broker(self, url: str) -> int:
        """Add a broker and return its id."""
        number: int = self.value("SELECT amqp.add_broker(%s)", url)
        return number

    def publish(
        self, broker_id: int, exchange: str, numbers: Sequence[int], routing_key: str = "key"
    ) -> None:
        """Publish these numbers, in this order."""
        self.run(
            "SELECT amqp.publish(%s, %s, %s, n::text) FROM unnest(%s::int[]) AS n",
            broker_id,
            exchange,
            routing_key,
            list(numbers),
        )

    def set(self, **settings: str) -> None:
        """Set settings of the extension for the session."""
        for name, value in settings.items():
            self.run("SELECT set_config(%s, %s, false)", f"amqp.{name}", value)

    def close(self) -> None:
        """End the session."""
        self.connection.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Call:
    """Something that runs in a thread of its own; `result()` waits for it."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self._value: object = None
        self.started = time.monotonic()
        self.seconds = 0.0

        def run() -> None:
            try:
                self._value = function()
            except BaseException as error:
                self._error = error
            self.seconds = time.monotonic() - self.started

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread.is_alive()

    def result(self, limit: float = LIMIT) -> Any:
        """Return its value or raise its error. Fails if it hangs."""
        self._thread.join(limit)
        assert not self.running, f"still running after {limit:g} s"
        if self._error is not None:
            raise self._error
        return self._value


# ---- Databases and virtual hosts that several tests share ----


def shared_fixtures() -> tuple[Any, Any, Any]:
    """The fixtures `database`, `broker` and `session` for a module whose tests share the first two.

    Errors must leave nothing behind, so it is right that they do, and it is faster.
    """

    @pytest.fixture(scope="module")
    def database(request: pytest.FixtureRequest, postgres: PostgreSQL) -> Iterator[str]:
        """A database with the extension."""
        name = f"shared_by_{request.module.__name__.replace('.', '_')}"
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template_amqp")
            yield postgres.dsn(name)
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @pytest.fixture(scope="module")
    def broker(
        request: pytest.FixtureRequest, rabbitmq: RabbitMQ, management: Management
    ) -> Iterator[Broker]:
        """A virtual host."""
        vhost = f"shared_by_{request.module.__name__.replace('.', '_')}"
        management.create_vhost(vhost)
        yield Broker(rabbitmq, vhost)
        management.delete_vhost(vhost)

    @pytest.fixture
    def session(database: str, broker: Broker) -> Iterator[Session]:
        """A session that finds no broker rows and an empty queue events."""
        with open_channel(broker.url()) as channel:
            _, queue = declare(channel)
            channel.queue_purge(queue)
        with Session(database) as session:
            session.run("DELETE FROM amqp.broker")
            yield session

    return database, broker, session


# ---- Queues ----


@contextmanager
def open_channel(url: str) -> Iterator[BlockingChannel]:
    """Open a channel of one's own."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def declare(
    channel: BlockingChannel, exchange: str = "events", queue: str | None = None
) -> tuple[str, str]:
    """Declare a durable topic exchange and a durable queue that gets everything from it."""
    queue = queue or exchange
    channel.exchange_declare(exchange, "topic", durable=True)
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, exchange, "#")
    return exchange, queue


def drain(channel: BlockingChannel, queue: str, expected: int = 0) -> list[str]:
    """Take what is in a queue, once it has held at least `expected` messages."""
    received: list[str] = []
    deadline = time.monotonic() + LIMIT
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is not None:
            received.append(body.decode())
        elif len(received) >= expected:
            return received
        else:
            message = f"only {len(received)} of {expected} messages arrived"
            assert time.monotonic() < deadline, message
            channel.connection.sleep(0.01)


def numbers_in(channel: BlockingChannel, queue: str, expected: int = 0) -> list[int]:
    """Take the numbers that `Session.publish` sent."""
    return [int(body) for body in drain(channel, queue, expected)]


# ---- Peers ----


def assert_works(session: Session, broker_id: int, channel: BlockingChannel, queue: str) -> None:
    """Publish and receive once more, without a word."""
    session.warnings()
    session.run("SELECT amqp.disconnect(%s)", broker_id)
    session.publish(broker_id, queue, [77])
    assert numbers_in(channel, queue, 1) == [77]
    assert session.warnings() == []


class Peer:
    """A TCP server on a loopback port that does to each connection what `behave` does.

    A connection is closed when `behave` returns. `tls` makes it a TLS server first.
    """

    def __init__(
        self, behave: Callable[[socket.socket], None], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._behave = behave
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Its AMQP URL, though it may know nothing of AMQP."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._clients.append(client)
            thread = threading.Thread(target=self._serve, args=[client], daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        # The client may go at any time, and may refuse our certificate.
        with client, suppress(OSError):
            if self._tls is None:
                self._behave(client)
            else:
                with self._tls.wrap_socket(client, server_side=True) as secure:
                    self._clients.append(secure)
                    self._behave(secure)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            # It may be closed already.
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT)


def until_gone(client: socket.socket) -> None:
    """Say nothing until the client goes."""
    while client.recv(1 << 16):
        pass


def saying(words: bytes, *, stay: bool = False) -> Callable[[socket.socket], None]:
    """Return what a peer does that says this, and then hangs up unless it is to stay."""

    def behave(client: socket.socket) -> None:
        client.recv(8)
        client.sendall(words)
        if stay:
            until_gone(client)
        else:
            client.shutdown(socket.SHUT_WR)
            until_gone(client)

    return behave


def flooding(words: bytes, first: bytes = b"") -> Callable[[socket.socket], None]:
    """Return what a peer does that says this without end, whatever it hears."""

    def behave(client: socket.socket) -> None:
        client.recv(8)
        client.sendall(first)
        listener = threading.Thread(target=_ignore, args=[client], daemon=True)
        listener.start()
        many = words * (1 << 16)
        while True:
            client.sendall(many)

    return behave


def _ignore(client: socket.socket) -> None:
    with suppress(OSError):
        until_gone(client)


def forwarding(
    port: int, *, bytes_per_second: float | None = None
) -> Callable[[socket.socket], None]:
    """Return what a peer does that forwards to this loopback port, at most this fast."""

    def behave(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=_pump, args=[server, client, None], daemon=True)
            back.start()
            _pump(client, server, bytes_per_second)
            back.join(LIMIT)

    return behave


def _pump(source: socket.socket, sink: socket.socket, bytes_per_second: float | None) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 14):
            sink.sendall(data)
            if bytes_per_second:
                time.sleep(len(data) / bytes_per_second)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
