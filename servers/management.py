"""A RabbitMQ node's management HTTP API: what rabbitmqctl does, a hundred times faster."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen


class ManagementError(RuntimeError):
    """The node refused a request; the message ends with its reason."""


class Management:
    """The API of the node that listens at this loopback port, used as guest."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api"
        self._login = "Basic " + base64.b64encode(b"guest:guest").decode()

    def request(self, method: str, *path: str, body: Mapping[str, object] | None = None) -> Any:
        """Send a request to the resource that the path's parts name; return the decoded answer.

        None when the answer is empty. Raises ManagementError when the node refuses it.
        """
        parts = "/".join(quote(part, safe="") for part in path)
        request = Request(
            f"{self._base}/{parts}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": self._login, "Content-Type": "application/json"},
        )
        try:
            with urlopen(request, timeout=30) as response:
                answer = response.read()
        except HTTPError as error:
            with error:
                reason = error.read().decode(errors="replace")
            raise ManagementError(f"{method} {parts}: {error.code} {reason}") from None
        return json.loads(answer) if answer else None

    def create_vhost(self, vhost: str) -> None:
        """Create a virtual host in which guest may do everything."""
        self.request("PUT", "vhosts", vhost)
        self.grant(vhost, "guest")

    def delete_vhost(self, vhost: str) -> None:
        """Delete a virtual host with all that is in it."""
        self.request("DELETE", "vhosts", vhost)

    def create_user(self, user: str, password: str, *, tags: str = "") -> None:
        """Create a user, or give an existing one this password."""
        self.request("PUT", "users", user, body={"password": password, "tags": tags})

    def delete_user(self, user: str) -> None:
        """Delete a user."""
        self.request("DELETE", "users", user)

    def grant(
        self, vhost: str, user: str, *, configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """Let a user into a virtual host, with these patterns of what it may touch there."""
        permissions = {"configure": configure, "write": write, "read": read}
        self.request("PUT", "permissions", vhost, user, body=permissions)

    def connections(self, vhost: str) -> list[dict[str, Any]]:
        """Return the open connections of a virtual host, as the API describes them."""
        found: list[dict[str, Any]] = self.request("GET", "vhosts", vhost, "connections")
        return found
