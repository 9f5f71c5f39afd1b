"""How a consumer's messages are stored, as its row and the catalogs say.

See amqp_inner.consumer_plan().
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pg_amqp_daemon.consume.stage import Stage
from pg_amqp_daemon.runtime.database import Database

_PLAN = """
SELECT amqp_inner.consumer_plan(c, %s)::text
FROM ONLY amqp.consumer AS c WHERE c.name = %s AND c.enabled
"""


@dataclass(frozen=True)
class Plan:
    """The row of a consumer and what was made of it."""

    text: str
    """All of it, as JSON."""
    is_stream: bool
    name: str
    broker_id: int
    queue: str
    batch_size: int
    batch_seconds: float
    prefetch: int
    start: str | int | dict[str, int] | None
    """Where a stream begins: an offset, a word for one, or {"timestamp": seconds}."""
    deduplicate_for: str
    """An interval, in PostgreSQL's words."""
    reply_errors: bool
    statement: str
    """Stores what is staged; empty where the target is an InfluxDB."""
    stage: Stage
    """The rows that the statement wants."""
    remember: str | None
    """Has the ledger remember what is staged; None if there is nothing to tell a copy by."""
    remember_stage: Stage | None
    row: dict[str, Any]
    """The columns of amqp.consumer."""
    influxdb: dict[str, Any] | None
    """The columns of amqp.influxdb, if that is the target."""

    def is_like(self, other: Plan) -> bool:
        """Whether nothing has changed."""
        return (self.text, self.is_stream) == (other.text, other.is_stream)


def read_plan(database: Database, name: str, *, is_stream: bool) -> Plan | None:
    """The plan of an enabled consumer; None if there is none. Raises psycopg.Error."""
    found = database.ask(_PLAN, is_stream, name)
    return _plan(found[0][0], is_stream) if found else None


def _plan(text: str, is_stream: bool) -> Plan:
    plan = json.loads(text)
    row = plan["row"]
    statement = plan.get("statement", "")
    remember = plan.get("remember")
    return Plan(
        text=text,
        is_stream=is_stream,
        name=row["name"],
        broker_id=row["broker_id"],
        queue=row["queue"],
        batch_size=row["batch_size"],
        batch_seconds=plan["batch_seconds"],
        prefetch=row["prefetch"] or min(2 * row["batch_size"], 65535),
        start=plan["start"],
        deduplicate_for=row["deduplicate_for"],
        reply_errors=row["reply_errors"],
        statement=statement,
        stage=Stage(statement, is_stream=is_stream),
        remember=remember,
        remember_stage=None if remember is None else Stage(remember, is_stream=is_stream),
        row=row,
        influxdb=plan.get("influxdb"),
    )
