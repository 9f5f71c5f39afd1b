"""Messages that become points, and what tests ask of them."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from typing import Any

import pytest

from pg_amqp_daemon.consume.influxdb.line import LineWriter
from pg_amqp_daemon.consume.influxdb.message import Fault, Source

SECONDS = 1397597512
"""The timestamp of a message that says nothing else."""
ALPHABET = [
    "a",
    "b",
    "Z",
    "0",
    " ",
    ",",
    "=",
    '"',
    "'",
    "\\",
    "#",
    "{",
    "é",
    "😀",
    "\x7f",
    "\u2028",
]
"""Of texts that are hard to write."""


def source(
    body: object = None,
    *,
    exchange: str = "metrics",
    routing_key: str = "pageview",
    queue: str = "pageviews",
    headers: Mapping[str, Any] | None = None,
    received_at: float = 1.7e9,
    **properties: object,
) -> Source:
    """A message with a JSON body, or with these bytes."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content_type": "application/json", "timestamp": SECONDS, **properties}
    return Source(
        exchange, routing_key, queue, given, lambda: dict(headers or {}), text, received_at
    )


def line(writer: LineWriter, message: Source) -> str:
    """The message's line without its time."""
    written = writer.line(message)
    assert written is not None
    text, _, time = written.decode().rpartition(" ")
    assert time.isdigit()
    return text


def time_of(writer: LineWriter, message: Source) -> int:
    """The time of its point, in nanoseconds."""
    written = writer.line(message)
    assert written is not None
    return int(written.rpartition(b" ")[2])


def fault(writer: LineWriter, message: Source) -> tuple[str, str]:
    """The SQLSTATE and the text of what is wrong with it."""
    with pytest.raises(Fault) as raised:
        writer.line(message)
    return raised.value.sqlstate, str(raised.value)


def seeded() -> random.Random:
    """What chance gives; its seed is printed, and taken from PG_AMQP_PY_SEED if that is set."""
    seed = os.environ.get("PG_AMQP_PY_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"PG_AMQP_PY_SEED={seed}")
    return random.Random(seed)
