"""`pg-amqp consume` into InfluxDB, beside lines that are written as they are, and its client."""

from __future__ import annotations

import http.client
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from influxdb_client import InfluxDBClient, Point
from influxdb_client.client.write_api import SYNCHRONOUS

from bench import by_hand
from bench.clock import in_turn
from bench.drain import (
    OURS,
    RECEIVING,
    Desk,
    Drain,
    columns,
    figures,
    of_the_cores,
    open_channel,
    row,
)
from bench.finding import Table
from bench.orders import BATCH, MOMENT, Order, in_batches, stream_of
from servers.influxdb import InfluxDB

_DATABASE = "bench"
_ROW = "INSERT INTO amqp.influxdb (name, url, database) VALUES ('bench', %s, %s)"


def measure_points(desk: Desk, those: Sequence[Order]) -> list[Table]:
    """Nothing, where there is no InfluxDB."""
    if shutil.which("influxd") is None:
        return []
    with InfluxDB() as server:
        desk.servers.append(server.pid)
        try:
            return [_measure(desk, server, those)]
        finally:
            desk.servers.remove(server.pid)


def _measure(desk: Desk, server: InfluxDB, those: Sequence[Order]) -> Table:
    lab, count = desk.lab, len(those)
    lab.say(f"consume: {count:,} messages into InfluxDB")
    lab.session.execute(_ROW.encode(), [server.url, _DATABASE])
    desk.add("points", influxdb="bench", measurement="{routing_key}", tags=["customer"])
    desk.declare("by-hand")
    stream, by_others = stream_of("points", those), stream_of("by-hand", those)
    lines = [b"\n".join(map(_line, numbered)) for numbered in _numbered(those)]
    bodies = [order.body for order in those]
    limit = "limit: lines that were encoded beforehand"
    receiving = desk.filled(by_others, partial(by_hand.receive, lab, "by-hand", count))
    writing: dict[str, Callable[[], Drain]] = {
        limit: desk.cleared(partial(_write_lines, server, lines, count)),
        OURS: desk.filled(stream, partial(desk.drain, "points", count)),
        "influxdb-client, from memory": desk.cleared(partial(_from_memory, server, bodies)),
        "pika and influxdb-client": desk.filled(
            by_others, partial(_from_queue, desk, server, count)
        ),
    }
    rounds = lab.sizes.rounds
    contestants = {name: _anew(server, count, one) for name, one in writing.items()}
    drains = in_turn(rounds, {**contestants, RECEIVING: receiving})
    found = {name: figures(some) for name, some in drains.items()}
    desk.remove("points", "by-hand")
    lab.session.execute("DELETE FROM amqp.influxdb")
    cores = of_the_cores((found[limit], found[RECEIVING]))
    rows = [row(name, one, found[limit].rate, cores) for name, one in found.items()]
    caption = f"{count:,} messages as points, 1,000 a request, medians of {rounds} rounds"
    return Table(caption, columns("points", "RabbitMQ and InfluxDB"), rows)


def _anew(server: InfluxDB, count: int, action: Callable[[], Drain]) -> Callable[[], Drain]:
    """The action, with an empty database, which must have all points after it."""

    def both() -> Drain:
        server.query(f"DROP DATABASE {_DATABASE}")
        server.query(f"CREATE DATABASE {_DATABASE}")
        done = action()
        (points,) = server.query("SELECT count(amount) FROM points", _DATABASE)
        if points["count"] != count:
            raise RuntimeError(f"{points['count']:,} points of {count:,} are there")
        return done

    return both


def _numbered(those: Sequence[Order]) -> Iterator[list[tuple[int, Order]]]:
    """Batches; the points of one series must differ in their times."""
    for first, batch in enumerate(in_batches(those)):
        yield [*enumerate(batch, first * BATCH)]


def _line(numbered: tuple[int, Order]) -> bytes:
    number, order = numbered
    customer = order.customer.replace(" ", r"\ ")
    time_of_it = MOMENT * 1_000_000_000 + number
    fields = f'id="{order.id}",amount={order.amount}'
    return f"points,customer={customer} {fields} {time_of_it}".encode()


def _write_lines(server: InfluxDB, lines: Sequence[bytes], count: int) -> Drain:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.connect()
    start, before = time.perf_counter(), time.process_time()
    for batch in lines:
        connection.request("POST", f"/write?db={_DATABASE}", batch)
        response = connection.getresponse()
        response.read()
        if response.status != 204:
            raise RuntimeError(f"not written: {response.reason}")
    done = Drain(count, time.perf_counter() - start, time.process_time() - before)
    connection.close()
    return done


def _point(body: bytes, number: int) -> Any:
    order = json.loads(body)
    point = Point("points").tag("customer", order["customer"])
    point.field("id", order["id"]).field("amount", order["amount"])
    return point.time(MOMENT * 1_000_000_000 + number)


@contextmanager
def _writer(server: InfluxDB) -> Iterator[Callable[[list[Any]], None]]:
    """What writes points. The client knows paths of InfluxDB 2 alone: the server ignores them."""
    url = f"{server.url}/write?db={_DATABASE}&ignored="
    with InfluxDBClient(url, "", org="") as client:
        api = client.write_api(write_options=SYNCHRONOUS)
        yield lambda points: api.write(_DATABASE, record=points)


def _from_memory(server: InfluxDB, bodies: Sequence[bytes]) -> Drain:
    with _writer(server) as write:
        start, before = time.perf_counter(), time.process_time()
        for first in range(0, len(bodies), BATCH):
            batch = bodies[first : first + BATCH]
            write([_point(body, number) for number, body in enumerate(batch, first)])
        return Drain(len(bodies), time.perf_counter() - start, time.process_time() - before)


def _from_queue(desk: Desk, server: InfluxDB, count: int) -> Drain:
    """As careful people write it: what is written is acknowledged."""
    with _writer(server) as write, open_channel(desk.lab) as channel:
        start, before = time.perf_counter(), time.process_time()
        points: list[Any] = []
        for number, (method, _, body) in enumerate(by_hand.deliveries(channel, "by-hand", count)):
            points.append(_point(body, number))
            if len(points) == BATCH:
                write(points)
                channel.basic_ack(method.delivery_tag, multiple=True)
                points.clear()
        return Drain(count, time.perf_counter() - start, time.process_time() - before)
