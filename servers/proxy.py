"""A TCP proxy that breaks connections on command.

What it must support: let through; refuse, reset or swallow new connections; reset or stall
existing ones in either direction; half-close; cut or stall after an exact number of bytes; count.
A command has taken effect when it returns.

The plan: one thread owns all sockets and runs one selector loop. A command is a function handed to
that thread, which runs it between two rounds of the loop. A connection is two pipes, one for each
direction. A pipe reads only while it has room and is not stalled, so that a stalled peer sees what
it would see of a peer that hangs: a full window, and no error.
"""

from __future__ import annotations

import enum
import fcntl
import selectors
import socket
import struct
import termios
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from servers.processes import Closing, free_port, wait_for

T = TypeVar("T")

# How many bytes a pipe holds at most between reading and writing them.
_ROOM = 64 * 1024


class Direction(enum.Flag):
    """The way that bytes go."""

    TO_SERVER = enum.auto()
    TO_CLIENT = enum.auto()
    BOTH = TO_SERVER | TO_CLIENT


class Welcome(enum.Enum):
    """What a new connection meets."""

    PASS = enum.auto()
    """It is connected to the server."""
    REFUSE = enum.auto()
    """Nobody listens."""
    RESET = enum.auto()
    """It is accepted and at once reset."""
    STALL = enum.auto()
    """It is accepted, and nothing ever comes."""


class CuttingProxy(Closing):
    """A proxy on a loopback port to `server_port` of loopback; at first it lets everything pass.

    `port` is its own port and stays the same through all commands. As a context manager it is
    closed at the end, and every connection with it.
    """

    def __init__(self, server_port: int) -> None:
        self._server = ("127.0.0.1", server_port)
        self._selector = selectors.DefaultSelector()
        #: The proxy's own port on loopback.
        self.port = free_port()
        self._listener = self._listen(self.port)
        self._welcome = Welcome.PASS
        self._stalled = Direction(0)
        self._cut: _Cut | None = None
        self._links: set[_Link] = set()
        self._accepted = 0
        self._bytes = {Direction.TO_SERVER: 0, Direction.TO_CLIENT: 0}
        self._commands: deque[Callable[[], None]] = deque()
        self._closing = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._selector.register(self._wake_in, selectors.EVENT_READ, self._run_command)
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    # ---- Commands ----

    def pass_all(self) -> None:
        """Let everything pass again, also what a stall held back; a cut that is due is dropped."""

        def command() -> None:
            self._stalled = Direction(0)
            self._cut = None
            self._set_welcome(Welcome.PASS)
            self._update_all()

        self._do(command)

    def welcome(self, welcome: Welcome) -> None:
        """Say what new connections meet from now on; existing ones go on."""
        self._do(lambda: self._set_welcome(welcome))

    def refuse(self) -> None:
        """Refuse new connections and reset the existing ones, as when the server's host dies."""

        def command() -> None:
            self._set_welcome(Welcome.REFUSE)
            self._reset_all()

        self._do(command)

    def reset(self) -> None:
        """Reset (RST) the existing connections, both sides; new ones are welcome as before."""
        self._do(self._reset_all)

    def stall(self, direction: Direction = Direction.BOTH) -> None:
        """Forward nothing this way any more, on existing and new connections, until `pass_all`."""

        def command() -> None:
            self._stalled = direction
            self._update_all()

        self._do(command)

    def half_close(self, direction: Direction) -> None:
        """End the stream (FIN) that the existing connections carry this way; the other goes on."""

        def command() -> None:
            for link in list(self._links):
                for pipe in link.pipes:
                    if pipe.direction in direction:
                        pipe.source_ended = True
                if link in self._links:  # A cut may have been due.
                    self._move(link)

        self._do(command)

    def cut_after(self, count: int, direction: Direction, *, then: Welcome = Welcome.PASS) -> None:
        """Reset all connections once this many more bytes went this way, over all connections.

        Exactly `count` bytes are forwarded, and the rest of what was sent never is. New
        connections then meet `then`.
        """

        def command() -> None:
            self._cut = _Cut(direction, count, then)

        self._do(command)

    def stall_after(self, count: int, direction: Direction) -> None:
        """Stall this direction once this many more bytes went this way, over all connections.

        Until then it goes on, if it was stalled.
        """

        def command() -> None:
            self._cut = _Cut(direction, count, None)
            self._stalled &= ~direction
            self._update_all()

        self._do(command)

    def close(self) -> None:
        """Close the proxy and all its connections."""
        if self._thread.is_alive():
            self._do(self._close)
            self._thread.join()
            self._wake_out.close()

    # ---- Counts ----

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        return self._ask(lambda: self._accepted)

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return self._ask(lambda: len(self._links))

    @property
    def bytes_to_server(self) -> int:
        """How many bytes were forwarded to the server so far."""
        return self._ask(lambda: self._bytes[Direction.TO_SERVER])

    @property
    def bytes_to_client(self) -> int:
        """How many bytes were forwarded to the client so far."""
        return self._ask(lambda: self._bytes[Direction.TO_CLIENT])

    # ---- The thread ----

    def _do(self, command: Callable[[], T]) -> T:
        """Run the command in the proxy's thread and return its result."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(command())
            except Exception as error:
                result.set_exception(error)

        self._commands.append(run)
        self._wake_out.send(b"\0")
        return result.result(timeout=10)

    def _ask(self, count: Callable[[], int]) -> int:
        """Return a count as it stands between two rounds of the loop, or after the last."""
        return self._do(count) if self._thread.is_alive() else count()

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                # An earlier event of this round may have closed this one's socket.
                if isinstance(key.fileobj, socket.socket) and key.fileobj.fileno() >= 0:
                    key.data()
        self._selector.close()

    def _run_command(self) -> None:
        # A byte for each command, sent after it was appended: there is one.
        self._wake_in.recv(1)
        self._commands.popleft()()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=512)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        return listener

    def _set_welcome(self, welcome: Welcome) -> None:
        was_listening = self._welcome is not Welcome.REFUSE
        listens = welcome is not Welcome.REFUSE
        self._welcome = welcome
        if was_listening and not listens:
            self._selector.unregister(self._listener)
            self._listener.close()
        elif listens and not was_listening:
            self._listener = self._listen(self.port)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # It was gone again before we came.
        self._accepted += 1
        if self._welcome is Welcome.RESET:
            _reset(client)
            return
        server = None
        if self._welcome is Welcome.PASS:
            try:
                server = socket.create_connection(self._server, timeout=5)
            except OSError:
                _reset(client)
                return
        link = _Link(client, server)
        self._links.add(link)
        self._update(link)

    def _move(self, link: _Link) -> None:
        """Forward what can be forwarded without waiting."""
        try:
            for pipe in link.pipes:
                if pipe.direction not in self._stalled:
                    pipe.fill()
                    self._drain(pipe)
                    if link not in self._links:
                        return  # A cut was due.
        except OSError:
            # One side was reset: so is the other.
            self._reset_link(link)
            return
        if all(pipe.ended for pipe in link.pipes):
            self._forget(link)
            link.close()
        else:
            self._update(link)

    def _drain(self, pipe: _Pipe) -> None:
        cut = self._cut
        if cut is None or pipe.direction not in cut.direction:
            self._bytes[pipe.direction] += pipe.drain(_ROOM)
            return
        sent = pipe.drain(cut.left)
        self._bytes[pipe.direction] += sent
        cut.left -= sent
        if cut.left == 0:
            self._cut = None
            if cut.then is None:
                self._stalled = cut.direction
                self._update_all()
                return
            self._set_welcome(cut.then)
            wait_for(lambda: _is_delivered(pipe.sink), 5, "the bytes before the cut to arrive")
            self._reset_all()

    def _update_all(self) -> None:
        for link in list(self._links):
            self._update(link)

    def _update(self, link: _Link) -> None:
        """Ask the selector for what the connection waits for now."""
        running = [pipe for pipe in link.pipes if pipe.direction not in self._stalled]
        for end in link.sockets:
            events = 0
            if any(pipe.source is end and pipe.has_room() for pipe in running):
                events |= selectors.EVENT_READ
            if any(pipe.sink is end and pipe.has_work() for pipe in running):
                events |= selectors.EVENT_WRITE
            registered = end in self._selector.get_map()
            if events and registered:
                self._selector.modify(end, events, lambda: self._move(link))
            elif events:
                self._selector.register(end, events, lambda: self._move(link))
            elif registered:
                self._selector.unregister(end)

    def _reset_all(self) -> None:
        for link in list(self._links):
            self._reset_link(link)

    def _reset_link(self, link: _Link) -> None:
        self._forget(link)
        for end in link.sockets:
            _reset(end)

    def _forget(self, link: _Link) -> None:
        self._links.discard(link)
        for end in link.sockets:
            if end in self._selector.get_map():
                self._selector.unregister(end)

    def _close(self) -> None:
        self._set_welcome(Welcome.REFUSE)
        self._reset_all()
        self._selector.unregister(self._wake_in)
        self._wake_in.close()
        self._closing = True


@dataclass
class _Cut:
    """What `cut_after` ordered, or, without `then`, `stall_after`: `left` counts down."""

    direction: Direction
    left: int
    then: Welcome | None


class _Pipe:
    """One direction of a connection, with the bytes that were read and not yet written."""

    def __init__(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        self.direction = direction
        self.source = source
        self.sink = sink
        self.source_ended = False
        self.ended = False
        self._pending = bytearray()

    def has_room(self) -> bool:
        """Whether the pipe would read more."""
        return not self.source_ended and len(self._pending) < _ROOM

    def has_work(self) -> bool:
        """Whether the pipe would write: bytes, or the end of the stream."""
        return bool(self._pending) or (self.source_ended and not self.ended)

    def fill(self) -> None:
        """Read what is there, as far as there is room."""
        if not self.has_room():
            return
        with suppress(BlockingIOError):
            received = self.source.recv(_ROOM)
            self._pending += received
            self.source_ended = not received

    def drain(self, limit: int) -> int:
        """Write up to `limit` bytes as far as the sink takes them; return how many it took."""
        sent = 0
        if self._pending and limit:
            with suppress(BlockingIOError):
                sent = self.sink.send(memoryview(self._pending)[:limit])
                del self._pending[:sent]
        if self.source_ended and not self._pending and not self.ended:
            self.sink.shutdown(socket.SHUT_WR)
            self.ended = True
        return sent


class _Link:
    """A client's connection, and ours to the server for it (none if the client is stalled)."""

    def __init__(self, client: socket.socket, server: socket.socket | None) -> None:
        self.sockets = [client] if server is None else [client, server]
        for end in self.sockets:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pipes: list[_Pipe] = []
        if server is not None:
            self.pipes = [
                _Pipe(Direction.TO_SERVER, client, server),
                _Pipe(Direction.TO_CLIENT, server, client),
            ]

    def close(self) -> None:
        """Close both ends in order."""
        for end in self.sockets:
            end.close()


def _reset(end: socket.socket) -> None:
    """Close a socket so that its peer gets a reset."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def _is_delivered(end: socket.socket) -> bool:
    """Whether the peer's kernel has all that was sent: a reset discards what is still here."""
    return fcntl.ioctl(end, termios.TIOCOUTQ, bytes(4)) == bytes(4)
