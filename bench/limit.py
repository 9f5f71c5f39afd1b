"""The broker's limit: what it can take from a plain Python program, without PostgreSQL.

Frames that were encoded beforehand are written to one socket, and every confirm is read. One thread
sends while another reads: against one thread that polls a socket that does not block, this was
equally fast for transient messages (2.3 s for 100,000, medians of five) and 6 % faster for
persistent ones (4.1 s against 4.4 s). To leave at most 1,000, 5,000 or 20,000 messages unconfirmed
changed nothing that was more than the noise (4 % of 50,000 messages).
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.channel import connect_publisher
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.message import Envelope

# A Basic.Ack as a frame (AMQP 0-9-1, sections 4.2.3 and 1.8.3.13): type, channel, size; class and
# method; delivery tag and `multiple`; end.
_ACK = struct.Struct(">BHIHHQBB")
_RECEIVE = 1 << 16
_PATIENCE = 60
"""Seconds without a byte after which something is wrong."""

EXCHANGE, QUEUE = "events", "bench"
"""The topic exchange that is published to, and the queue, bound with its own name."""


class Stream(NamedTuple):
    """Messages as the bytes on the wire."""

    frames: bytes
    messages: int


def repeated(count: int, body: bytes, mode: int | None) -> Stream:
    """The same message many times, as `amqp.publish(1, 'events', 'bench', body, mode)` sends it."""
    one = encoded([(Envelope(EXCHANGE, QUEUE, delivery_mode=mode), body)])
    return Stream(one.frames * count, count)


def encoded(messages: Iterable[tuple[Envelope, bytes]]) -> Stream:
    """Messages one after the other."""
    encoder, frames, count = Encoder(), bytearray(), 0
    for envelope, body in messages:
        encoder.append(frames, tuple(envelope), body)
        count += 1
    return Stream(bytes(frames), count)


class Confirms:
    """Counts the messages that are confirmed, each once, in whatever order the answers come."""

    def __init__(self) -> None:
        self.count = 0
        self._next = 1
        """All delivery tags below it are confirmed."""
        self._early: set[int] = set()
        """Confirmed tags above."""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take in what has arrived. Raises ValueError for anything but an acknowledgement."""
        data = self._rest + data
        whole = len(data) // _ACK.size * _ACK.size
        self._rest = data[whole:]
        for kind, channel, size, class_id, method, tag, multiple, end in _ACK.iter_unpack(
            data[:whole]
        ):
            if (kind, channel, size, class_id, method, end) != (1, 1, 13, 60, 80, 0xCE):
                raise ValueError(f"the broker does not confirm, but answers {data[:200]!r}")
            self._confirm(tag, multiple)
        self.count = self._next - 1 + len(self._early)

    def _confirm(self, tag: int, multiple: int) -> None:
        if multiple:
            self._early = {early for early in self._early if early > tag}
            self._next = max(self._next, tag + 1)
        elif tag == self._next:
            self._next += 1
        else:
            self._early.add(tag)
        while self._next in self._early:
            self._early.remove(self._next)
            self._next += 1


class Limit:
    """A publisher that does nothing but write bytes and count confirms."""

    def __init__(self, port: int) -> None:
        address = Address("127.0.0.1", port, "/", "guest", "guest")
        channel = connect_publisher(address, {"connection_name": "the limit"}, 5, lambda: None)
        self.server_version = channel.connection.server_version
        self._socket = socket.socket(fileno=channel.connection.detach())
        # Python's own timeouts would cost a poll() before each call.
        self._socket.setblocking(True)
        patience = struct.pack("ll", _PATIENCE, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        self._confirms = Confirms()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def publish(self, stream: Stream) -> float:
        """Seconds from the first byte to the last confirm."""
        expected = self._confirms.count + stream.messages
        sender = threading.Thread(target=self._socket.sendall, args=[stream.frames], daemon=True)
        start = time.perf_counter()
        sender.start()
        self._await(expected)
        duration = time.perf_counter() - start
        sender.join()
        return duration

    def round_trip(self, stream: Stream) -> float:
        """The same without a thread: for messages that fit into the socket's buffer."""
        expected = self._confirms.count + stream.messages
        start = time.perf_counter()
        self._socket.sendall(stream.frames)
        self._await(expected)
        return time.perf_counter() - start

    def send(self, stream: Stream) -> float:
        """Seconds of sending alone; the confirms are read when the clock has stopped."""
        expected = self._confirms.count + stream.messages
        start = time.perf_counter()
        self._socket.sendall(stream.frames)
        duration = time.perf_counter() - start
        self._await(expected)
        return duration

    def _await(self, count: int) -> None:
        while self._confirms.count < count:
            data = self._socket.recv(_RECEIVE)
            if not data:
                raise ConnectionError("the broker has closed the connection")
            self._confirms.feed(data)
        if self._confirms.count > count:
            raise ValueError("the broker has confirmed more than was sent")
