"""How cost grows with the size of messages, with their number, and with that of savepoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bench.bulk import against_limit
from bench.clock import in_turn, median
from bench.finding import Cell, Finding, Plot, Table
from bench.lab import Lab, Session, Spent, transaction
from bench.limit import repeated

_BODY = "x" * 100
_PUBLISH = (
    "SELECT count(amqp.publish(1, 'events', 'bench', %s::{type})) FROM generate_series(1, %s)"
)
_SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_FITS_A_SOCKET = 100
"""Messages of 100 bytes that the kernel takes at once, without a thread that writes."""
_LOOP = """
CREATE FUNCTION bench.{name}(n integer) RETURNS void LANGUAGE plpgsql AS $$BEGIN
    FOR i IN 1 .. n LOOP {body} END LOOP;
END$$
"""
_SAVEPOINT = "BEGIN {inner} EXCEPTION WHEN division_by_zero THEN NULL; END;"
_CALL = "PERFORM amqp.publish(1, 'events', 'bench', 'x'::text);"
_LOOPS = {
    "savepoint": _SAVEPOINT.format(inner="PERFORM 1;"),
    "publish": _CALL,
    "savepoint_publish": _SAVEPOINT.format(inner=_CALL),
}


def measure_size(lab: Lab) -> Finding:
    """Microseconds a message, from 10 bytes to 10 MB."""
    times: dict[str, list[tuple[float, float]]] = {"limit": [], "ours": []}
    rows: list[list[Cell]] = []
    publish = _PUBLISH.format(type="bytea")
    with lab.connect() as session:
        _warm_up(lab, session)
        for size in _SIZES:
            count = max(1, min(lab.sizes.size_most, lab.sizes.size_bytes // size))
            lab.say(f"size: {count:,} x {size:,} B")
            body = b"\x80" * size
            stream = repeated(count, body, None)
            ours = partial(transaction, session, publish, body, count)
            contestants = against_limit(lab, stream, ours)
            medians = _medians(in_turn(lab.sizes.rounds, contestants), count)
            rows.append([size, count, *medians.values(), medians["limit"] / medians["ours"]])
            for name, median_time in medians.items():
                times[name].append((size, median_time))
    caption = "Microseconds a message, confirmed, many in one transaction (medians)"
    columns = ["bytes", "messages", "limit, µs", "ours, µs", "share of the limit"]
    plot = Plot("size", "Size of the message", "bytes", "µs a message", times)
    return Finding([Table(caption, columns, rows)], [plot])


def measure_count(lab: Lab) -> Finding:
    """Microseconds a message, from one in a transaction to a million."""
    times: dict[str, list[tuple[float, float]]] = {"limit": [], "ours": []}
    rows: list[list[Cell]] = []
    with lab.connect() as session:
        _warm_up(lab, session)
        for count in lab.sizes.counts:
            lab.say(f"count: {count:,} messages in a transaction")
            medians = _count(lab, session, count)
            rows.append([count, *medians.values(), medians["limit"] / medians["ours"]])
            for name, median_time in medians.items():
                times[name].append((count, median_time))
    caption = "Microseconds a message of 100 B, confirmed (medians)"
    columns = ["messages in the transaction", "limit, µs", "ours, µs", "share of the limit"]
    plot = Plot("count", "Messages in a transaction", "messages", "µs a message", times)
    return Finding([Table(caption, columns, rows)], [plot])


def _count(lab: Lab, session: Session, count: int) -> dict[str, float]:
    stream = repeated(count, _BODY.encode(), None)
    write = lab.limit.round_trip if count <= _FITS_A_SOCKET else lab.limit.publish
    contestants: dict[str, Callable[[], Spent]] = {
        "limit": lambda: Spent(write(stream)),
        "ours": partial(transaction, session, _PUBLISH.format(type="text"), _BODY, count),
    }
    if count >= 10_000:
        purged = {name: lab.purged(action) for name, action in contestants.items()}
        return _medians(in_turn(lab.sizes.rounds, purged), count)
    # Short ones make up for it by their number.
    found = in_turn(lab.sizes.rounds, contestants, calls=max(1, min(20, 2_000 // count)))
    lab.purge()
    return _medians(found, count)


def measure_savepoints(lab: Lab) -> Finding:
    """Microseconds a savepoint with a publish in it, from one in a transaction to 100,000."""
    for name, body in _LOOPS.items():
        lab.session.execute(_LOOP.format(name=name, body=body).encode())
    names = {name: name.replace("_", " + ") for name in _LOOPS}
    times: dict[str, list[tuple[float, float]]] = {shown: [] for shown in names.values()}
    rows: list[list[Cell]] = []
    with lab.connect() as session:
        _warm_up(lab, session)
        for count in lab.sizes.savepoints:
            lab.say(f"savepoints: {count:,} in a transaction")
            contestants: dict[str, Callable[[], Spent]] = {
                names[name]: partial(transaction, session, f"SELECT bench.{name}(%s)", count)
                for name in _LOOPS
            }
            calls = max(1, min(20, 2_000 // count))
            medians = _medians(in_turn(lab.sizes.rounds, contestants, calls), count)
            lab.purge()
            rows.append([count, *medians.values()])
            for name, median_time in medians.items():
                times[name].append((count, median_time))
    caption = "Microseconds each, BEGIN to COMMIT, in a PL/pgSQL loop (medians)"
    columns = ["in the transaction", *(f"{name}, µs" for name in names.values())]
    plot = Plot("savepoints", "Savepoints", "in a transaction", "µs each", times)
    return Finding([Table(caption, columns, rows)], [plot])


def _warm_up(lab: Lab, session: Session) -> None:
    """A session's first publish is a figure of its own."""
    transaction(session, _PUBLISH.format(type="text"), _BODY, 1_000)
    lab.purge()


def _medians(found: dict[str, list[Spent]], count: int) -> dict[str, float]:
    """Microseconds of one of so many."""
    return {
        name: median(spent.total for spent in each) / count * 1e6 for name, each in found.items()
    }
