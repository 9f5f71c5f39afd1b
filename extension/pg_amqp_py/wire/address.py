"""Where a broker is and how to log in there."""

from __future__ import annotations

from typing import NamedTuple


class Address(NamedTuple):
    """One host of a broker: a row of the broker table, defaults filled in."""

    host: str
    port: int
    vhost: str
    username: str
    password: str
    ssl: bool = False
    ssl_cacert: str | None = None
    """File of PEM certificates to trust instead of the system's, in the server's file system."""
    ssl_cert: str | None = None
    """File of the client's PEM certificate chain."""
    ssl_key: str | None = None
    """File of the client's PEM key."""
    ssl_verify_peer: bool = True
    ssl_verify_hostname: bool = True

    def __str__(self) -> str:
        # The only text form there is, so that no message can show the password.
        return f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Address({self})"
