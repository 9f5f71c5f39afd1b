"""TLS on a stream: certificates and keys from files, the handshake, and OpenSSL's words in English.

Loaded by whoever uses TLS, and by nobody else.
"""

from __future__ import annotations

import os
import select
import ssl

from pg_amqp_py.wire.errors import StalledError, TLSError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable

    from pg_amqp_py.wire.address import Address

_LARGEST_FILE = 1 << 20
"""Bytes of a file of certificates: those of all authorities there are take a quarter of it."""

# What OpenSSL makes of an answer that is no TLS record, in its different versions.
_NO_TLS = {
    "wrong version number",
    "unknown protocol",
    "http request",
    "packet length too long",
    "record layer failure",
    "bad record type",
}
_DAMAGED = "it is damaged"
_NO_VERSION = "client and server have no version of TLS in common"
_WORDS = {
    "unsupported protocol": _NO_VERSION,
    "tlsv1 alert protocol version": _NO_VERSION,
    "legacy sigalg disallowed or unsupported": (
        "the server signs in a way that this machine's OpenSSL takes for too weak, such as SHA-1"
    ),
    "ca md too weak": "an authority's certificate is signed with a hash that is too weak",
    "ee key too small": "the certificate's key is too small",
    "ca key too small": "the key of an authority's certificate is too small",
    "key values mismatch": "the key is not that of the certificate (key values mismatch)",
}


def start_tls(
    stream: socket.socket, address: Address, wait: Callable[[select.poll], None]
) -> socket.socket:
    """Shake hands, and return the stream inside; `wait` waits until one of a poll is ready.

    Raises TLSError, and whatever `wait` raises but StalledError.
    """
    context = _context(address)
    poll = select.poll()
    try:
        secure = context.wrap_socket(
            stream,  # type: ignore[arg-type]  # it asks for nothing of the other half
            server_hostname=address.host,
            do_handshake_on_connect=False,
        )
    except (OSError, ValueError) as error:
        raise TLSError(str(error)) from None
    try:
        while True:
            try:
                secure.do_handshake()
                return secure
            except ssl.SSLWantReadError:
                poll.register(secure, select.POLLIN)
            except ssl.SSLWantWriteError:
                poll.register(secure, select.POLLOUT)
            wait(poll)
    except BaseException as error:
        secure.close()
        if isinstance(error, StalledError):
            raise TLSError("no answer to the TLS handshake in time") from None
        if isinstance(error, OSError):
            raise TLSError(reason(error)) from None
        raise


def _context(address: Address) -> ssl.SSLContext:
    with _Files(ssl_cacert=address.ssl_cacert) as (ca,):
        try:
            context = ssl.create_default_context(cafile=ca)
        except OSError as error:
            why = _pem_reason(error, ca, "CERTIFICATE-----", "certificate")
            raise TLSError(f'could not load ssl_cacert "{address.ssl_cacert}": {why}') from None
    context.check_hostname = address.ssl_verify_peer and address.ssl_verify_hostname
    if not address.ssl_verify_peer:
        context.verify_mode = ssl.CERT_NONE
    if address.ssl_cert is not None:
        _load_client(context, address)
    return context


def _load_client(context: ssl.SSLContext, address: Address) -> None:
    """Have it show a certificate to whoever asks. Raises TLSError."""
    with _Files(ssl_cert=address.ssl_cert, ssl_key=address.ssl_key) as (chain, key):
        try:
            # An encrypted key would make OpenSSL ask for its password at a terminal.
            context.load_cert_chain(chain or "", key, password=_no_password)
        except (OSError, ValueError) as error:
            why = _pem_reason(error, chain, "CERTIFICATE-----", "certificate")
            at_fault = f'ssl_cert "{address.ssl_cert}"'
            if why == _DAMAGED:
                why = _pem_reason(error, key or chain, "PRIVATE KEY-----", "private key")
                at_fault += f' with ssl_key "{address.ssl_key or address.ssl_cert}"'
            raise TLSError(f"could not load {at_fault}: {why}") from None


def _pem_reason(error: Exception, path: str | None, mark: str, what: str) -> str:
    """Why a file could not be loaded: OpenSSL often says no more than that it is PEM's fault."""
    if not isinstance(error, ssl.SSLError):
        return str(error)
    if path is not None and error.reason in (None, "NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE"):
        with open(path, encoding="latin-1") as file:  # noqa: PTH123 -- costs no import
            if mark not in file.read():
                return f"it holds no {what} in PEM format"
    return reason(error) if error.reason else _DAMAGED


class _Files:
    """Files of certificates and keys, opened without waiting for anything; None stays None.

    What opening or reading could wait for without end is refused: a FIFO, a device, a socket behind
    /proc, and what pretends to be a file but has no size or no end. In a context they are paths
    of what was looked at, whatever may be put in its place meanwhile.
    """

    def __init__(self, **paths: str | None) -> None:
        self._paths = paths
        """By the column of amqp.broker that says so."""
        self._descriptors: list[int] = []

    def __enter__(self) -> list[str | None]:
        """Raises TLSError."""
        try:
            return [self._looked_at(*given) for given in self._paths.items()]
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def _looked_at(self, column: str, path: str | None) -> str | None:
        try:
            return None if path is None else self._open(path)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise TLSError(f'could not load {column} "{path}": {why}') from None

    def _open(self, path: str) -> str:
        import errno
        import stat
        from pathlib import Path

        # Before opening it, which may already do something to a device.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise OSError("not a regular file")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._descriptors.append(descriptor)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("not a regular file")
        if found.st_size > _LARGEST_FILE:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if not found.st_size:
            raise OSError("the file is empty")
        opened = f"/proc/self/fd/{descriptor}"
        return opened if Path(opened).exists() else path


def _no_password() -> str:
    raise ValueError("the key is encrypted; an unencrypted key file is needed")


def reason(error: Exception) -> str:
    """What is told of an error of the stream."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return "the connection was closed by the peer"
    if isinstance(error, ssl.SSLError):
        words = (error.reason or str(error)).lower().replace("_", " ")
        if words in _NO_TLS:
            return f"the server does not speak TLS ({words})"
        return _WORDS.get(words, words)
    words = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return f"the TLS handshake was cut off: {words.lower()}"
