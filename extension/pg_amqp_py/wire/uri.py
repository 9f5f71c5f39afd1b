"""AMQP URIs, as RabbitMQ specifies them ("RabbitMQ URI Specification"), with several hosts."""

from __future__ import annotations

from typing import NamedTuple, Optional
from urllib.parse import unquote, urlsplit

_PORTS = {"amqp": 5672, "amqps": 5671}


class InvalidURIError(ValueError):
    """The text is no AMQP URI; the message says why and never repeats the text."""


class Host(NamedTuple):
    """One host of a URI; None where the URI says nothing."""

    host: str
    port: int
    vhost: Optional[str]
    username: Optional[str]
    password: Optional[str]
    ssl: bool


def parse_uri(uri: str) -> list[Host]:
    """The hosts of `amqp[s]://[user[:password]@]host[:port][,host[:port]...][/vhost]`.

    Everything may be percent-encoded. Raises InvalidURIError.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise InvalidURIError("it is malformed") from None
    scheme = parts.scheme.lower()
    if scheme not in _PORTS:
        raise InvalidURIError('it does not begin with "amqp://" or "amqps://"')
    if parts.query or parts.fragment:
        raise InvalidURIError("it has a query or a fragment")
    if "/" in parts.path[1:]:
        raise InvalidURIError('a "/" in the virtual host must be written as %2F')
    login, _, hosts = parts.netloc.rpartition("@")
    username, colon, password = login.partition(":")
    return [
        Host(
            *_host_and_port(host, _PORTS[scheme]),
            _decode(parts.path[1:]) or None,
            _decode(username) or None,
            _decode(password) if colon else None,
            scheme == "amqps",
        )
        for host in hosts.split(",")
    ]


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    if text.startswith("["):
        # An IPv6 address.
        host, _, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = text.partition(":")
    host = _decode(host)
    if not host:
        raise InvalidURIError("a host is missing")
    if not colon:
        return host, default
    if not (colon == ":" and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidURIError("a port is not a number between 1 and 65535")
    return host, int(port)


def _decode(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidURIError("a percent-encoded part is not UTF-8") from None
    if "\0" in decoded:
        raise InvalidURIError("it holds a NUL character")
    return decoded
