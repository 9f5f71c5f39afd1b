"""Peers that do to a connection what a test wants, though they may know nothing of AMQP."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from servers.processes import Closing
from support.patience import LIMIT


class Peer(Closing):
    """A TCP server on a loopback port that does to each connection what `behave` does.

    A connection is closed when `behave` returns. `tls` makes it a TLS server first.
    """

    def __init__(
        self, behave: Callable[[socket.socket], None], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._behave = behave
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Its AMQP URL, though it may know nothing of AMQP."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._clients.append(client)
            thread = threading.Thread(target=self._serve, args=[client], daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        # The client may go at any time, and may refuse our certificate.
        with client, suppress(OSError):
            if self._tls is None:
                self._behave(client)
            else:
                with self._tls.wrap_socket(client, server_side=True) as secure:
                    self._clients.append(secure)
                    self._behave(secure)

    def close(self) -> None:
        """Hang up on everybody."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            # It may be closed already.
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT)


def until_gone(client: socket.socket) -> None:
    """Say nothing until the client goes."""
    while client.recv(1 << 16):
        pass


def saying(words: bytes, *, stay: bool = False) -> Callable[[socket.socket], None]:
    """Return what a peer does that says this, and then hangs up unless it is to stay."""

    def behave(client: socket.socket) -> None:
        client.recv(8)
        client.sendall(words)
        if stay:
            until_gone(client)
        else:
            client.shutdown(socket.SHUT_WR)
            until_gone(client)

    return behave


def flooding(words: bytes, first: bytes = b"") -> Callable[[socket.socket], None]:
    """Return what a peer does that says this without end, whatever it hears."""

    def behave(client: socket.socket) -> None:
        client.recv(8)
        client.sendall(first)
        listener = threading.Thread(target=_ignore, args=[client], daemon=True)
        listener.start()
        many = words * (1 << 16)
        while True:
            client.sendall(many)

    return behave


def _ignore(client: socket.socket) -> None:
    with suppress(OSError):
        until_gone(client)


def forwarding(
    port: int, *, bytes_per_second: float | None = None
) -> Callable[[socket.socket], None]:
    """Return what a peer does that forwards to this loopback port, at most this fast."""

    def behave(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=_pump, args=[server, client, None], daemon=True)
            back.start()
            _pump(client, server, bytes_per_second)
            back.join(LIMIT)

    return behave


def _pump(source: socket.socket, sink: socket.socket, bytes_per_second: float | None) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 14):
            sink.sendall(data)
            if bytes_per_second:
                time.sleep(len(data) / bytes_per_second)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
