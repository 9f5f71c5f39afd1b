"""`pg-amqp consume` with much to do, and with nothing: its memory, and its latency."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from bench import orders
from bench.clock import median, memory, quantile
from bench.drain import Desk, open_desk
from bench.finding import Cell, Table
from bench.lab import Lab, Session
from bench.orders import stream_of

_VISIBLE = "SELECT FROM bench.orders_in WHERE id = %s"
_CHUNK = 100_000
"""Messages that are encoded at once."""
_PADDING = "x" * 100_000
_LOOK = 0.0002


def measure_memory(lab: Lab, target: Mapping[str, str]) -> Table:
    """The most that a daemon has in memory while it stores what waits in a queue."""
    few, many = lab.sizes.consume_large, lab.sizes.consume_pending
    lab.say(f"consume: memory, {many:,} messages pending")
    rows: list[list[Cell]] = []
    for what, count, padding in (
        ("nothing to do", 0, ""),
        ("messages of 100 B", many, ""),
        ("messages of 100 KB", few, _PADDING),
    ):
        with open_desk(lab) as desk:
            desk.add("pending", **target)
            for some in _chunks(count, padding):
                lab.limit.publish(stream_of("pending", some))
            if count:
                desk.drain("pending", count)
            else:
                desk.enable("pending")
            rows.append([what, count, memory(desk.daemon.pid).peak / 2**20])
            desk.remove("pending")
            desk.clear()
    caption = "The most memory of the daemon, from its start until all is stored"
    return Table(caption, ["in the queue", "messages", "MB"], rows)


def _chunks(count: int, padding: str) -> Iterator[list[orders.Order]]:
    for seed, first in enumerate(range(0, count, _CHUNK)):
        yield [*orders.make(min(_CHUNK, count - first), seed=seed, padding=padding)]


def measure_idle(desk: Desk, target: Mapping[str, str]) -> Table:
    """Milliseconds from a publish to a row, when there is nothing else to do."""
    lab = desk.lab
    lab.say("consume: latency")
    desk.add("idle", **target)
    desk.enable("idle")
    times = []
    with lab.connect() as session:
        for number, order in enumerate(orders.make(lab.sizes.consume_latency)):
            stream = stream_of("idle", [order])
            # Not in step with the daemon.
            time.sleep(0.05 + number % 7 * 0.003)
            start = time.perf_counter()
            lab.limit.round_trip(stream)
            _see(session, order.id)
            times.append((time.perf_counter() - start) * 1e3)
    desk.disable("idle")
    desk.remove("idle")
    desk.clear()
    times = times[1:]
    return Table(
        "Nothing else to do: from a publish to a row that another session sees",
        ["messages", "median, ms", "99 %, ms"],
        [[len(times), median(times), quantile(times, 0.99)]],
    )


def _see(session: Session, key: str) -> None:
    """Look until the row is there."""
    while session.execute(_VISIBLE.encode(), [key], prepare=True).rowcount == 0:
        time.sleep(_LOOK)
