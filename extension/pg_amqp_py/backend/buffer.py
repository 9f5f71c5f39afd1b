"""The messages of the current transaction, kept exactly as its savepoints stand. Pure Python.

Operations: append a message, forget what an aborted subtransaction published, hand the
survivors out by destination. Goals: nothing per subtransaction that published nothing,
amortised O(1) for everything else, little more memory than the bytes that will be sent.

Subtransaction ids only grow within a transaction, and subtransactions nest: so what belongs to
an aborted one is always a suffix of everything published so far. It is enough to remember,
in a short stack of marks, where the first message of each subtransaction begins. A
subtransaction that commits needs nothing: its mark then stands for its parent's later messages
too, and when an ancestor aborts, every mark from that ancestor's id on goes.
"""

from __future__ import annotations

from pg_amqp_py.wire.encode import decode_messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

    from pg_amqp_py.wire.encode import Encoder
    from pg_amqp_py.wire.memory import Arena
    from pg_amqp_py.wire.message import Message

    Numbers = list[int] | array[int]

_MANY = 1_000
_LARGE_BODY = 1 << 12
"""Bytes of a message from which on its memory costs more than the rest."""
_LARGE_STREAM = 1 << 23
"""Bytes from which on the memory is not kept, but comes in huge pages."""


def _compact(numbers: Numbers) -> Numbers:
    """The same in a fourth of the memory."""
    # Here, because a session's first publish() shall not wait for it.
    from array import array

    return array("Q", numbers)


class Destination:
    """Where messages go at commit."""

    __slots__ = ("broker_id", "captured")

    def __init__(self, broker_id: int, *, captured: bool) -> None:
        self.broker_id = broker_id
        self.captured = captured
        """Published under `amqp.capture`: shown by amqp.pending(), never sent."""

    def __eq__(self, other: object) -> bool:
        # Not by their hashes: Python's hash(-1) is hash(-2).
        return (
            isinstance(other, Destination)
            and self.broker_id == other.broker_id
            and self.captured == other.captured
        )

    def __hash__(self) -> int:
        return hash((self.broker_id, self.captured))


class Parcel:
    """The messages for one destination, in order, as wire.batch.Batch takes them."""

    __slots__ = ("destination", "starts", "stream")

    def __init__(
        self, destination: Destination, stream: bytearray | memoryview, starts: Numbers
    ) -> None:
        self.destination = destination
        self.stream = stream
        self.starts = starts


class TransactionBuffer:
    """What the transaction will publish when it commits."""

    # Here, because every transaction that publishes makes a new one.
    _keeps_memory = False
    """Whether this process keeps memory for large messages."""
    _newest = 0
    """The subtransaction of the last mark."""
    _destination: Destination | None = None
    """That of the last stretch."""
    _publisher = 0
    """Who published last."""

    def __init__(self) -> None:
        self._stream: bytearray | Arena = bytearray()
        self.starts: Numbers = []
        """Offset of every message in the stream."""
        self._marks: Numbers = []
        """Three numbers each: subtransaction id, number of messages and of stretches before it."""
        self._stretches: list[tuple[int, Destination]] = []
        """(number of the first message, destination) of neighbours with one destination"""
        self._publishers: list[tuple[int, int]] = []
        """(number of the first message, OID of the role) of neighbours that one role published"""

    def __len__(self) -> int:
        return len(self.starts)

    def append(
        self,
        subtransaction: int,
        publisher: int,
        destination: Destination,
        encoder: Encoder,
        fields: tuple[object, ...],
        body: bytes,
    ) -> None:
        """Add a message published by `subtransaction` (the current one) and role `publisher`.

        Raises MessageError of `wire` for a message that cannot be encoded; then nothing is added.
        """
        stream, starts = self._stream, self.starts
        start = len(stream)
        if len(body) >= _LARGE_BODY:
            stream = self._with_room_for(body)
        encoder.append(stream, fields, body)
        if subtransaction > self._newest:
            self._newest = subtransaction
            self._marks.extend((subtransaction, len(starts), len(self._stretches)))
        if destination is not self._destination:
            if not self._stretches or destination != self._destination:
                self._stretches.append((len(starts), destination))
            self._destination = destination
        if publisher != self._publisher:
            self._publishers.append((len(starts), publisher))
            self._publisher = publisher
        starts.append(start)
        if len(starts) == _MANY:
            self.starts = _compact(starts)
            self._marks = _compact(self._marks)

    def abort(self, subtransaction: int) -> None:
        """Forget what `subtransaction` and its descendants published."""
        marks = self._marks
        messages = stretches = None
        while marks and marks[-3] >= subtransaction:
            messages, stretches = marks[-2], marks[-1]
            del marks[-3:]
        if messages is not None:
            self._newest = marks[-3] if marks else 0
            del self._stream[self.starts[messages] :]
            del self.starts[messages:]
            del self._stretches[stretches:]
            self._destination = self._stretches[-1][1] if self._stretches else None
            while self._publishers and self._publishers[-1][0] >= messages:
                self._publishers.pop()
            self._publisher = self._publishers[-1][1] if self._publishers else 0

    def pending(self, broker_id: int) -> int:
        """Number of messages that will be sent to a broker."""
        return sum(
            last - first
            for first, last, destination in self._spans()
            if destination == Destination(broker_id, captured=False)
        )

    def sends(self) -> bool:
        """Whether anything will be sent at commit."""
        return any(not destination.captured for _, destination in self._stretches)

    def messages(self) -> Iterator[tuple[int, Destination, Message]]:
        """Everything, decoded, in the order of the calls, with the role that published it."""
        publishers = [*self._publishers, (len(self), 0)]
        at = 0
        for first, last, destination in self._spans():
            for number, message in enumerate(decode_messages(self._part(first, last)), first):
                if number == publishers[at + 1][0]:
                    at += 1
                yield publishers[at][1], destination, message

    def parcels(self) -> list[Parcel]:
        """What is to be sent, by destination; the captured messages are left out."""
        only = self._destination if len(self._stretches) == 1 else None
        if only is not None and not only.captured:
            return [Parcel(only, self._whole(), self.starts)]
        found: dict[Destination, tuple[bytearray, Numbers]] = {}
        for first, last, destination in self._spans():
            if not destination.captured:
                stream, starts = found.setdefault(destination, (bytearray(), self.starts[:0]))
                shift = len(stream) - self.starts[first]
                starts.extend(start + shift for start in self.starts[first:last])
                stream += self._part(first, last)
        return [Parcel(destination, *parts) for destination, parts in found.items()]

    def _spans(self) -> Iterator[tuple[int, int, Destination]]:
        stretches = self._stretches
        for at, (first, destination) in enumerate(stretches):
            last = stretches[at + 1][0] if at + 1 < len(stretches) else len(self.starts)
            yield first, last, destination

    def _part(self, first: int, last: int) -> memoryview:
        end = self.starts[last] if last < len(self.starts) else len(self._stream)
        return memoryview(self._whole())[self.starts[first] : end]

    def _whole(self) -> bytearray | memoryview:
        stream = self._stream
        return stream if isinstance(stream, bytearray) else stream.view()

    def _with_room_for(self, body: bytes) -> bytearray | Arena:
        """The stream, before a large body is appended."""
        stream = self._stream
        if isinstance(stream, bytearray):
            if len(stream) + len(body) >= _LARGE_STREAM:
                # Here, because most sessions never publish so much.
                from pg_amqp_py.wire.memory import Arena

                stream = self._stream = Arena(stream)
            elif not self._keeps_memory:
                from pg_amqp_py.wire.memory import keep_freed_memory

                keep_freed_memory(_LARGE_STREAM)
                TransactionBuffer._keeps_memory = True
        return stream
