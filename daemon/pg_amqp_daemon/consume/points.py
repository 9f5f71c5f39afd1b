"""Stores batches in an InfluxDB: each message is a point.

A point that is written again is the same point, so no ledger is needed: what is not known to be
written is written again. Messages at fault are set aside as those of other targets are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

import psycopg

from pg_amqp_daemon.consume.ahead import Ahead, Upcoming
from pg_amqp_daemon.consume.batch import Batch
from pg_amqp_daemon.consume.fault import Fault, malformed
from pg_amqp_daemon.consume.inbox import Inbox
from pg_amqp_daemon.consume.influxdb import client, message
from pg_amqp_daemon.consume.influxdb.line import LineWriter
from pg_amqp_daemon.consume.plan import Plan
from pg_amqp_daemon.consume.store import Stored
from pg_amqp_daemon.runtime.database import Database
from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.consume.headers import decode_headers
from pg_amqp_py.wire.consume.properties import Properties, split_properties
from pg_amqp_py.wire.errors import MalformedError

_OTHER_CONTENT = "22023"
_PROOF = 0.5
"""Seconds between proofs to the database that there still is somebody."""


class Invalid(Exception):  # noqa: N818 - says how a row is
    """The row of the consumer, or of its InfluxDB, cannot work."""


class _Texts(Mapping[str, object]):
    """Properties by name, decoded when they are asked for: most points need two of them."""

    def __init__(self, properties: Properties) -> None:
        self._properties = properties

    def get(self, name: str, default: Any = None) -> Any:
        value = getattr(self._properties, name, None)
        if type(value) is bytes:
            return value.decode(errors="surrogateescape")
        return default if value is None else value

    def __getitem__(self, name: str) -> object:
        return self.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(Properties._fields)

    def __len__(self) -> int:
        return len(Properties._fields)


class _Sorted(NamedTuple):
    """What messages of a batch are."""

    lines: list[bytes]
    places: list[int]
    """Of each line, which message it is."""
    faults: dict[int, Fault]
    skipped: int

    def __add__(self, other: object) -> _Sorted:
        """These and those behind them."""
        assert isinstance(other, _Sorted)
        return _Sorted(
            self.lines + other.lines,
            self.places + other.places,
            self.faults | other.faults,
            self.skipped + other.skipped,
        )


class PointStore:
    """Of one consumer. Raises Unavailable where no message is at fault, and psycopg.Error."""

    def __init__(self, database: Database, inbox: Inbox, upcoming: Upcoming) -> None:
        self._database = database
        self._inbox = inbox
        self._ahead: Ahead[_Sorted] = Ahead(upcoming)
        self._plan: Plan | None = None
        self._writer: LineWriter | None = None
        self._client: client.InfluxDB | None = None

    def probe(self, plan: Plan) -> None:
        """Have InfluxDB say whether it takes anything. Raises Invalid, too."""
        if plan is not self._plan:
            self._prepare(plan)
        assert self._client is not None
        self._wait_for(self._client.check)

    def store(self, plan: Plan, batch: Batch, rewinds: int | None) -> Stored:
        """Write a batch, and note in the database what became of it."""
        assert self._client is not None
        writer = self._writer
        made, rest = self._ahead.take(writer, batch)
        found = self._sort(plan, rest, len(batch.deliveries) - len(rest.deliveries))
        if made is not None:
            found = made + found
        refused = self._wait_for(
            partial(self._client.write, found.lines),
            lambda: self._ahead.make(writer, plan.batch_size, partial(self._sort, plan)),
        )
        for at, fault in refused:
            found.faults[found.places[at]] = Fault(fault.sqlstate, str(fault))
        written = len(found.lines) - len(refused)
        with self._inbox.transaction():
            dead = self._set_aside(plan, batch, found.faults)
            if batch.dead is not None:
                self._inbox.revive(
                    [number for at, number in enumerate(batch.dead) if at not in found.faults]
                )
            copies = len(found.faults) - len(dead) if batch.dead is None else 0
            self._inbox.count(written, copies, found.skipped, 0, batch.id)
            if rewinds is not None:
                self._inbox.advance(plan.queue, batch, rewinds)
        return Stored(written, copies, found.skipped, sqlstates=tuple(dead))

    def _prepare(self, plan: Plan) -> None:
        row, server = plan.row, plan.influxdb
        if server is None:
            raise Invalid(f'there is no row "{row["influxdb"]}" in amqp.influxdb')
        try:
            self._writer = LineWriter(
                row["measurement"],
                row["tags"] or (),
                row["fields"],
                row["time"],
                row["content_types"] or ("application/json",),
            )
            if self._client is not None:
                self._client.close()
            known = {field.name for field in fields(client.Row)}
            self._client = client.InfluxDB(
                client.Row(**{name: value for name, value in server.items() if name in known})
            )
        except ValueError as error:
            raise Invalid(str(error)) from None
        self._plan = plan

    def _wait_for(
        self, ask: Callable[[], Any], meanwhile: Callable[[], None] = lambda: None
    ) -> Any:
        """The result of a request, while which `meanwhile` is called.

        It may take longer than the database lets a session be silent, so it is proved to the
        database that there is somebody. In a thread that does not keep the program from ending.
        """
        result: Future[Any] = Future()

        def work() -> None:
            try:
                result.set_result(ask())
            except Exception as error:
                result.set_exception(error)

        threading.Thread(target=work, name="influxdb", daemon=True).start()
        meanwhile()
        while True:
            try:
                return result.result(_PROOF)
            except TimeoutError:
                if result.done():
                    raise
                try:
                    self._database.prove()
                except psycopg.Error:
                    # The request goes on, on a connection that is used for nothing else.
                    self._plan = self._client = None
                    raise

    def _sort(self, plan: Plan, batch: Batch, first: int = 0) -> _Sorted:
        """Make lines of messages, as far as they are any; these are numbered from `first` on."""
        assert self._writer is not None
        line, queue = self._writer.line, plan.queue
        lines: list[bytes] = []
        places: list[int] = []
        faults: dict[int, Fault] = {}
        for at, (delivery, received) in enumerate(
            zip(batch.deliveries, batch.received, strict=True), first
        ):
            try:
                made = line(_source(delivery, queue, received))
            except message.Fault as error:
                faults[at] = Fault(error.sqlstate, str(error))
            except MalformedError as error:
                faults[at] = malformed(error)
            else:
                if made is not None:
                    lines.append(made)
                    places.append(at)
                elif plan.row["other_content"] == "dead":
                    faults[at] = Fault(_OTHER_CONTENT, "the content type is not asked for")
        return _Sorted(lines, places, faults, len(batch.deliveries) - len(lines) - len(faults))

    def _set_aside(self, plan: Plan, batch: Batch, faults: Mapping[int, Fault]) -> list[str]:
        """In a transaction: keep the messages at fault, but for copies; their SQLSTATEs."""
        dead: list[str] = []
        for at, fault in sorted(faults.items()):
            if batch.dead is not None:
                self._inbox.set_aside_again(batch.dead[at], fault)
            elif self._inbox.is_new(batch.deliveries[at]):
                self._inbox.set_aside(plan, batch.deliveries[at], batch.received[at], fault)
                dead.append(fault.sqlstate)
        return dead


def _source(delivery: Delivery, queue: str, received: float) -> message.Source:
    properties = split_properties(delivery.properties)
    return message.Source(
        delivery.exchange.decode(errors="surrogateescape"),
        delivery.routing_key.decode(errors="surrogateescape"),
        queue,
        _Texts(properties),
        partial(_headers, properties.headers),
        delivery.body,
        received,
    )


def _headers(raw: bytes | None) -> Mapping[str, Any]:
    return {} if raw is None else decode_headers(raw)
