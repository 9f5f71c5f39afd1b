"""Where a gateway listens: one socket for each process on the same port, or one for all."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

_BACKLOG = 2048
_MODE = 0o666
"""Of a Unix socket: who may come is decided by its folder."""


class Sockets:
    """Listening sockets, opened before the processes are made. Raises OSError."""

    def __init__(self) -> None:
        self._each: list[list[socket.socket]] = []
        """For each process, those that are its own."""
        self._shared: list[socket.socket] = []
        self._path: Path | None = None

    def listen(self, host: str, port: int, workers: int) -> int:
        """Listen on an address, with a socket for each process; the port, chosen if it was 0.

        The kernel spreads connections over them evenly. One socket for all would let the process
        that wakes up first have most.
        """
        first = _tcp(host, port, shared=False)
        port = first.getsockname()[1]
        if workers == 1:
            self._each = [[first]]
            return port
        # Nobody else listens there: otherwise it would have failed.
        first.close()
        self._each = [[_tcp(host, port, shared=True)] for _ in range(workers)]
        return port

    def listen_for_metrics(self, host: str, port: int) -> int:
        """Listen on another address, whichever process answers."""
        self._shared.append(_tcp(host, port, shared=False))
        return int(self._shared[-1].getsockname()[1])

    def listen_at(self, path: Path) -> None:
        """Listen on a Unix socket, in the place of one that nobody listens on any more."""
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise FileExistsError(17, "there is something that is no socket")
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise OSError(98, "somebody listens there")
            path.unlink()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(_MODE)
        listener.listen(_BACKLOG)
        self._shared.append(listener)
        self._path = path

    def of(self, worker: int) -> list[socket.socket]:
        """Those of a process."""
        own = self._each[worker] if self._each else []
        return [*own, *self._shared]

    def close(self) -> None:
        """Take no more connections here; processes go on with their own copies."""
        for listener in [*(one for own in self._each for one in own), *self._shared]:
            listener.close()

    def remove(self) -> None:
        """Leave nothing behind."""
        self.close()
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()


def _tcp(host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    os.set_inheritable(listener.fileno(), True)
    return listener
