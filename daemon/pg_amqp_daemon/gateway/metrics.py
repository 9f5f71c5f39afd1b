"""What the processes of a gateway tell together, through files that all of them can read.

prometheus-client decides when it is loaded whether it keeps its numbers there: the variable
PROMETHEUS_MULTIPROC_DIR must be set by then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from pg_amqp_daemon.gateway.publisher import Publisher
from pg_amqp_daemon.gateway.tally import Tally
from pg_amqp_daemon.runtime.metrics import Metrics

_LOGIN = ["vhost", "user"]
_MODE: Final = "livesum"
_ROOM = 1 << 20
"""Bytes of a file: what prometheus-client takes for it at first."""


class SharedMetrics(Metrics):
    """Of which gauges are those of all processes together."""

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """Declare what goes up and down, and ends with the process."""
        return Gauge(
            name,
            text,
            labels,
            namespace="pg_amqp",
            registry=self.registry,
            multiprocess_mode=_MODE,
        )


class GatewayMetrics:
    """The metrics of the gateway, which take over what a process has counted."""

    def __init__(self, metrics: Metrics) -> None:
        self.requests = metrics.counter("gateway_requests", "Requests, by method.", ["method"])
        self.responses = metrics.counter("gateway_responses", "Answers, by status.", ["status"])
        self.seconds = metrics.counter(
            "gateway_request_seconds", "Seconds that requests were worked on, all in all."
        )
        self.stored = metrics.counter("gateway_stored", "Messages put into amqp.outbox.")
        self.published = metrics.counter(
            "gateway_published", "Messages that RabbitMQ has confirmed.", _LOGIN
        )
        self.opened = metrics.counter(
            "gateway_connections_opened", "Connections to RabbitMQ that were opened.", _LOGIN
        )
        self.closed = metrics.counter(
            "gateway_connections_closed", "Connections to RabbitMQ that have ended.", _LOGIN
        )
        self.connected = metrics.gauge(
            "gateway_connected", "Processes that have a connection to RabbitMQ.", _LOGIN
        )
        self.under_way = metrics.gauge(
            "gateway_under_way", "Messages that RabbitMQ has not answered.", _LOGIN
        )
        self.clients = metrics.gauge("gateway_clients", "Connections of clients.")
        self._told: dict[Any, float] = {}
        """What was taken over of each."""
        self._shown: set[tuple[str, str]] = set()

    def take_over(self, tally: Tally, publishers: Iterable[Publisher], clients: int) -> None:
        """Tell what was counted since the last time, and how things are."""
        for method, count in tally.requests.items():
            self._grow(self.requests, count, method)
        for status, count in tally.responses.items():
            self._grow(self.responses, count, str(status))
        self._grow(self.seconds, tally.seconds)
        self._grow(self.stored, tally.stored)
        for login, counts in tally.logins.items():
            self._grow(self.published, counts.published, *login)
            self._grow(self.opened, counts.opened, *login)
            self._grow(self.closed, counts.closed, *login)
        self.clients.set(clients)
        connected: dict[tuple[str, str], int] = {}
        under_way: dict[tuple[str, str], int] = {}
        for publisher in publishers:
            if publisher.accepted:
                login = publisher.login.vhost, publisher.login.user
                connected[login] = connected.get(login, 0) | publisher.connected
                under_way[login] = under_way.get(login, 0) + publisher.under_way
        for login in self._shown - connected.keys():
            connected[login] = under_way[login] = 0
        self._shown = set(connected)
        for login, number in connected.items():
            self.connected.labels(*login).set(number)
            self.under_way.labels(*login).set(under_way[login])

    def _grow(self, counter: Counter, count: float, *labels: str) -> None:
        more = count - self._told.get((counter, labels), 0)
        if more:
            (counter.labels(*labels) if labels else counter).inc(more)
            self._told[counter, labels] = count


class Together:
    """The numbers of all processes, those included that have ended."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def take_room(self) -> OSError | None:
        """Have room on the disk for this process's numbers; without any, keep them to itself.

        prometheus-client writes to memory that stands for files for which nothing is allocated:
        where the disk is full, that would be the end of the process (SIGBUS).
        """
        paths = [
            Path(self._folder) / f"{kind}_{os.getpid()}.db"
            for kind in ("counter", f"gauge_{_MODE}")
        ]
        # Nobody shall read a file of a process that was killed before it had its room.
        begun = Path(self._folder) / f"{os.getpid()}.begun"
        try:
            for path in paths:
                if path.exists():
                    path.rename(begun)
                with begun.open("ab") as file:
                    os.posix_fallocate(file.fileno(), 0, _ROOM)
                begun.rename(path)
        except OSError as error:
            for path in (begun, *paths):
                path.unlink(missing_ok=True)
            values.ValueClass = values.MutexValue
            return error
        return None

    def page(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry())

    def samples(self) -> list[tuple[str, dict[str, str], float]]:
        """Each with its name and its labels."""
        return [
            (sample.name, sample.labels, sample.value)
            for family in self._registry().collect()
            for sample in family.samples
        ]

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._folder)  # type: ignore[no-untyped-call]
        return registry

    def forget(self, pid: int) -> None:
        """A process has ended: it says no longer how things are."""
        mark_process_dead(pid, self._folder)  # type: ignore[no-untyped-call]
