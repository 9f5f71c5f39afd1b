"""Messages with ids and ordering keys on their way: what was delivered, and what was not and why.

Messages without an ordering key go out as one stream. Of those with the same key, the next is not
written before the one before it is confirmed: a refused message could otherwise be overtaken. So a
run of messages is cut into waves, each a piece of it from where the last one ended, in which no
key occurs twice; what has the key of a message that failed is held back.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

from pg_amqp_py.wire.delivery import Batch
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import MessageError
from pg_amqp_py.wire.message import Envelope

_MANDATORY = Envelope._fields.index("mandatory")
_MESSAGE_ID = Envelope._fields.index("message_id")


class Entry(NamedTuple):
    """One message."""

    id: int
    ordering_key: str | None
    fields: tuple[object, ...]
    """The fields of an Envelope."""
    body: bytes


class Refusal(NamedTuple):
    """A message that was not delivered."""

    id: int
    verdict: str
    """`refused` by the broker, `busy` (it could not take it just then) or `invalid`."""
    text: str


class Run:
    """Messages in order, encoded, and what became of them."""

    def __init__(self, entries: Sequence[Entry], encoder: Encoder) -> None:
        self.delivered: list[int] = []
        """Ids of what the broker has confirmed."""
        self.refused: list[Refusal] = []
        self.ids = [entry.id for entry in entries]
        self.message_ids = [entry.fields[_MESSAGE_ID] for entry in entries]
        self._frame_max = encoder.frame_max
        self._entries: list[Entry] = []
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
            self._entries.append(entry)
            self._starts.append(start)

    def batches(self) -> Generator[Batch, None, None]:
        """The waves, one after the other: each is to be written before the next is asked for.

        Whoever stops asking must close the iterator, for the last one to be looked at.
        """
        for first, last in self._waves():
            positions = [
                at for at in range(first, last) if self._entries[at].ordering_key not in self.held
            ]
            batch = self._batch(positions)
            try:
                yield batch
            finally:
                self._record(batch, [self._entries[at] for at in positions])

    def fit(self, batch: Batch, encoder: Encoder) -> None:
        """Make a batch fit for a connection with a smaller largest frame."""
        batch.fit(encoder, self._frame_max)

    def _waves(self) -> Iterator[tuple[int, int]]:
        first = 0
        keys: set[str] = set()
        for at, entry in enumerate(self._entries):
            key = entry.ordering_key
            if key is None:
                continue
            if key in keys:
                yield first, at
                first = at
                keys.clear()
            keys.add(key)
        if first < len(self._entries):
            yield first, len(self._entries)

    def _batch(self, positions: Sequence[int]) -> Batch:
        if len(positions) == len(self._entries):
            return Batch(self._stream, self._starts)
        stream, starts = bytearray(), array("Q")
        for at in positions:
            starts.append(len(stream))
            end = self._starts[at + 1] if at + 1 < len(self._starts) else len(self._stream)
            stream += memoryview(self._stream)[self._starts[at] : end]
        return Batch(stream, starts)

    def _record(self, batch: Batch, entries: list[Entry]) -> None:
        returned = {message[0:2] + message[3:]: message.text for message in batch.returned}
        for at in batch.settled():
            entry = entries[at]
            text = None
            if returned and entry.fields[_MANDATORY]:
                text = returned.get((*entry.fields[:2], entry.fields[_MESSAGE_ID]))  # type: ignore[arg-type]
            if text is None:
                self.delivered.append(entry.id)
            else:
                self._fail(entry, "refused", text)
        for at, fault in batch.faults.items():
            self._fail(entries[at], "busy" if fault.nacked else "refused", fault.text)
        if batch.pending:
            settled = set(self.delivered)
            failed = (e for e in entries if e.id not in settled)
            self.held.update(e.ordering_key for e in failed if e.ordering_key is not None)

    def _fail(self, entry: Entry, verdict: str, text: str) -> None:
        self.refused.append(Refusal(entry.id, verdict, text))
        if entry.ordering_key is not None:
            self.held.add(entry.ordering_key)
