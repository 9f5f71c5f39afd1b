"""`make bench`: what the outbox costs, each figure beside its limit from the same run.

The limit of the relay is frames that were encoded beforehand, written to one socket by one thread
while another reads the confirms, against the same broker: no PostgreSQL, no encoding.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
import psycopg

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.connection import connect
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.frames import Ack, FrameReader
from pg_amqp_py.wire.message import Envelope
from servers.postgres import PostgreSQL
from servers.rabbitmq import RabbitMQ

MESSAGES = 200_000
BODY = b"x" * 100
ROUNDS = 3
CLIENTS = (1, 8, 64)
SECONDS = 5

Session = psycopg.Connection[tuple[Any, ...]]


def main() -> None:
    """Start private servers, measure, print a table."""
    settings = {"shared_buffers": "256MB", "max_connections": "200"}
    with (
        PostgreSQL(durable=True, settings=settings) as postgres,
        RabbitMQ() as rabbitmq,
        psycopg.connect(postgres.dsn(), autocommit=True) as session,
    ):
        session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
        session.execute("SELECT amqp.add_broker(%s)", [rabbitmq.url()])
        session.execute("SELECT amqp.exchange_declare(1, 'events', 'topic', false, true)")
        session.execute("SELECT amqp.queue_declare(1, 'bench')")
        session.execute("SELECT amqp.queue_bind(1, 'bench', 'events', 'bench')")
        print(f"PostgreSQL {session.info.server_version // 10000}, {MESSAGES:,} x 100 B")
        bulk(session)
        first_call(postgres, session)
        clients(postgres, session)
        throughput(postgres, rabbitmq, session)
        latency(postgres, rabbitmq, session)


def bulk(session: Session) -> None:
    """Microseconds a row of publish_outbox() in one statement."""
    query = (
        "SELECT count(amqp.publish_outbox(1, 'events', 'bench', %s::bytea, 2))"
        " FROM generate_series(1, 100000)"
    )
    times = []
    for _ in range(ROUNDS * 2 - 1):
        times.append(_timed(lambda: session.execute(query, [BODY])) / 100_000)
        session.execute("TRUNCATE amqp.outbox")
    _show("publish_outbox, 100,000 rows in one statement", f"{_median(times) * 1e6:.1f} us a row")


def first_call(postgres: PostgreSQL, session: Session) -> None:
    """Milliseconds of the first call of a new session, beside SELECT 1."""

    def first(query: str) -> float:
        with psycopg.connect(postgres.dsn(), autocommit=True) as new:
            return _timed(lambda: new.execute(query.encode()))

    queries = {
        "SELECT 1": "SELECT 1",
        "INSERT of one row into a table": "INSERT INTO plain DEFAULT VALUES",
        "publish_outbox": "SELECT amqp.publish_outbox(1, 'events', 'bench', 'x')",
    }
    session.execute("CREATE TABLE plain (id bigserial PRIMARY KEY, at timestamptz DEFAULT now())")
    rounds = [{name: first(query) for name, query in queries.items()} for _ in range(15)]
    for name in queries:
        figure = statistics.median(times[name] for times in rounds)
        _show(f"first statement of a session: {name}", f"{figure * 1e3:.2f} ms")
    session.execute("TRUNCATE amqp.outbox")


def clients(postgres: PostgreSQL, session: Session) -> None:
    """Transactions a second with and without publish_outbox(), for several numbers of clients."""
    session.execute("CREATE TABLE orders (id bigserial PRIMARY KEY, note text)")
    insert = "INSERT INTO orders (note) VALUES ('an order');\n"
    publish = "SELECT amqp.publish_outbox(1, 'events', 'bench', 'an order'::bytea, 2);\n"
    scripts = {
        "without": f"BEGIN;\n{insert}COMMIT;\n",
        "with": f"BEGIN;\n{insert}{publish}COMMIT;\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, script in scripts.items():
            Path(folder, name).write_text(script)
        for number in CLIENTS:
            rates: dict[str, list[float]] = {name: [] for name in scripts}
            for _ in range(ROUNDS):
                for name in scripts:
                    rates[name].append(_pgbench(postgres, Path(folder, name), number))
            shown = ", ".join(f"{name} {_median(rate):.0f}" for name, rate in rates.items())
            share = _median(rates["with"]) / _median(rates["without"])
            _show(f"{number} clients, transactions a second", f"{shown} ({share:.2f})")
    session.execute("TRUNCATE amqp.outbox")


def throughput(postgres: PostgreSQL, rabbitmq: RabbitMQ, session: Session) -> None:
    """Persistent messages a second of the relay, beside the broker's limit, in turn."""
    limits, relays = [], []
    for _ in range(ROUNDS):
        limits.append(MESSAGES / _limit(rabbitmq))
        session.execute("SELECT amqp.queue_purge(1, 'bench')")
        session.execute(
            "SELECT count(amqp.publish_outbox(1, 'events', 'bench', %s::bytea, 2))"
            " FROM generate_series(1, %s)",
            [BODY, MESSAGES],
        )
        with _relay(postgres):
            relays.append(MESSAGES / _time_to_deliver(session))
        session.execute("SELECT amqp.queue_purge(1, 'bench')")
    _show("the broker's limit, persistent", f"{_median(limits):.0f} a second")
    share = _median(relays) / _median(limits)
    _show("relay, persistent", f"{_median(relays):.0f} a second ({share:.2f} of the limit)")


def latency(postgres: PostgreSQL, rabbitmq: RabbitMQ, session: Session) -> None:
    """Milliseconds from the commit to a consumer, when there is nothing else to do."""
    times = []
    with (
        pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as amqp,
        _relay(postgres),
    ):
        deliveries = amqp.channel().consume("bench", auto_ack=True)
        for number in range(101):
            # Not in step with the relay.
            time.sleep(0.05 + number % 7 * 0.003)
            session.execute("SELECT amqp.publish_outbox(1, 'events', 'bench', 'x')")
            times.append(_timed(lambda: next(deliveries)))
    times.pop(0)
    tail = statistics.quantiles(times, n=10)[-1]
    _show("commit to consumer, idle", f"median {_median(times) * 1e3:.1f} ms, p90 {tail * 1e3:.1f}")


def _limit(rabbitmq: RabbitMQ) -> float:
    """Seconds that the broker needs for frames that need nothing but to be sent."""
    encoder, frames = Encoder(), bytearray()
    for number in range(MESSAGES):
        message_id = f"00000000-0000-0000-0000-{number:012}"
        envelope = Envelope("events", "bench", delivery_mode=2, message_id=message_id)
        encoder.append(frames, tuple(envelope), BODY)
    address = Address("127.0.0.1", rabbitmq.amqp_port, "/", "guest", "guest")
    connection = connect(address, "bench", 5, lambda: None)
    stream: socket.socket = connection._transport._stream
    stream.setblocking(True)
    start = time.perf_counter()
    sender = threading.Thread(target=stream.sendall, args=[frames], daemon=True)
    sender.start()
    reader, confirmed = FrameReader(), 0
    while confirmed < MESSAGES:
        for _, answer in reader.feed(stream.recv(1 << 16)):
            assert isinstance(answer, Ack)
            confirmed = max(confirmed + 1, answer.tag) if answer.multiple else confirmed + 1
    duration = time.perf_counter() - start
    sender.join()
    connection.close()
    return duration


def _time_to_deliver(session: Session) -> float:
    """Seconds from the relay's first to its last message."""
    while session.execute("SELECT relay FROM amqp.outbox_status()").fetchone() == (None,):
        time.sleep(0.001)
    start = time.perf_counter()
    while session.execute("SELECT EXISTS (SELECT FROM amqp.outbox)").fetchone() == (True,):
        time.sleep(0.02)
    return time.perf_counter() - start


@contextmanager
def _relay(postgres: PostgreSQL) -> Iterator[None]:
    program = Path(sys.executable).with_name("pg-amqp")
    relay = subprocess.Popen([program, "relay", "--dsn", postgres.dsn()], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        relay.terminate()
        relay.wait()


def _pgbench(postgres: PostgreSQL, script: Path, clients: int) -> float:
    program = [str(postgres.bindir / "pgbench"), "--no-vacuum", "--protocol=prepared"]
    load = [f"--client={clients}", "--jobs=2", f"--time={SECONDS}", f"--file={script}"]
    where = ["-h", str(postgres.folder), "-p", str(postgres.port), "-U", "postgres", "postgres"]
    printed = subprocess.check_output([*program, *load, *where], text=True)
    (line,) = (line for line in printed.splitlines() if line.startswith("tps"))
    return float(line.split()[2])


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _show(what: str, figure: str) -> None:
    print(f"{what:58} {figure}", flush=True)


if __name__ == "__main__":
    main()
