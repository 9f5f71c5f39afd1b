"""What the tests of the outbox's guarantees share: writers, relays, and the final account.

Every message is inserted into the table `committed` beside its publication, in one transaction. So
that table says what had to arrive, also where a writer never learned whether its COMMIT came
through; and what a writer was told to be committed must be in it.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pika
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from servers.processes import Closing, wait_for
from servers.relay import RelayProcess
from support.sessions import Session, open_session

LIMIT = 300.0
"""Seconds that bound what would otherwise hang; nothing comes near it."""

SCHEMA = """
CREATE TABLE committed (body text PRIMARY KEY);

CREATE FUNCTION tell(queue text, body text, key text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO committed VALUES (body);
    SELECT amqp.publish_outbox(1, '', queue, body, delivery_mode => 2, ordering_key => key)
$$;
"""


def stop(relay: RelayProcess) -> None:
    """End a relay in order, which succeeds in bounded time."""
    # Before it says so, the signal just ends it.
    relay.wait_for_event("relay started")
    assert relay.terminate(20) == 0


class Writer:
    """A client that commits random transactions until it is told to end, whatever they meet.

    Every message has a number in its body, ascending for each ordering key.
    """

    def __init__(self, dsn: str, queue: str, name: str, seed: str, pace: float) -> None:
        self.acknowledged: set[str] = set()
        """What it was told to be committed."""
        self.unknown: set[str] = set()
        """What may have been committed."""
        self._dsn = dsn
        self._queue = queue
        self._name = name
        self._random = random.Random(f"{seed} {name}")
        self._pace = pace
        self._number = 0
        self._ending = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin no other transaction."""
        self._ending.set()

    def end(self) -> None:
        """Finish the transaction that is under way, and raise what went wrong."""
        self.stop()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive(), f"writer {self._name} hangs"
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                try:
                    with open_session(make_conninfo(self._dsn, connect_timeout=5)) as session:
                        while not self._ending.wait(self._pace):
                            self._transaction(session)
                except psycopg.OperationalError:
                    # The server is away, or thrown out; the next one may be another.
                    self._ending.wait(0.1)
        except BaseException as error:
            self._error = error

    def _transaction(self, session: Session) -> None:
        bodies: set[str] = set()
        session.execute("BEGIN")
        for _ in range(self._random.randint(1, 4)):
            kept = self._tell(session, self._random.randint(1, 6))
            if self._random.random() < 0.2:
                session.execute("SAVEPOINT s")
                self._tell(session, self._random.randint(1, 6))
                session.execute("ROLLBACK TO s")
            bodies |= kept
        if self._random.random() < 0.1:
            session.execute("ROLLBACK")
            return
        self.unknown |= bodies
        session.execute("COMMIT")
        self.unknown -= bodies
        self.acknowledged |= bodies

    def _tell(self, session: Session, count: int) -> set[str]:
        messages = [self._message() for _ in range(count)]
        bodies, keys = map(list, zip(*messages, strict=True))
        session.execute(
            "SELECT tell(%s, m.body, m.key) FROM unnest(%s::text[], %s::text[])"
            " WITH ORDINALITY AS m (body, key, n) ORDER BY m.n",
            [self._queue, bodies, keys],
        )
        return set(bodies)

    def _message(self) -> tuple[str, str | None]:
        self._number += 1
        key = None
        if self._random.random() < 0.25:
            key = f"{self._name}/{self._random.randint(1, 20)}"
        padding = "x" * self._random.choice([0, 10, 100, 1000])
        return f"{key or self._name} {self._number} {padding}", key


class Copy(NamedTuple):
    """A message as it came out of the queue."""

    message_id: str
    body: str


class Account(NamedTuple):
    """What came of it all."""

    messages: int
    duplicates: int


class Outbox(Closing):
    """A database, a durable queue that its broker 1 leads to, and who writes and delivers.

    `dsn` is what writers and relays connect to; `url` is where the queue is read in the end.
    """

    def __init__(self, dsn: str, url: str, queue: str) -> None:
        self.dsn = dsn
        self.url = url
        self.queue = queue
        self.writers: list[Writer] = []
        #: Of all that is random; printed, and taken from PG_AMQP_PY_SEED if that is set.
        self.seed = os.environ.get("PG_AMQP_PY_SEED") or str(random.randrange(10**9))
        print(f"PG_AMQP_PY_SEED={self.seed}")
        self._relays: list[RelayProcess] = []
        self._ending = ExitStack()
        self._published: set[str] = set()

    def prepare(self, broker: str, *, queue_type: str = "classic") -> None:
        """Create what is needed: `broker` is the URL of the relays' broker."""
        with self.channel() as channel:
            arguments = {"x-queue-type": queue_type}
            channel.queue_declare(self.queue, durable=True, arguments=arguments)
        with self.session() as session:
            session.execute(SCHEMA)
            session.execute("SELECT amqp.add_broker(%s)", [broker])

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel to the broker, past any proxy.

        RabbitMQ itself loses a durable queue now and then when it is killed, and all in it with
        it (seen with 3.10, which then "recovers" one queue less). Nothing here deletes any.
        """
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            yield connection.channel()
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code == 404:
                pytest.skip(f"RabbitMQ has lost its queue in the crash: {error.reply_text}")
            raise
        finally:
            if connection.is_open:
                connection.close()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session in the database, once it can be reached."""

        def connect() -> Session | None:
            try:
                return open_session(make_conninfo(self.dsn, connect_timeout=5))
            except psycopg.OperationalError:
                return None

        session = wait_for(connect, LIMIT, "the database to answer")
        assert session is not None
        with session:
            yield session

    def write(self, writers: int = 3, pace: float = 0.03) -> None:
        """Start writers; `pace` is the pause between two transactions in seconds."""
        for number in range(len(self.writers), len(self.writers) + writers):
            name = f"writer{number}"
            self.writers.append(Writer(self.dsn, self.queue, name, self.seed, pace))

    def publish(self, count: int) -> None:
        """Commit this many messages at once."""
        first = len(self._published)
        bodies = [f"backlog {number} " for number in range(first, first + count)]
        with self.session() as session:
            session.execute(
                "SELECT tell(%s, m.body, NULL) FROM unnest(%s::text[]) AS m (body)",
                [self.queue, bodies],
            )
        self._published.update(bodies)

    def relay(self) -> RelayProcess:
        """Start a relay."""
        relay = self._ending.enter_context(RelayProcess(self.dsn))
        self._relays.append(relay)
        return relay

    def acknowledged(self) -> int:
        """How many messages the writers were told to be committed, so far."""
        return sum(len(writer.acknowledged) for writer in self.writers)

    def await_writing(self, messages: int = 300) -> None:
        """Wait until this many more messages are committed."""
        goal = self.acknowledged() + messages
        wait_for(lambda: self.acknowledged() >= goal, LIMIT, "more to be committed")

    def await_delivery(self, messages: int = 100) -> None:
        """Wait until this many more messages are delivered and reported."""
        query = "SELECT (SELECT count(*) FROM committed) - (SELECT count(*) FROM amqp.outbox)"
        with self.session() as session:
            goal = session.run(query)[0][0] + messages
            wait_for(
                lambda: session.run(query)[0][0] >= goal,
                LIMIT,
                "more to be delivered",
                interval=0.1,
            )

    def deliver_part(self, backlog: int = 4000) -> None:
        """Publish a backlog, and wait until some of it has arrived."""
        before = self.queued()
        self.publish(backlog)
        wait_for(lambda: self.queued() > before + 100, LIMIT, "more to arrive", interval=0.001)

    def is_worked_by(self, relay: RelayProcess) -> bool:
        """Whether this relay holds the lock."""
        with self.session() as session:
            ((name,),) = session.run("SELECT relay FROM amqp.outbox_status()")
            return str(name).startswith(f"pg-amqp relay {relay.pid} ")

    def await_empty(self) -> None:
        """Wait until the outbox is empty."""
        with self.session() as session:
            wait_for(
                lambda: not session.run("SELECT FROM amqp.outbox LIMIT 1"),
                LIMIT,
                "the outbox to become empty",
                interval=0.1,
            )

    def settle(self) -> Account:
        """Let everything be delivered, end it, and check every guarantee."""
        for writer in self.writers:
            writer.end()
        self.await_empty()
        for relay in self._relays:
            if relay.is_running():
                stop(relay)
        with self.session() as session:
            status = session.run(
                "SELECT pending, waiting, oldest_age IS NULL, dead, relay"
                " FROM amqp.outbox_status()",
            )
            assert status == [(0, 0, True, 0, None)]
            committed = {body for (body,) in session.run("SELECT body FROM committed")}
        self._check_writers(committed)
        return check(self.drain(), committed)

    def _check_writers(self, committed: set[str]) -> None:
        acknowledged = self._published.union(*(writer.acknowledged for writer in self.writers))
        unknown = set[str]().union(*(writer.unknown for writer in self.writers))
        assert acknowledged <= committed
        assert committed <= acknowledged | unknown

    def queued(self) -> int:
        """How many messages are in the queue."""
        with self.channel() as channel:
            count: int = channel.queue_declare(self.queue, passive=True).method.message_count
            return count

    def drain(self, queue: str | None = None) -> list[Copy]:
        """Take everything out of the queue (or another one), in order."""
        queue = queue or self.queue
        copies: list[Copy] = []

        def take(_channel: object, _method: object, properties: Any, body: bytes) -> None:
            copies.append(Copy(properties.message_id, body.decode()))

        with self.channel() as channel:
            count = channel.queue_declare(queue, passive=True).method.message_count
            channel.basic_consume(queue, take, auto_ack=True)
            while len(copies) < count:
                channel.connection.process_data_events(time_limit=LIMIT)
        return copies

    def close(self) -> None:
        """End who writes and delivers."""
        for writer in self.writers:
            writer.stop()
        self._ending.close()


def check(copies: list[Copy], committed: set[str]) -> Account:
    """Check what arrived: exactly what is committed, and copies with the same message_id."""
    ids: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for copy in copies:
        if copy.body in ids:
            assert copy.message_id == ids[copy.body]
            continue
        ids[copy.body] = copy.message_id
        key, number, _ = copy.body.split(" ")
        if "/" in key:
            assert int(number) > numbers.get(key, 0), f"{copy.body} came too late"
            numbers[key] = int(number)
    lost, phantoms = committed - ids.keys(), ids.keys() - committed
    assert not lost, f"{len(lost)} messages are lost, such as {sorted(lost)[:5]}"
    assert not phantoms, f"{len(phantoms)} messages are phantoms, such as {sorted(phantoms)[:5]}"
    assert len(set(ids.values())) == len(ids)
    return Account(len(ids), len(copies) - len(ids))
