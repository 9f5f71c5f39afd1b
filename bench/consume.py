"""`pg-amqp consume`: queues into a table, to a function, from a stream, into InfluxDB."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from bench import by_hand, orders
from bench.clock import cpu, in_turn, timed
from bench.drain import (
    OURS,
    RECEIVING,
    Desk,
    Drain,
    columns,
    figures,
    of_the_cores,
    open_desk,
    row,
)
from bench.finding import Finding, Table
from bench.held import measure_idle, measure_memory
from bench.lab import Lab
from bench.orders import BATCH, Order, stream_of
from bench.points import measure_points

_SET_UP = """
CREATE TABLE bench.orders_in (id text PRIMARY KEY, amount numeric, customer text);
CREATE TABLE bench.messages (n integer PRIMARY KEY, message amqp.message);
CREATE FUNCTION bench.take(message amqp.message) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
"""
_DROP = "DROP TABLE bench.orders_in, bench.messages; DROP FUNCTION bench.take"
_TARGET = {
    "target_table": "bench.orders_in",
    "columns": json.dumps(orders.COLUMNS),
    "on_conflict": "ignore",
}
_MESSAGE = """
INSERT INTO bench.messages
SELECT g.n, jsonb_populate_record(NULL::amqp.message, jsonb_build_object(
    'broker_id', 1, 'queue', 'taken', 'exchange', '', 'routing_key', 'taken', 'redelivered', false,
    'message_id', g.id, 'content_type', 'application/json', 'delivery_mode', 2, 'body', g.body))
FROM unnest(%s::int[], %s::text[], %s::text[]) AS g (n, id, body)
"""
_CALL = """
SELECT count(*) FROM (
    SELECT bench.take(message) FROM bench.messages WHERE n >= %s AND n < %s OFFSET 0
) AS called
"""
_COPYING = "limit: COPY to a stage, INSERT ... ON CONFLICT, from memory, without a ledger"
_FIRST = {"x-stream-offset": "first"}


def measure(lab: Lab) -> Finding:
    """Each beside its limit."""
    lab.session.execute(_SET_UP.encode())
    those = [*orders.make(lab.sizes.consume_messages)]
    with open_desk(lab) as desk:
        tables = [
            _into_table(desk, those),
            _to_function(desk, those),
            _from_stream(desk, those),
            *measure_points(desk, those[: lab.sizes.consume_points]),
            measure_idle(desk, _TARGET),
        ]
    tables.append(measure_memory(lab, _TARGET))
    lab.session.execute(_DROP.encode())
    return Finding(tables)


def _into_table(desk: Desk, those: Sequence[Order]) -> Table:
    lab, count, few = desk.lab, len(those), desk.lab.sizes.consume_one_by_one
    lab.say(f"consume: {count:,} messages into a table")
    desk.add("ledger", **_TARGET)
    desk.add("no-ledger", deduplicate_by="none", **_TARGET)
    desk.declare("by-hand")
    stream = {name: stream_of(name, those) for name in ("ledger", "no-ledger", "by-hand")}
    limits = {
        f"limit: {RECEIVING}": desk.filled(
            stream["by-hand"], partial(by_hand.receive, lab, "by-hand", count)
        ),
        _COPYING: desk.cleared(partial(by_hand.copy, lab, by_hand.copied(those), count)),
    }
    ways = {
        f"{OURS}, with the ledger of what was seen (the default)": desk.filled(
            stream["ledger"], partial(desk.drain, "ledger", count)
        ),
        f"{OURS}, without the ledger (`deduplicate_by = none`)": desk.filled(
            stream["no-ledger"], partial(desk.drain, "no-ledger", count)
        ),
        "pika and executemany, 1,000 rows a transaction": desk.filled(
            stream["by-hand"], partial(by_hand.in_thousands, lab, "by-hand", count)
        ),
        "pika, a row a transaction": desk.filled(
            stream_of("by-hand", those[:few]), partial(by_hand.one_by_one, lab, "by-hand", few)
        ),
    }
    table = _compare(desk, "messages into a table with a key", limits, ways)
    desk.remove("ledger", "no-ledger", "by-hand")
    return table


def _to_function(desk: Desk, those: Sequence[Order]) -> Table:
    lab, count = desk.lab, len(those)
    lab.say(f"consume: {count:,} messages to a function")
    bodies = [rf"\x{order.body.hex()}" for order in those]
    ids = [order.id for order in those]
    lab.session.execute(_MESSAGE.encode(), [[*range(count)], ids, bodies])
    lab.session.execute("VACUUM ANALYZE bench.messages")
    desk.add("taken", target_function="bench.take")
    table = _compare(
        desk,
        "messages to a PL/pgSQL function that does nothing",
        {"limit: calling it in SQL, for the rows of a table": partial(_call, lab, count)},
        {OURS: desk.filled(stream_of("taken", those), partial(desk.drain, "taken", count))},
    )
    desk.remove("taken")
    return table


def _call(lab: Lab, count: int) -> Drain:
    """As many calls at a time as the daemon has made."""

    def call() -> None:
        for first in range(0, count, BATCH):
            lab.session.execute(_CALL.encode(), [first, first + BATCH])

    pid = lab.session.info.backend_pid
    before = cpu(pid)
    elapsed = timed(call)
    return Drain(count, elapsed, None, cpu(pid) - before)


def _from_stream(desk: Desk, those: Sequence[Order]) -> Table:
    """Filled once: what is read stays."""
    lab, count = desk.lab, len(those)
    lab.say(f"consume: {count:,} messages of a stream into a table")
    desk.add("stream", "stream", stream_offset="first", **_TARGET)
    lab.limit.publish(stream_of("stream", those))
    table = _compare(
        desk,
        "messages of a stream into a table with a key",
        {
            f"limit: {RECEIVING}": desk.cleared(
                partial(by_hand.receive, lab, "stream", count, _FIRST)
            ),
            _COPYING: desk.cleared(partial(by_hand.copy, lab, by_hand.copied(those), count)),
        },
        {OURS: desk.cleared(partial(desk.drain, "stream", count))},
    )
    desk.remove("stream")
    return table


def _compare(
    desk: Desk,
    what: str,
    limits: Mapping[str, Callable[[], Drain]],
    ways: Mapping[str, Callable[[], Drain]],
) -> Table:
    """All of these, in turn."""
    rounds = desk.lab.sizes.rounds
    drains = in_turn(rounds, {**limits, **ways})
    found = {name: figures(those) for name, those in drains.items()}
    limit = min(found[name].rate for name in limits)
    # One limit alone is not all of the work.
    cores = of_the_cores(found[name] for name in limits) if len(limits) > 1 else None
    caption = f"{desk.lab.sizes.consume_messages:,} {what}, medians of {rounds} rounds"
    if len(limits) > 1:
        caption += "; the share is that of the smaller limit"
    rows = [
        row(name, one) if name in limits else row(name, one, limit, cores)
        for name, one in found.items()
    ]
    return Table(caption, columns("messages", "RabbitMQ"), rows)
