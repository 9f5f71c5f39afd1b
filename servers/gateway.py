"""pg-amqp gateway, as the program that administrators run."""

from __future__ import annotations

from collections.abc import Mapping

from servers.relay import DaemonProcess


class GatewayProcess(DaemonProcess):
    """`pg-amqp gateway` on a loopback port of its own."""

    command = "gateway"

    def __init__(
        self, *arguments: str, dsn: str | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(dsn, "--listen", "127.0.0.1:0", *arguments, env=env)
        # What a crash leaves goes with the rest.
        self._env = {"TMPDIR": str(self._folder), **(env or {})}

    @property
    def leftovers(self) -> list[str]:
        """What of its temporary files is still there."""
        return [path.name for path in self._folder.glob("pg-amqp-gateway-*")]

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.wait_for_event("gateway started")["port"]
        return port
