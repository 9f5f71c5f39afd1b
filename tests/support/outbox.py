"""What the tests of the outbox share: messages in it, and what has become of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from servers.processes import wait_for
from support.sessions import Session

LIMIT = 120.0
"""Seconds that bound what would otherwise hang; nothing comes near it."""


def put(session: Session, message: object = "message", /, **parameters: object) -> int:
    """Call amqp.publish_outbox() and return the id; to broker 1, amq.topic, key, if not said."""
    given = {"broker_id": 1, "exchange": "amq.topic", "routing_key": "key", **parameters}
    values = {
        name: Jsonb(value) if isinstance(value, dict) else value for name, value in given.items()
    }
    call = sql.SQL("SELECT amqp.publish_outbox(message => {}, {})").format(
        message if isinstance(message, bytes) else str(message),
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), value)
            for name, value in values.items()
        ),
    )
    row = session.execute(call).fetchone()
    assert row is not None
    number: int = row[0]
    return number


def put_many(session: Session, count: int, *, first: int = 1, key: str = "NULL") -> None:
    """Publish the numbers from `first` on to amq.topic, in one transaction.

    `key` is an expression in n, the number, for the ordering key.
    """
    session.execute(
        f"""SELECT amqp.publish_outbox(1, 'amq.topic', 'key', n::text, ordering_key => {key})
            FROM generate_series(%s::int, %s) AS n""",
        [first, first + count - 1],
    )


def in_outbox(session: Session, columns: str = "id", where: str = "true") -> list[tuple[Any, ...]]:
    """Return what is in the outbox, in order of id."""
    query = f"SELECT {columns} FROM amqp.outbox WHERE {where} ORDER BY id"
    return session.execute(query).fetchall()


def dead(session: Session, columns: str = "id") -> list[tuple[Any, ...]]:
    """Return the dead letters, in order of id."""
    query = f"SELECT {columns} FROM amqp.dead_letters ORDER BY id"
    return session.execute(query).fetchall()


def grow(session: Session) -> None:
    """Let the table have 64 MB and more that is dead, beside what is in it.

    Autovacuum stays away, from the TOAST table too, which has options of its own: it would cut off
    the end of the table at a time of its own, and there would be no space to give back.
    """
    session.execute(
        "ALTER TABLE amqp.outbox SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)"
    )
    session.execute(
        """INSERT INTO amqp.outbox (broker_id, exchange, body, next_attempt_at)
           SELECT 1, 'dead', convert_to(repeat('x', 1700), 'UTF8'), '2090-01-01'
           FROM generate_series(1, 40000)"""
    )
    session.execute("DELETE FROM amqp.outbox WHERE exchange = 'dead'")
    assert table_size(session) > 1 << 26


def table_size(session: Session) -> int:
    """Return the size of the table in bytes."""
    row = session.execute("SELECT pg_table_size('amqp.outbox')").fetchone()
    assert row is not None
    size: int = row[0]
    return size


def wait_until_empty(session: Session) -> None:
    """Wait until nothing is left in the outbox."""
    # Not by reading what is there: of many messages, that would take longer than to deliver them.
    empty = "SELECT NOT EXISTS (SELECT FROM amqp.outbox)"
    wait_for(lambda: session.value(empty), LIMIT, "an empty outbox")


def wait_until_refused(session: Session, *ids: int, attempts: int = 1) -> None:
    """Wait until these messages were tried and refused at least so many times."""
    wait_for(
        lambda: (
            session.execute(
                "SELECT count(*) FROM amqp.outbox WHERE id = ANY(%s) AND attempts >= %s",
                [list(ids), attempts],
            ).fetchone()
            == (len(ids),)
        ),
        LIMIT,
        f"messages {ids} to be refused",
    )


def wait_until_dead(session: Session, *ids: int) -> None:
    """Wait until these are the dead letters."""
    expected = sorted((number,) for number in ids)
    wait_for(lambda: dead(session) == expected, LIMIT, f"messages {ids} to be dead letters")


def hurry(session: Session) -> None:
    """Let everything that waits for another attempt be tried now."""
    session.execute("UPDATE amqp.outbox SET next_attempt_at = now() WHERE attempts > 0")


def status(session: Session, broker_id: int = 1) -> dict[str, Any]:
    """Return a broker's line of amqp.outbox_status()."""
    cursor = session.execute("SELECT * FROM amqp.outbox_status() WHERE broker_id = %s", [broker_id])
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    row = cursor.fetchone()
    assert row is not None, f"no status of broker {broker_id}"
    return dict(zip(names, row, strict=True))


def worker_of(session: Session, broker_id: int = 1) -> int | None:
    """Return the process id of the relay that works a broker's outbox: its session says it."""
    row = session.execute(
        "SELECT relay FROM amqp.outbox_status() WHERE broker_id = %s AND relay IS NOT NULL",
        [broker_id],
    ).fetchone()
    return int(row[0].split()[2]) if row else None


def settle(
    session: Session,
    delivered: Sequence[int] = (),
    refused: Sequence[tuple[int, str, str]] = (),
    broker_id: int = 1,
) -> list[int]:
    """Call amqp_inner.outbox_settle() for messages as they are in the outbox, if they are.

    What was refused is triples of id, verdict and error. Returns the ids that it passed over.
    """
    known: dict[int, str] = dict(session.execute("SELECT id, message_id FROM amqp.outbox"))
    row = session.execute(
        "SELECT amqp_inner.outbox_settle(%s, %s::bigint[], %s::text[], %s::bigint[], %s::text[],"
        " %s::text[], %s::text[])",
        [
            broker_id,
            list(delivered),
            [known.get(one, "gone") for one in delivered],
            [one[0] for one in refused],
            [known.get(one[0], "gone") for one in refused],
            [one[1] for one in refused],
            [one[2] for one in refused],
        ],
    ).fetchone()
    assert row is not None
    passed_over: list[int] = row[0]
    return passed_over
