"""What listening guarantees while its servers fail: notifications arrive, or a gap tells of them.

What is random is printed with its seed, which comes from PG_AMQP_PY_SEED if that is set.
`--chaos-seconds` says for how long everything is disturbed at once.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from typing import NamedTuple

import pika
import psycopg
import pytest

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction
from servers.rabbitmq import RabbitMQ
from servers.relay import DaemonProcess
from support.deliveries import seeded
from support.patience import LIMIT
from support.sessions import Session, open_session

SCHEMA = """
CREATE EXTENSION pg_amqp_py CASCADE;
INSERT INTO amqp.listener (channel, broker_id, exchange, on_failure)
VALUES ('stored', 1, 'amq.topic', 'outbox'), ('dropped', 1, 'amq.topic', 'drop');
"""
CHANNELS = ("stored", "dropped")
LONGEST = timedelta(seconds=30)
"""For which nobody listens, whatever has happened."""


class Sent(NamedTuple):
    """A notification that was committed, as far as is known, between two times."""

    before: datetime
    after: datetime


class Sender(threading.Thread):
    """Sends numbered notifications on both channels, over one session after the other."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.sent: dict[int, Sent] = {}
        self.ended = threading.Event()
        self._dsn = dsn
        self._number = 0

    def run(self) -> None:
        """Send until it is ended."""
        while not self.ended.is_set():
            with suppress(psycopg.Error), open_session(self._dsn) as session:
                while not self.ended.is_set():
                    self._send(session)

    def _send(self, session: Session) -> None:
        self._number += 1
        before = session.value("SELECT clock_timestamp()")
        session.execute("BEGIN")
        for channel in CHANNELS:
            session.execute("SELECT pg_notify(%s, %s)", [channel, str(self._number)])
        session.execute("COMMIT")
        self.sent[self._number] = Sent(before, session.value("SELECT clock_timestamp()"))


class Gap(NamedTuple):
    """What a message said of it."""

    since: datetime | None
    until: datetime

    def covers(self, sent: Sent) -> bool:
        """Whether a notification is one of those that may be missing."""
        # Of a gap without a beginning, all know that somebody listened a little before.
        since = self.since or self.until - LONGEST
        return since <= sent.after and sent.before <= self.until


def _received(rabbitmq: RabbitMQ) -> tuple[dict[str, set[int]], dict[str, list[Gap]]]:
    """What has arrived on each channel, and the gaps that were told."""
    numbers: dict[str, set[int]] = {channel: set() for channel in CHANNELS}
    gaps: dict[str, list[Gap]] = {channel: [] for channel in CHANNELS}
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as connection:
        channel = connection.channel()
        while True:
            method, properties, body = channel.basic_get("all", auto_ack=True)
            if method is None:
                return numbers, gaps
            assert properties is not None
            if properties.type != "pg-amqp.gap":
                numbers[method.routing_key].add(int(body))
                continue
            headers = properties.headers
            assert headers is not None
            since = headers.get("gap-from")
            gaps[method.routing_key].append(
                Gap(
                    since and datetime.fromisoformat(since),
                    datetime.fromisoformat(headers["gap-to"]),
                )
            )


@pytest.mark.slow
@pytest.mark.server
def test_each_notification_arrives_or_a_gap_tells_of_it(pytestconfig: pytest.Config) -> None:
    rng: random.Random = seeded()
    with ExitStack() as stack:
        rabbitmq = stack.enter_context(RabbitMQ())
        postgres = stack.enter_context(PostgreSQL(durable=True))
        broker_way = stack.enter_context(CuttingProxy(rabbitmq.amqp_port))
        database_way = stack.enter_context(CuttingProxy(postgres.port))
        with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as connection:
            channel = connection.channel()
            channel.queue_declare("all", durable=True)
            channel.queue_bind("all", "amq.topic", "#")
        rabbitmq.write_down()
        with open_session(postgres.dsn()) as session:
            session.execute(SCHEMA)
            session.execute(
                "INSERT INTO amqp.broker (broker_id, host, port) VALUES (1, '127.0.0.1', %s)",
                [broker_way.port],
            )
        through = f"{postgres.dsn()} host=127.0.0.1 port={database_way.port}"
        daemons = [stack.enter_context(DaemonProcess(through)) for _ in range(2)]
        wait_for(lambda: any(one.events("channels") for one in daemons), LIMIT, "one to listen")
        sender = Sender(postgres.dsn())
        stack.callback(sender.join)
        stack.callback(sender.ended.set)
        sender.start()

        def kill_a_daemon() -> None:
            daemon = rng.choice(daemons)
            daemon.kill()
            daemon.start()

        def kill_postgresql() -> None:
            postgres.kill()
            postgres.start()

        def kill_rabbitmq() -> None:
            rabbitmq.kill()
            rabbitmq.start()

        def cut_the_broker_off() -> None:
            broker_way.cut_after(rng.randint(1, 100_000), rng.choice(list(Direction)[:2]))

        def cut_the_database_off() -> None:
            database_way.cut_after(rng.randint(1, 50_000), rng.choice(list(Direction)[:2]))

        def refuse_the_broker() -> None:
            broker_way.refuse()
            time.sleep(rng.uniform(0, 2))
            broker_way.pass_all()

        def silence_the_database() -> None:
            database_way.stall()
            time.sleep(rng.uniform(0, 5))
            database_way.pass_all()

        def end_a_session() -> None:
            with suppress(psycopg.Error), open_session(postgres.dsn()) as session:
                session.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'pg-amqp listen%' ORDER BY random() LIMIT 1"
                )

        ways = [kill_a_daemon, kill_postgresql, kill_rabbitmq, silence_the_database]
        ways += [cut_the_broker_off, cut_the_database_off, refuse_the_broker, end_a_session] * 4
        done: Counter[str] = Counter()
        end = time.monotonic() + pytestconfig.getoption("chaos_seconds")
        while time.monotonic() < end:
            way = rng.choice(ways)
            way()
            done[way.__name__] += 1
            time.sleep(rng.uniform(0, 1.5))
        broker_way.pass_all()
        database_way.pass_all()
        with open_session(postgres.dsn()) as session:
            listened = "SELECT count(*) = 2 FROM amqp.listener_status() WHERE listener IS NOT NULL"
            wait_for(lambda: session.value(listened), LIMIT, "somebody to listen")
            _wait_for_quiet(session, rabbitmq, sender)
            print(dict(done), session.run("SELECT * FROM amqp.listener_status()"))
        numbers, gaps = _received(rabbitmq)
        print({name: len(found) for name, found in numbers.items()}, len(sender.sent))
        for name in CHANNELS:
            missing = {
                number: sent for number, sent in sender.sent.items() if number not in numbers[name]
            }
            untold = {
                number: sent
                for number, sent in missing.items()
                if not any(gap.covers(sent) for gap in gaps[name])
            }
            assert not untold, (name, gaps[name])


def _wait_for_quiet(session: Session, rabbitmq: RabbitMQ, sender: Sender) -> None:
    """Wait until notifications arrive again on both channels, and nothing is owed any more."""
    sender.ended.set()
    sender.join()
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "amq.topic", "#")
        for name in CHANNELS:

            def arrives(name: str = name) -> bool:
                session.execute("SELECT pg_notify(%s, '0')", [name])
                found = False
                while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
                    assert got[1] is not None
                    found = found or (got[0].routing_key, got[2]) == (name, b"0")
                return found

            wait_for(arrives, LIMIT, f"{name} to arrive", interval=0.2)
    # A gap that is owed is told at one of the next looks.
    status = "SELECT array_agg(gaps ORDER BY channel) FROM amqp.listener_status()"
    known = [session.value(status)]

    def same() -> bool:
        known.append(session.value(status))
        return len(known) > 12 and len(set(map(str, known[-12:]))) == 1

    wait_for(same, LIMIT, "all gaps to be told", interval=0.25)
    empty = "SELECT count(*) = 0 FROM amqp.outbox"
    wait_for(lambda: session.value(empty), LIMIT, "the outbox to be empty")
