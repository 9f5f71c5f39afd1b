"""`pg-amqp listen`: notifications a second beside both limits, latency, and what NOTIFY costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import pika
import psycopg
from pika.adapters.blocking_connection import BlockingChannel

from bench.clock import cpu, in_turn, median, quantile, timed
from bench.finding import Cell, Finding, Goal, Table
from bench.lab import Lab
from bench.limit import EXCHANGE, QUEUE, Stream, encoded
from bench.pgbench import Rate, rate
from pg_amqp_py.wire.message import Envelope
from servers.processes import wait_for
from servers.relay import ListenProcess

_SEND = "SELECT count(pg_notify('bench', lpad(n::text, 100, 'x'))) FROM generate_series(1, %s) AS n"
_INSERT = "INSERT INTO bench.noted (note) VALUES ('an order');\n"
_SCRIPTS = {
    "an INSERT": _INSERT,
    "and a NOTIFY": f"BEGIN;\n{_INSERT}NOTIFY bench, 'an order';\nCOMMIT;\n",
    "and `amqp.notify()`": f"BEGIN;\n{_INSERT}SELECT amqp.notify('bench', 'an order');\nCOMMIT;\n",
}
_CLIENTS = 16


class Received(NamedTuple):
    """Seconds that notifications took; all of them together."""

    elapsed: float
    cpu: float
    """Of the process that receives them."""


def measure(lab: Lab) -> Finding:
    """Many at once, one at a time, and from many clients."""
    lab.session.execute(
        "INSERT INTO amqp.listener (channel, broker_id, exchange) VALUES ('bench', 1, %s)",
        [EXCHANGE],
    )
    finding = _rate(lab)
    finding.tables += [_latency(lab), _commits(lab)]
    finding.goals += [
        Goal(
            "NOTIFY to consumer, idle, median",
            float(str(finding.tables[1].rows[0][1])),
            "ms",
            5,
            "a NOTIFY in a transaction of its own",
        )
    ]
    lab.session.execute("DELETE FROM amqp.listener; TRUNCATE amqp.outbox")
    return finding


def _rate(lab: Lab) -> Finding:
    count = lab.sizes.listen_notifications
    lab.say(f"listen: {count:,} notifications in a transaction")
    stream = _stream(count)
    with _listening(lab) as (daemon, channel):
        contestants: dict[str, Callable[[], Received]] = {
            "limit: the same messages, encoded beforehand, confirmed by the broker": (
                lambda: Received(lab.limit.publish(stream), 0.0)
            ),
            "limit: psycopg's `notifies()`, which does nothing with them": partial(
                _bare, lab, count
            ),
            "`pg-amqp listen`, until all are in the queue": partial(
                _listen, lab, daemon, channel, count
            ),
        }
        found = in_turn(
            lab.sizes.rounds, {name: _purging(lab, one) for name, one in contestants.items()}
        )
    elapsed = {name: median(one.elapsed for one in each) for name, each in found.items()}
    *limits, ours = elapsed.values()
    share = max(limits) / ours
    rows: list[list[Cell]] = [
        [name, count / elapsed[name], elapsed[name], median(one.cpu for one in each) / count * 1e6]
        for name, each in found.items()
    ]
    rows[0][3] = None
    rows.append(["share of the smaller limit", share, None, None])
    caption = f"{count:,} notifications of 100 B, medians of {lab.sizes.rounds} rounds"
    columns = ["", "a second", "s", "CPU of the program, µs"]
    beside = f"{count / max(limits):,.0f} a second; ours {count / ours:,.0f}"
    return Finding(
        [Table(caption, columns, rows)],
        goals=[Goal("listen: share of the smaller limit", share, "", 0.8, beside, at_least=True)],
    )


def _stream(count: int) -> Stream:
    """What the listener publishes for these notifications."""
    headers = {
        "pgsql-channel": "bench",
        "pgsql-server": "localhost:5432",
        "postgres-channel": "bench",
        "postgres-dbname": "postgres",
        "postgres-server": "localhost:5432",
        "source-exchange": EXCHANGE,
    }
    envelope = Envelope(
        EXCHANGE,
        QUEUE,
        delivery_mode=2,
        headers=json.dumps(headers),
        timestamp=int(time.time()),
        app_id="pgsql-listen-exchange",
    )
    return encoded(
        (
            envelope._replace(message_id=f"00000000-0000-0000-0000-{number:012}"),
            str(number).rjust(100, "x").encode(),
        )
        for number in range(count)
    )


def _bare(lab: Lab, count: int) -> Received:
    """As many notifications, received and forgotten."""
    with psycopg.connect(lab.postgres.dsn(), autocommit=True) as listening:
        listening.execute("LISTEN bench")

        def receive() -> None:
            lab.session.execute(_SEND, [count])
            for _ in listening.notifies(stop_after=count):
                pass

        used = time.process_time()
        elapsed = timed(receive)
        return Received(elapsed, time.process_time() - used)


def _listen(lab: Lab, daemon: ListenProcess, channel: BlockingChannel, count: int) -> Received:
    used = cpu(daemon.pid)

    def arrive() -> None:
        lab.session.execute(_SEND, [count])
        wait_for(lambda: _queued(channel) >= count, 600, "the notifications", interval=0.005)

    elapsed = timed(arrive)
    return Received(elapsed, cpu(daemon.pid) - used)


def _queued(channel: BlockingChannel) -> int:
    count: int = channel.queue_declare(QUEUE, passive=True).method.message_count
    return count


def _purging(lab: Lab, action: Callable[[], Received]) -> Callable[[], Received]:
    def both() -> Received:
        received = action()
        lab.purge()
        return received

    return both


@contextmanager
def _listening(lab: Lab) -> Iterator[tuple[ListenProcess, BlockingChannel]]:
    """A daemon that listens, has told of its gap, and a channel to see what arrives."""
    parameters = pika.URLParameters(lab.rabbitmq.url())
    parameters.heartbeat = 0
    with (
        ListenProcess(lab.postgres.dsn()) as daemon,
        pika.BlockingConnection(parameters) as connection,
    ):
        channel = connection.channel()
        wait_for(lambda: _queued(channel), 60, "the gap")
        lab.purge()
        yield daemon, channel


def _latency(lab: Lab) -> Table:
    lab.say("listen: latency")
    times = []
    with _listening(lab) as (_, channel):
        deliveries = channel.consume(QUEUE, auto_ack=True)
        for number in range(lab.sizes.latency_messages):
            # Not in step with the daemon.
            time.sleep(0.02 + number % 7 * 0.003)
            body = str(number).encode()
            lab.session.execute("SELECT pg_notify('bench', %s)", [body.decode()])
            start = time.perf_counter()
            # Behind the gap, perhaps.
            while next(deliveries)[2] != body:
                pass
            times.append((time.perf_counter() - start) * 1e3)
        channel.cancel()
    times = times[1:]
    return Table(
        "Nothing else to do: from the commit to a consumer",
        ["notifications", "median, ms", "90 %, ms"],
        [[len(times), median(times), quantile(times, 0.9)]],
    )


def _commits(lab: Lab) -> Table:
    lab.say(f"listen: {_CLIENTS} clients")
    lab.session.execute("CREATE TABLE bench.noted (id bigserial PRIMARY KEY, note text)")
    contestants: dict[str, Callable[[], Rate]] = {
        name: partial(rate, lab, script, _CLIENTS) for name, script in _SCRIPTS.items()
    }
    found = in_turn(lab.sizes.clients_rounds, contestants)
    lab.session.execute("DROP TABLE bench.noted")
    alone = median(one.tps for one in found["an INSERT"])
    rows: list[list[Cell]] = [
        [
            name,
            median(one.tps for one in each),
            median(one.tps for one in each) / alone,
            median(one.cpu for one in each) * 1e6,
        ]
        for name, each in found.items()
    ]
    return Table(
        f"{_CLIENTS} clients, nobody listens, medians of {lab.sizes.clients_rounds} rounds",
        ["a transaction", "a second", "beside the first", "CPU of its backend, µs"],
        rows,
    )
