"""Where a broker is and how to log in there."""

from __future__ import annotations


class Address:
    """One host of a broker: a row of the broker table, defaults filled in."""

    def __init__(
        self,
        host: str,
        port: int,
        vhost: str,
        username: str,
        password: str,
        ssl: bool = False,
        ssl_cacert: str | None = None,
        ssl_cert: str | None = None,
        ssl_key: str | None = None,
        ssl_verify_peer: bool = True,
        ssl_verify_hostname: bool = True,
    ) -> None:
        self.host = host
        self.port = port
        self.vhost = vhost
        self.username = username
        self.password = password
        self.ssl = ssl
        self.ssl_cacert = ssl_cacert
        """File of PEM certificates to trust instead of the system's."""
        self.ssl_cert = ssl_cert
        """File of the client's PEM certificate chain."""
        self.ssl_key = ssl_key
        """File of the client's PEM key."""
        self.ssl_verify_peer = ssl_verify_peer
        self.ssl_verify_hostname = ssl_verify_hostname

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.host, self.port))

    def __str__(self) -> str:
        # The only text form there is, so that no message can show the password.
        return f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Address({self})"
