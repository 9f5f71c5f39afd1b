"""The relay: messages a second against the broker's limit, CPU a message, latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import pika
from pika.adapters.blocking_connection import BlockingChannel

from bench.clock import cpu, in_turn, median, quantile, timed
from bench.finding import Finding, Goal, Table
from bench.lab import Lab
from bench.limit import EXCHANGE, QUEUE, Stream, encoded
from pg_amqp_py.wire.message import Envelope
from servers.processes import wait_for
from servers.relay import RelayProcess

_BODY = b"x" * 100
_PERSISTENT = 2
_PUBLISH = (
    "SELECT count(amqp.publish_outbox(1, 'events', 'bench', %s::bytea, 2))"
    " FROM generate_series(1, %s)"
)
_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pg-amqp relay %'"


class Delivery(NamedTuple):
    """Seconds that messages took; all of them together."""

    elapsed: float
    relay_cpu: float = 0.0
    """In the relay's process."""
    postgres_cpu: float = 0.0
    """In the relay's sessions."""


def measure(lab: Lab) -> Finding:
    """With many messages pending, and with none."""
    count = lab.sizes.relay_messages
    lab.say(f"relay: {count:,} messages pending")
    stream = _stream(count)
    contestants: dict[str, Callable[[], Delivery]] = {
        "limit": lambda: Delivery(lab.limit.publish(stream)),
        "relay": partial(_with_relay, lab, count),
    }
    found: dict[str, list[Delivery]] = in_turn(
        lab.sizes.rounds, {name: _purging(lab, one) for name, one in contestants.items()}
    )
    lab.say("relay: latency")
    return _finding(found, count, _latency(lab))


def deliver(lab: Lab, relay: RelayProcess, channel: BlockingChannel, count: int) -> Delivery:
    """What a relay that runs makes of so many messages, once they are committed.

    Until the queue has all of them and the outbox none: looking at a table with as many dead rows
    all the time would be in the way.
    """
    already = _queued(channel)
    backends = [pid for (pid,) in lab.session.execute(_BACKENDS.encode())]
    with lab.session.transaction():
        lab.session.execute(_PUBLISH.encode(), [_BODY, count])
    start, of_relay, of_postgres = time.perf_counter(), cpu(relay.pid), cpu(*backends)
    wait_for(lambda: _queued(channel) - already >= count, 600, "the messages to be delivered")
    wait_for(lambda: _is_empty(lab), 60, "the outbox to be empty", interval=0.005)
    elapsed = time.perf_counter() - start
    return Delivery(elapsed, cpu(relay.pid) - of_relay, cpu(*backends) - of_postgres)


@contextmanager
def running(lab: Lab) -> Iterator[tuple[RelayProcess, BlockingChannel]]:
    """A relay that is connected to both sides, and a channel to see what arrives."""
    parameters = pika.URLParameters(lab.rabbitmq.url())
    parameters.heartbeat = 0
    with (
        RelayProcess(lab.postgres.dsn()) as relay,
        pika.BlockingConnection(parameters) as connection,
    ):
        channel = connection.channel()
        relay.wait_for_event("working the outbox")
        deliver(lab, relay, channel, 1)
        yield relay, channel


def _with_relay(lab: Lab, count: int) -> Delivery:
    with running(lab) as (relay, channel):
        return deliver(lab, relay, channel, count)


def _purging(lab: Lab, action: Callable[[], Delivery]) -> Callable[[], Delivery]:
    def both() -> Delivery:
        delivery = action()
        lab.session.execute("TRUNCATE amqp.outbox")
        lab.purge()
        return delivery

    return both


def _queued(channel: BlockingChannel) -> int:
    count: int = channel.queue_declare(QUEUE, passive=True).method.message_count
    return count


def _is_empty(lab: Lab) -> bool:
    query = "SELECT NOT EXISTS (SELECT FROM amqp.outbox WHERE broker_id = 1)"
    return lab.session.execute(query.encode()).fetchone() == (True,)


def _stream(count: int) -> Stream:
    """What the relay sends: every message has a message_id of 36 characters."""
    ids = (f"00000000-0000-0000-0000-{number:012}" for number in range(count))
    return encoded(
        (Envelope(EXCHANGE, QUEUE, delivery_mode=_PERSISTENT, message_id=message_id), _BODY)
        for message_id in ids
    )


def _latency(lab: Lab) -> list[float]:
    """Milliseconds from the commit to a consumer, when there is nothing else to do."""
    times = []
    with running(lab) as (_, channel):
        channel.queue_purge(QUEUE)
        deliveries = channel.consume(QUEUE, auto_ack=True)
        for number in range(lab.sizes.latency_messages):
            # Not in step with the relay.
            time.sleep(0.05 + number % 7 * 0.003)
            lab.session.execute(_PUBLISH.encode(), [_BODY, 1])
            times.append(timed(lambda: next(deliveries)) * 1e3)
        channel.cancel()
    return times[1:]


def _finding(found: dict[str, list[Delivery]], count: int, latency: list[float]) -> Finding:
    limit = median(delivery.elapsed for delivery in found["limit"])
    relay = median(delivery.elapsed for delivery in found["relay"])
    of_relay = median(delivery.relay_cpu for delivery in found["relay"]) / count * 1e6
    of_postgres = median(delivery.postgres_cpu for delivery in found["relay"]) / count * 1e6
    rate = Table(
        f"{count:,} persistent messages of 100 B, medians of {len(found['relay'])} rounds",
        ["", "s", "messages a second", "CPU of the relay, µs", "CPU of PostgreSQL, µs"],
        [
            ["the broker's limit", limit, count / limit, None, None],
            ["relay", relay, count / relay, of_relay, of_postgres],
            ["share of the limit", limit / relay, None, None, None],
        ],
    )
    beside = f"{count / limit:,.0f} a second; ours {count / relay:,.0f}"
    elapsed = f"elapsed: {relay / count * 1e6:.0f} µs"
    idle = Table(
        "Nothing else to do: from the commit to a consumer",
        ["messages", "median, ms", "90 %, ms"],
        [[len(latency), median(latency), quantile(latency, 0.9)]],
    )
    goals = [
        Goal("relay: share of the limit", limit / relay, "", 0.85, beside, at_least=True),
        Goal("relay: CPU of its process, a message", of_relay, "µs", 25, elapsed),
        Goal("relay: CPU of PostgreSQL, a message", of_postgres, "µs", 15, elapsed),
    ]
    return Finding([rate, idle], goals=goals)
