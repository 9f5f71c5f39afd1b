"""Messages with ids and ordering keys on their way: what was delivered, and what was not and why.

Messages without an ordering key go out as one stream. Of those with the same key, the next is not
written before the one before it is confirmed: a refused message could otherwise be overtaken. So a
run of messages is cut into waves, each a piece of it from where the last one ended, in which no
key occurs twice; what has the key of a message that failed is held back.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.channel import PublishingChannel
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import NOT_FOUND, ChannelClosedError, MessageError
from pg_amqp_py.wire.fields import EXCHANGE, MANDATORY, MESSAGE_ID, PLACE

Missing = Callable[[str], "str | None"]
"""Says what the broker has against an exchange; None if nothing."""
PutOff = Callable[["Entry"], "str | None"]
"""Says why a message is not to be written now; None if it is."""

LARGEST_HEADERS = 131_000
"""Bytes of a message's headers as text, at most, as amqp_inner.outbox_check_headers() has it."""


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
        return self.fields[MESSAGE_ID]


class Undelivered(NamedTuple):
    """A message that was not delivered."""

    id: int
    verdict: str
    """`refused` by the broker, `busy` (it could not take it just then) or `invalid`."""
    text: str


def target(entry: Entry) -> str:
    """Where a message goes, in words."""
    exchange, routing_key = entry.fields[PLACE]
    return f'exchange "{exchange}"' if exchange else f'queue "{routing_key}"'


def why_unconfirmed(entry: Entry) -> str:
    """Why a message waits that a queue has not confirmed, or that would meet the same queue."""
    return f"a queue has not confirmed messages to {target(entry)}"


def missing_exchange(channel: PublishingChannel, exchange: str, deadline: float) -> str | None:
    """What the broker says of an exchange that it does not have; None if it has it.

    It is asked once a connection. Raises ConnectionLostError or StalledError.
    """
    try:
        channel.require_exchange(exchange, deadline)
    except ChannelClosedError as refusal:
        if refusal.code == NOT_FOUND:
            return refusal.reply
        # It is there; what else the broker has against it, it says of the messages.
        channel.remember_exchange(exchange)
    return None


class Addressed(Protocol):
    """A message, as far as it must be known to tell what became of it."""

    @property
    def fields(self) -> tuple[object, ...]:
        """The fields of an Envelope."""

    @property
    def message_id(self) -> object:
        """What tells it from others to the same place."""


Sent = TypeVar("Sent", bound=Addressed)


class Wave(Generic[Sent]):
    """Messages that are under way together."""

    def __init__(self, batch: Batch, entries: list[Sent]) -> None:
        self.batch = batch
        self.entries = entries
        self._told: set[int] = set()
        """Positions of those of which news() has told."""

    def leave(self) -> list[Sent]:
        """Write no more; from now on there is news only of what is returned here.

        That is what is written and may still be answered.
        """
        awaited = [at for at in self.batch.stop_writing() if at not in self._told]
        self._told = set(range(len(self.entries))).difference(awaited)
        return [self.entries[at] for at in awaited]

    @property
    def awaited(self) -> list[Sent]:
        """What may still be answered."""
        return [self.entries[at] for at in self.batch.stop_writing()]

    def news(self) -> Iterator[tuple[Sent, str | None, str]]:
        """What became of messages since the last call: each with verdict and text.

        The verdict of what was delivered is None.
        """
        self.batch.collect()
        returned: dict[tuple[object, ...], str] = {
            (message.exchange, message.routing_key, message.message_id): message.text
            for message in self.batch.returned
        }
        for at in self.batch.delivered():
            if at in self._told:
                continue
            self._told.add(at)
            entry = self.entries[at]
            text = None
            if returned and entry.fields[MANDATORY]:
                text = returned.get((*entry.fields[PLACE], entry.message_id))
            yield entry, None if text is None else "refused", text or ""
        for at, cause in self.batch.causes.items():
            if at not in self._told:
                self._told.add(at)
                yield self.entries[at], "busy" if cause.nacked else "refused", cause.text


class Run:
    """Messages in order, encoded, and what became of them."""

    def __init__(self, entries: Sequence[Entry], encoder: Encoder) -> None:
        self.delivered: list[int] = []
        """Ids of what the broker has confirmed."""
        self.undelivered: list[Undelivered] = []
        self.entries = entries
        self._frame_max = encoder.frame_max
        self._encoded: list[Entry] = []
        self._stream = bytearray()
        self._starts = array("Q")
        self._wave: Wave[Entry] | None = None
        """What is under way."""
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

    def batches(
        self,
        missing: Missing,
        put_off: PutOff = lambda _: None,
        longest: Callable[[], int] = lambda: sys.maxsize,
    ) -> Generator[Batch, None, None]:
        """The waves, one after the other: each is to be written before the next is asked for.

        Whoever stops asking must close the iterator, for the last one to be looked at. `missing`
        is asked for each exchange, so that a missing one costs no channel, and with it the
        confirms of others. `put_off` is asked for each message, and `longest` how many the next
        wave may have at most.
        """
        try:
            yield from self._batches(missing, put_off, longest)
        finally:
            delivered = set(self.delivered)
            rest = (entry for entry in self._encoded if entry.id not in delivered)
            self.held.update(entry.ordering_key for entry in rest if entry.ordering_key is not None)

    def look(self) -> None:
        """Record what the broker has said by now."""
        if self._wave is not None:
            for entry, verdict, text in self._wave.news():
                if verdict is None:
                    self.delivered.append(entry.id)
                else:
                    self._fail(entry, verdict, text)

    def leave(self, reason: Callable[[Entry], str]) -> Wave[Entry]:
        """Go on without what is written and not answered: it is `busy`, for this reason.

        The wave that is returned knows of late answers.
        """
        self.look()
        wave, self._wave = self._wave, None
        assert wave is not None
        for entry in wave.leave():
            self._fail(entry, "busy", reason(entry))
        return wave

    def _batches(
        self, missing: Missing, put_off: PutOff, longest: Callable[[], int]
    ) -> Generator[Batch, None, None]:
        absent: dict[object, str | None] = {"": None}
        for first, last in self._waves(longest):
            positions = []
            for at in range(first, last):
                entry = self._encoded[at]
                if entry.ordering_key in self.held:
                    continue
                text = put_off(entry)
                if text is not None:
                    self._fail(entry, "busy", text)
                    continue
                exchange = entry.fields[EXCHANGE]
                if exchange not in absent:
                    absent[exchange] = missing(str(exchange))
                text = absent[exchange]
                if text is None:
                    positions.append(at)
                else:
                    self._fail(entry, "refused", text)
            batch = self._batch(positions)
            self._wave = Wave(batch, [self._encoded[at] for at in positions])
            try:
                yield batch
            finally:
                self.look()
                self._wave = None

    def _waves(self, longest: Callable[[], int]) -> Iterator[tuple[int, int]]:
        first, most = 0, longest()
        keys: set[str] = set()
        for at, entry in enumerate(self._encoded):
            key = entry.ordering_key
            if at - first >= most or (key is not None and key in keys):
                yield first, at
                first, most = at, longest()
                keys.clear()
            if key is not None:
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

    def _fail(self, entry: Entry, verdict: str, text: str) -> None:
        self.undelivered.append(Undelivered(entry.id, verdict, text))
        if entry.ordering_key is not None:
            self.held.add(entry.ordering_key)
