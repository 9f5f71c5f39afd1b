"""AMQP URIs, as RabbitMQ specifies them ("RabbitMQ URI Specification"), with several hosts."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

_PORTS = {"amqp": 5672, "amqps": 5671}
# Scheme, login, hosts, virtual host. urllib's own urlsplit() takes only one host in brackets.
_URI = re.compile(r"(amqps?)://(?:([^/?#]*)@)?([^@/?#]*)(?:/([^/?#]*))?", re.IGNORECASE)


class InvalidURIError(ValueError):
    """The text is no AMQP URI; the message says why and never repeats the text."""


class Host(NamedTuple):
    """One host of a URI; None where the URI says nothing."""

    host: str
    port: int
    vhost: str | None
    username: str | None
    password: str | None
    ssl: bool


def parse_uri(uri: str) -> list[Host]:
    """The hosts of `amqp[s]://[user[:password]@]host[:port][,host[:port]...][/vhost]`.

    Everything may be percent-encoded. Raises InvalidURIError.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        raise InvalidURIError(_complaint(uri))
    scheme, login, hosts, vhost = found.groups(default="")
    username, colon, password = login.partition(":")
    scheme = scheme.lower()
    if len(_decode(vhost).encode()) > 255:
        raise InvalidURIError("the virtual host is longer than 255 bytes")
    found_hosts = [
        Host(
            *_host_and_port(host, _PORTS[scheme]),
            _decode(vhost) or None,
            _decode(username) or None,
            _decode(password) if colon else None,
            scheme == "amqps",
        )
        for host in hosts.split(",")
    ]
    if len(set(found_hosts)) < len(found_hosts):
        raise InvalidURIError("a host is named twice")
    return found_hosts


def _complaint(uri: str) -> str:
    """What is wrong with a text that has not even the form of an AMQP URI."""
    if not re.match(r"amqps?://", uri, re.IGNORECASE):
        return 'it does not begin with "amqp://" or "amqps://"'
    if re.search(r"[?#]", uri):
        return "it has a query or a fragment"
    return 'a "/" in the virtual host must be written as %2F'


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    if text.startswith("["):
        # An IPv6 address.
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise InvalidURIError('a "]" is missing')
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
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise InvalidURIError('a "%" is not followed by two hexadecimal digits')
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidURIError("a percent-encoded part is not UTF-8") from None
    if "\0" in decoded:
        raise InvalidURIError("it holds a NUL character")
    return decoded
