"""A TCP or TLS byte stream whose every wait is bounded and can be interrupted.

Python restarts a system call that a signal interrupts, so a blocking recv() would ignore a cancel
request. All sockets here are non-blocking; waiting means poll() in slices of at most
100 ms, and between slices `on_wait` is called, which may raise.
"""

from __future__ import annotations

# The half of Python's socket that is written in C, which is all that is needed here. The other half
# makes enums of hundreds of constants: a quarter of a session's first publish().
import _socket as socket
import os
import select
import time

from pg_amqp_py.wire.errors import (
    ConnectionLostError,
    StalledError,
    UnreachableError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pg_amqp_py.wire.address import Address

SLICE = 0.1
"""Seconds after which a wait gives its caller a chance to interrupt it."""

_SEND_CHUNK = 1 << 18
_RECEIVE_CHUNK = 1 << 16
_TLS_RECORD = 1 << 14
_KEEPALIVE = {
    # A dead peer is noticed within about 30 + 3 * 10 seconds without AMQP heartbeats, which
    # an idle backend could not answer.
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
}

_UNACKED = 24
"""Where tcpi_unacked is in struct tcp_info (linux/tcp.h)."""

Bytes = bytes | bytearray | memoryview


class Transport:
    """An open stream. `on_wait` may be replaced at any time by its owner."""

    def __init__(self, stream: socket.socket, on_wait: Callable[[], None]) -> None:
        self.on_wait = on_wait
        self._stream = stream
        self._arrivals = select.poll()
        self._arrivals.register(stream, select.POLLIN)
        self._watched = self._heeded = self._arrivals
        """What wait() waits for to be received."""
        self._either_way = select.poll()
        self._either_way.register(stream, select.POLLIN | select.POLLOUT)
        self._checked = 0.0
        self._chunk = _SEND_CHUNK if type(stream) is socket.socket else _TLS_RECORD
        self._promised = b""
        """What OpenSSL has begun to send and insists on being given again before anything else."""
        self._late = False
        """Whether the last wait began behind its deadline."""

    def send_some(self, data: Bytes) -> int:
        """Bytes of `data` that went out without waiting, 0 if the peer takes none now.

        Raises ConnectionLostError.
        """
        if self._promised:
            self._keep_promise()
            if self._promised:
                return 0
        chunk = data[: self._chunk] if len(data) > self._chunk else data
        sent = self._send(chunk)
        if sent is None:
            self._promised = bytes(chunk)
            return len(chunk)
        return sent

    def _keep_promise(self) -> None:
        sent = self._send(self._promised)
        if sent is not None:
            self._promised = self._promised[sent:]

    def _send(self, data: Bytes) -> int | None:
        """What send() returns; 0 if TCP takes nothing now, None if TLS took it but waits."""
        try:
            return self._stream.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            if _wants_more(error):
                return None
            raise ConnectionLostError(self._last_words() or _reason(error)) from None

    def receive_some(self) -> bytes:
        """What has arrived, b"" if nothing has.

        Raises ConnectionLostError, also when the peer has closed the stream.
        """
        try:
            data = self._stream.recv(_RECEIVE_CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            if _wants_more(error):
                return b""
            raise ConnectionLostError(_reason(error)) from None
        if not data:
            raise ConnectionLostError("the connection was closed by the peer")
        return data

    def receive_within(self, seconds: float) -> bytes:
        """What arrives within `seconds`, at most SLICE, as nothing interrupts it; b"" if nothing.

        Raises ConnectionLostError.
        """
        if not self._arrivals.poll(seconds * 1000):
            return b""
        return self.receive_some()

    @property
    def arrived(self) -> bool:
        """Whether there is something to receive."""
        return bool(self._arrivals.poll(0))

    @property
    def acknowledged(self) -> bool:
        """Whether the peer's TCP has acknowledged all that it was sent; false if nobody can say."""
        if not hasattr(socket, "TCP_INFO"):
            return False
        try:
            info = self._stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED + 4)
        except OSError:
            return False
        # The bytes in flight; what a full window keeps back is not among them.
        return len(info) == _UNACKED + 4 and not any(info[_UNACKED:])

    def _last_words(self) -> str | None:
        """The TLS alert with which the peer explained why it closed, if there is one to read."""
        try:
            self._stream.recv(_RECEIVE_CHUNK)
        except OSError as error:
            if type(error).__name__ == "SSLError":
                return _reason(error)
        return None

    def wait(self, deadline: float, *, sending: bool = False) -> None:
        """Wait until bytes arrive, or, if `sending`, until some can be sent.

        Raises StalledError if `deadline` (of time.monotonic()) has passed, the second time even if
        bytes have arrived: a peer that sends and sends, but never what is waited for, must not
        keep us.
        Raises whatever `on_wait` raises.
        """
        now = time.monotonic()
        if now - self._checked >= SLICE:
            # A peer that trickles keeps every single wait short: look at the clock as well.
            self._checked = now
            self.on_wait()
        if now >= deadline:
            # Once is forgiven: a process that was stopped finds what it waited for when it goes on.
            if self._late:
                raise StalledError("no answer in time")
            self._late = True
        else:
            self._late = False
        poll = self._either_way if sending or self._promised else self._watched
        _wait(poll, deadline, self.on_wait)
        if self._promised:
            self._keep_promise()

    def heed(self, descriptor: int) -> None:
        """Have wait() end also when there is something to read from this descriptor."""
        self._heeded = select.poll()
        self._heeded.register(self._stream, select.POLLIN)
        self._heeded.register(descriptor, select.POLLIN)
        self.heeds(True)

    def heeds(self, heeding: bool) -> None:
        """Whether wait() does so; it must not where nothing but an answer is of use."""
        self._watched = self._heeded if heeding else self._arrivals

    def fileno(self) -> int:
        """The socket's file descriptor, for whoever waits in a way of their own."""
        return self._stream.fileno()

    def close(self) -> None:
        """Close the socket, without a word to the peer."""
        self._stream.close()

    @property
    def stream(self) -> socket.socket:
        """The socket, with the TLS on it if there is any, for who speaks another protocol."""
        return self._stream

    def detach(self) -> int:
        """Give the socket away, as a file descriptor; not one on which TLS is spoken."""
        return self._stream.detach()


def open_transport(address: Address, timeout: float, on_wait: Callable[[], None]) -> Transport:
    """Connect to `address` within `timeout` seconds, by TLS where it says so.

    Every address of the host name is tried in turn. Name resolution is the system's and
    cannot be interrupted. Raises UnreachableError, TLSError.
    """
    deadline = time.monotonic() + timeout
    host = address.host
    try:
        # As bytes, where that makes no difference: a str is encoded by a codec that takes longer to
        # load than the connection to open.
        found = socket.getaddrinfo(
            host.encode() if host.isascii() else host, address.port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise UnreachableError(f"host name not found: {_reason(error)}") from None
    failures = []
    for at, (family, kind, protocol, _, target) in enumerate(found):
        try:
            stream = socket.socket(family, kind, protocol)
        except OSError as error:
            # A machine without IPv6 still finds IPv6 addresses.
            failures.append(_reason(error))
            continue
        # An address that swallows packets leaves time for those after it.
        now = time.monotonic()
        share = now + (deadline - now) / (len(found) - at)
        try:
            _connect(stream, target, share, on_wait)
            if address.ssl:
                # ssl is half of what an import costs: only who uses TLS pays for it.
                from pg_amqp_py.wire.tls import start_tls

                stream = start_tls(stream, address, lambda poll: _wait(poll, deadline, on_wait))
            return Transport(stream, on_wait)
        except UnreachableError as error:
            stream.close()
            failures.append(str(error))
        except BaseException:
            stream.close()
            raise
    raise UnreachableError("; ".join(dict.fromkeys(failures)))


def _connect(
    stream: socket.socket, target: object, deadline: float, on_wait: Callable[[], None]
) -> None:
    stream.setblocking(False)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in _KEEPALIVE.items():
        if hasattr(socket, name):
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    try:
        stream.connect(target)  # type: ignore[arg-type]
        return
    except BlockingIOError:
        pass
    except OSError as error:
        raise UnreachableError(_reason(error)) from None
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    try:
        _wait(poll, deadline, on_wait)
    except StalledError:
        raise UnreachableError("no answer in time") from None
    number = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise UnreachableError(_reason(OSError(number, "")))


def _wait(poll: select.poll, deadline: float, on_wait: Callable[[], None]) -> None:
    while True:
        left = deadline - time.monotonic()
        if poll.poll(max(0.0, min(SLICE, left)) * 1000):
            return
        on_wait()
        if left <= 0:
            raise StalledError("no answer in time")


def _wants_more(error: OSError) -> bool:
    """Whether TLS merely waits for the socket (SSLWantReadError, SSLWantWriteError)."""
    return type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")


def _reason(error: Exception) -> str:
    if type(error).__module__ == "ssl":
        from pg_amqp_py.wire.tls import reason

        return reason(error)
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        # The C library's words: Python's own str() adds its class and number.
        return os.strerror(error.errno).lower()
    return str(error.args[-1] if error.args else error).lower()
