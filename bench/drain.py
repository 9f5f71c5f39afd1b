"""`pg-amqp consume` that empties queues: rates, and CPU a message."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pika
from pika.adapters.blocking_connection import BlockingChannel

from bench.clock import cpu, median
from bench.finding import Cell
from bench.lab import Lab
from bench.limit import Stream
from bench.orders import BATCH
from servers.processes import wait_for
from servers.relay import ConsumeProcess

_WORKERS = """
SELECT pid FROM pg_stat_activity
WHERE application_name LIKE 'pg-amqp consume %' AND application_name NOT LIKE '%(rows)'
"""
_STORED = "SELECT stored FROM amqp.inbox_state WHERE consumer = %s"
_CLEAR = "TRUNCATE bench.orders_in, amqp.inbox_seen, amqp.inbox_offset"
_LONG = 1200
OURS = "`pg-amqp consume`"
RECEIVING = "our wire, which takes and acknowledges and does nothing else"


class Drain(NamedTuple):
    """What it took to take so many messages out of a queue, and to store them."""

    messages: int
    elapsed: float
    """Seconds."""
    cpu: float | None
    """Seconds, in the program that consumes, if it is one."""
    postgres_cpu: float | None = None
    """In its sessions."""
    servers_cpu: float | None = None
    """In the broker, and in InfluxDB if that is the target."""


class Figures(NamedTuple):
    """Of several rounds, the medians."""

    rate: float
    """Messages a second."""
    cpu: float | None
    """Microseconds a message."""
    postgres_cpu: float | None
    servers_cpu: float | None

    @property
    def all_cpu(self) -> float:
        """Of all processes."""
        return sum(filter(None, (self.cpu, self.postgres_cpu, self.servers_cpu)))


def figures(rounds: Iterable[Drain]) -> Figures:
    """The medians of these rounds."""
    those = [*rounds]

    def microseconds(spent: Callable[[Drain], float | None]) -> float | None:
        of_each = [used / one.messages for one in those if (used := spent(one)) is not None]
        return median(of_each) * 1e6 if of_each else None

    return Figures(
        median(one.messages / one.elapsed for one in those),
        microseconds(lambda one: one.cpu),
        microseconds(lambda one: one.postgres_cpu),
        microseconds(lambda one: one.servers_cpu),
    )


def of_the_cores(parts: Iterable[Figures]) -> float:
    """Messages a second at which these parts of the work keep all cores busy.

    Where client and servers share the machine nobody can be faster, whatever each part alone can
    do: consuming leaves nothing to PostgreSQL, and the other way round.
    """
    return len(os.sched_getaffinity(0)) * 1e6 / sum(part.all_cpu for part in parts)


def row(
    name: str, found: Figures, limit: float | None = None, cores: float | None = None
) -> list[Cell]:
    """A line of a table whose columns are columns(); `cores` is what of_the_cores() says."""
    shares = [None if most is None else found.rate / most for most in (limit, cores)]
    return [name, found.rate, *shares, found.cpu, found.postgres_cpu, found.servers_cpu]


def columns(things: str, servers: str) -> list[str]:
    """The headings of a table, whose `servers` have CPU beside PostgreSQL."""
    one = f"µs a {things[:-1]}"
    return [
        "",
        f"{things} a second",
        "share of the limit",
        "share of what the cores can do",
        f"CPU of the program, {one}",
        f"CPU of PostgreSQL, {one}",
        f"CPU of {servers}, {one}",
    ]


@contextmanager
def open_channel(lab: Lab) -> Iterator[BlockingChannel]:
    """A channel of pika's."""
    parameters = pika.URLParameters(lab.rabbitmq.url())
    parameters.heartbeat = 0
    with pika.BlockingConnection(parameters) as connection:
        yield connection.channel()


class Desk:
    """Queues, consumers of the same names, and a daemon that works those that are enabled."""

    def __init__(self, lab: Lab, daemon: ConsumeProcess, channel: BlockingChannel) -> None:
        self.lab = lab
        self.daemon = daemon
        self.servers = [lab.rabbitmq.pid]
        """Processes whose CPU counts beside that of PostgreSQL."""
        self._channel = channel

    def add(self, name: str, kind: str = "classic", **columns: object) -> None:
        """Declare a queue, and write the row of its consumer, which is disabled."""
        self.declare(name, kind)
        given = {
            "name": name,
            "broker_id": 1,
            "queue": name,
            "enabled": False,
            "batch_size": BATCH,
            **columns,
        }
        places = ", ".join(["%s"] * len(given))
        self._run(
            f"INSERT INTO amqp.consumer ({', '.join(given)}) VALUES ({places})", *given.values()
        )

    def declare(self, name: str, kind: str = "classic") -> None:
        """Declare a queue."""
        self._channel.queue_declare(name, durable=True, arguments={"x-queue-type": kind})

    def remove(self, *names: str) -> None:
        """Forget consumers, and delete their queues."""
        self._run("DELETE FROM amqp.consumer WHERE name = ANY (%s)", [*names])
        for name in names:
            self._channel.queue_delete(name)

    def clear(self) -> None:
        """Nothing was ever stored."""
        self._run(_CLEAR)

    def filled(self, stream: Stream, action: Callable[[], Drain]) -> Callable[[], Drain]:
        """The action, with these messages in their queue before it, and nothing stored after."""

        def all_three() -> Drain:
            self.lab.limit.publish(stream)
            return self.cleared(action)()

        return all_three

    def cleared(self, action: Callable[[], Drain]) -> Callable[[], Drain]:
        """The action, and nothing is stored after it."""

        def both() -> Drain:
            time.sleep(self.lab.sizes.pause)
            before = cpu(*self.servers)
            done = action()
            done = done._replace(servers_cpu=cpu(*self.servers) - before)
            self.clear()
            return done

        return both

    def drain(self, name: str, count: int) -> Drain:
        """Have so many messages stored.

        From the moment at which the broker has the consumer: that a row is enabled, the daemon
        notices within a second, and that is no part of its rate.
        """
        before = self._stored(name)
        self.enable(name)
        pids = self._sessions()
        of_daemon, of_postgres = cpu(self.daemon.pid), cpu(*pids)
        start = time.perf_counter()
        wait_for(
            lambda: self._stored(name) - before >= count,
            _LONG,
            f"{name}: messages to be stored",
            interval=0.01,
        )
        elapsed = time.perf_counter() - start
        of_daemon, of_postgres = cpu(self.daemon.pid) - of_daemon, cpu(*pids) - of_postgres
        self.disable(name)
        return Drain(count, elapsed, of_daemon, of_postgres)

    def enable(self, name: str) -> None:
        """Have a consumer worked; it is when this returns."""
        before = len(self.daemon.events("consuming"))
        self._run("UPDATE amqp.consumer SET enabled = true WHERE name = %s", name)
        wait_for(
            lambda: len(self.daemon.events("consuming")) > before,
            30,
            f"{name} to consume",
            interval=0.002,
        )

    def disable(self, name: str) -> None:
        """Have a consumer worked no more; it is not when this returns."""
        self._run("UPDATE amqp.consumer SET enabled = false WHERE name = %s", name)
        wait_for(lambda: not self._sessions(), 30, f"{name} to end")

    def _sessions(self) -> list[int]:
        """Of the worker."""
        return [pid for (pid,) in self.lab.session.execute(_WORKERS.encode())]

    def _stored(self, name: str) -> int:
        found = self.lab.session.execute(_STORED.encode(), [name]).fetchone()
        return int(found[0]) if found else 0

    def _run(self, statement: str, *parameters: object) -> None:
        self.lab.session.execute(statement.encode(), parameters)


@contextmanager
def open_desk(lab: Lab) -> Iterator[Desk]:
    """A daemon that runs and has nothing to do yet."""
    with ConsumeProcess(lab.postgres.dsn()) as daemon, open_channel(lab) as channel:
        daemon.wait_for_event("consume started")
        yield Desk(lab, daemon, channel)
