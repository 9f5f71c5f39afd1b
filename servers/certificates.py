"""Certificates for TLS tests: good ones and ones that must be refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from servers.processes import give_to_server_user


class Certificates:
    """A certificate authority and what it signed, as PEM files in `folder`.

    The files belong to the user that the servers run as, and only it (and root) can read them:
    PostgreSQL's backend and the RabbitMQ node are the ones that use them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        authority = trustme.CA(organization_name="pg_amqp_py tests")
        #: The authority that signed all below.
        self.ca = self._write("ca.pem", authority.cert_pem)
        #: An authority that signed none of them.
        self.other_ca = self._write("other-ca.pem", trustme.CA().cert_pem)
        #: The server's, good for localhost and 127.0.0.1.
        self.server, self.server_key = self._write_pair(
            "server", authority.issue_cert("localhost", "127.0.0.1", common_name="localhost")
        )
        #: A server's, good for another host.
        self.wrong_name, self.wrong_name_key = self._write_pair(
            "wrong-name", authority.issue_cert("elsewhere.test", common_name="elsewhere.test")
        )
        #: A server's, good for this host, but no longer.
        yesterday = datetime.now(UTC) - timedelta(days=1)
        self.expired, self.expired_key = self._write_pair(
            "expired",
            authority.issue_cert(
                "localhost", "127.0.0.1", common_name="localhost", not_after=yesterday
            ),
        )
        #: A client's.
        self.client, self.client_key = self._write_pair(
            "client", authority.issue_cert("client@test", common_name="client")
        )

    def tls(self, *, verify_client: bool = False) -> dict[str, str]:
        """Return RabbitMQ's `ssl_options` for the good server certificate.

        A client's certificate is checked when there is one; `verify_client` makes it obligatory.
        """
        return {
            "cacertfile": str(self.ca),
            "certfile": str(self.server),
            "keyfile": str(self.server_key),
            "verify": "verify_peer",
            "fail_if_no_peer_cert": str(verify_client).lower(),
        }

    def _write_pair(self, name: str, issued: trustme.LeafCert) -> tuple[Path, Path]:
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return (
            self._write(f"{name}.pem", trustme.Blob(chain)),
            self._write(f"{name}.key", issued.private_key_pem),
        )

    def _write(self, name: str, pem: trustme.Blob) -> Path:
        path = self._folder / name
        path.touch(mode=0o600)
        pem.write_to_path(path)
        give_to_server_user(path)
        return path
