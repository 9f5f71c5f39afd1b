"""A row of amqp.listener, and the messages that are made by it: pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from pg_amqp_daemon.listen.gaps import Epoch, Gap
from pg_amqp_py.wire.fields import FIELDS, HEADERS, MESSAGE_ID, TIMESTAMP

GAP_TYPE = "pg-amqp.gap"
"""Property type of a message that tells of a gap."""
_TYPE = FIELDS.index("type")


@dataclass(frozen=True)
class Listener:
    """A row, with what all its messages have in common."""

    id: int
    channel: str
    broker_id: int
    may_store: bool
    """Whether what the broker does not take goes to amqp.outbox."""
    fields: tuple[Any, ...]
    """The fields of an Envelope, without message_id and timestamp."""
    text: str
    """All of the row: with another text it is another row, on whichever server."""

    @property
    def name(self) -> bytes:
        """The channel as PostgreSQL sends it."""
        return self.channel.encode("utf-8", "surrogateescape")


class Message(NamedTuple):
    """On its way to the broker, or to the outbox."""

    listener: Listener
    body: bytes
    message_id: str
    timestamp: int
    epoch: Epoch
    """When it was received."""
    gap: Gap | None = None
    """What it tells of, if it is no notification."""

    @property
    def size(self) -> int:
        """Bytes, about, as it is written: until then, all of a row share its headers."""
        return len(self.body) + len(self.listener.fields[HEADERS])

    @property
    def fields(self) -> tuple[Any, ...]:
        """The fields of an Envelope."""
        fields = list(self.listener.fields)
        fields[MESSAGE_ID], fields[TIMESTAMP] = self.message_id, self.timestamp
        if self.gap is not None:
            fields[_TYPE] = GAP_TYPE
            fields[HEADERS] = json.dumps({**json.loads(fields[HEADERS]), **self.gap.headers})
        return tuple(fields)


def read_listeners(text: str, *, may_store: bool) -> dict[int, Listener]:
    """The enabled rows, by number.

    `text` is what amqp_inner.listener_look() says of them, as JSON, and `may_store` whether the
    role may put messages into the outbox.
    """
    return {row["listener_id"]: _listener(row, may_store) for row in json.loads(text)}


def _listener(row: dict[str, Any], may_store: bool) -> Listener:
    given = {**row, "headers": json.dumps(row["headers"])}
    return Listener(
        row["listener_id"],
        row["channel"],
        row["broker_id"],
        may_store and row["on_failure"] == "outbox",
        tuple(given[name] for name in FIELDS),
        json.dumps([may_store, row["row"]]),
    )


def quoted(channel: str) -> str:
    """The channel as an identifier in SQL."""
    return '"' + channel.replace('"', '""') + '"'
