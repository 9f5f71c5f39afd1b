"""The hosts of RabbitMQ that the command line names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pg_amqp_py.wire.uri import InvalidURIError, parse_uri


class GatewayError(Exception):
    """The gateway cannot begin."""


class Host(NamedTuple):
    """A host of RabbitMQ."""

    host: str
    port: int
    ssl: bool


def hosts_of(uris: Iterable[str]) -> list[Host]:
    """The hosts of all these. Raises GatewayError."""
    found = []
    for uri in uris:
        try:
            parsed = parse_uri(uri)
        except InvalidURIError as error:
            raise GatewayError(f"--broker: {error}") from None
        for host in parsed:
            if host.username is not None or host.password is not None or host.vhost is not None:
                # Requests bring these.
                raise GatewayError("--broker: it has a login or a virtual host")
            found.append(Host(host.host, host.port, host.ssl))
    return found
