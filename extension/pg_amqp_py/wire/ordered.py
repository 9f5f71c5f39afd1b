"""Messages with ids and ordering keys on their way: what was delivered, and what was not and why.

Messages without an ordering key go out as one stream. Of those with the same key, the next is not
written before the one before it is confirmed: a refused message could otherwise be overtaken. So a
run of messages is cut into waves, each a piece of it from where the last one ended, in which no
key occurs twice; what has the key of a message that failed is held back.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple

from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.delivery import Batch
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import NOT_FOUND, ChannelClosedError, MessageError
from pg_amqp_py.wire.properties import FIELDS

Missing = Callable[[str], "str | None"]
"""Says what the broker has against an exchange; None if nothing."""

_MANDATORY = FIELDS.index("mandatory")
_MESSAGE_ID = FIELDS.index("message_id")


class Entry(NamedTuple):
    """One message."""

    id: int
    ordering_key: str | None
    fields: tuple[object, ...]
    """The fields of an Envelope."""
    body: bytes

    @property
    def message_id(self) -> object:
        """The same at every attempt."""
        return self.fields[_MESSAGE_ID]


class Refusal(NamedTuple):
    """A message that was not delivered."""

    id: int
    verdict: str
    """`refused` by the broker, `busy` (it could not take it just then) or `invalid`."""
    text: str


def missing_exchange(connection: Connection, exchange: str, deadline: float) -> str | None:
    """What the broker says of an exchange that it does not have; None if it has it.

    It is asked once a connection. Raises ConnectionLostError or StalledError.
    """
    try:
        connection.require_exchange(exchange, deadline)
    except ChannelClosedError as refusal:
        if refusal.code == NOT_FOUND:
            return refusal.reply
        # It is there; what else the broker has against it, it says of the messages.
        connection.exchanges.add(exchange)
    return None


class Run:
    """Messages in order, encoded, and what became of them."""

    def __init__(self, entries: Sequence[Entry], encoder: Encoder) -> None:
        self.delivered: list[int] = []
        """Ids of what the broker has confirmed."""
        self.refused: list[Refusal] = []
        self.entries = entries
        self._frame_max = encoder.frame_max
        self._encoded: list[Entry] = []
        self._stream = bytearray()
        self._starts = array("Q")
        self.held: set[str] = set()
        """Ordering keys of messages that failed: nothing behind these may go."""
        for entry in entries:
            start = len(self._stream)
            try:
                encoder.append(self._stream, entry.fields, entry.body)
            except (MessageError, ValueError) as error:
                field = getattr(error, "field", None)
                text = f"invalid value for {field}: {error}" if field else str(error)
                self._fail(entry, "invalid", text)
                continue
            self._encoded.append(entry)
            self._starts.append(start)

    def batches(self, missing: Missing) -> Generator[Batch, None, None]:
        """The waves, one after the other: each is to be written before the next is asked for.

        Whoever stops asking must close the iterator, for the last one to be looked at. `missing`
        is asked for each exchange, so that a missing one costs no channel, and with it the
        confirms of others.
        """
        try:
            yield from self._batches(missing)
        finally:
            delivered = set(self.delivered)
            rest = (entry for entry in self._encoded if entry.id not in delivered)
            self.held.update(entry.ordering_key for entry in rest if entry.ordering_key is not None)

    def _batches(self, missing: Missing) -> Generator[Batch, None, None]:
        absent: dict[object, str | None] = {"": None}
        for first, last in self._waves():
            positions = []
            for at in range(first, last):
                entry = self._encoded[at]
                if entry.ordering_key in self.held:
                    continue
                exchange = entry.fields[0]
                if exchange not in absent:
                    absent[exchange] = missing(str(exchange))
                text = absent[exchange]
                if text is None:
                    positions.append(at)
                else:
                    self._fail(entry, "refused", text)
            batch = self._batch(positions)
            try:
                yield batch
            finally:
                self._record(batch, [self._encoded[at] for at in positions])

    def _waves(self) -> Iterator[tuple[int, int]]:
        first = 0
        keys: set[str] = set()
        for at, entry in enumerate(self._encoded):
            key = entry.ordering_key
            if key is None:
                continue
            if key in keys:
                yield first, at
                first = at
                keys.clear()
            keys.add(key)
        if first < len(self._encoded):
            yield first, len(self._encoded)

    def _batch(self, positions: Sequence[int]) -> Batch:
        if len(positions) == len(self._encoded):
            return Batch(self._stream, self._starts, self._frame_max, rewrite=True)
        stream, starts = bytearray(), array("Q")
        for at in positions:
            starts.append(len(stream))
            end = self._starts[at + 1] if at + 1 < len(self._starts) else len(self._stream)
            stream += memoryview(self._stream)[self._starts[at] : end]
        return Batch(stream, starts, self._frame_max, rewrite=True)

    def _record(self, batch: Batch, entries: list[Entry]) -> None:
        returned: dict[tuple[object, ...], str] = {
            (message.exchange, message.routing_key, message.message_id): message.text
            for message in batch.returned
        }
        for at in batch.settled():
            entry = entries[at]
            text = None
            if returned and entry.fields[_MANDATORY]:
                text = returned.get((*entry.fields[:2], entry.message_id))
            if text is None:
                self.delivered.append(entry.id)
            else:
                self._fail(entry, "refused", text)
        for at, fault in batch.faults.items():
            self._fail(entries[at], "busy" if fault.nacked else "refused", fault.text)

    def _fail(self, entry: Entry, verdict: str, text: str) -> None:
        self.refused.append(Refusal(entry.id, verdict, text))
        if entry.ordering_key is not None:
            self.held.add(entry.ordering_key)
