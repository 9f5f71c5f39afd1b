"""A private PgBouncer before a private PostgreSQL."""

from __future__ import annotations

import shutil
import signal
import socket
from typing import Literal

from servers.postgres import PostgreSQL
from servers.processes import (
    Process,
    Server,
    ServerError,
    create_folder,
    free_port,
    give_to_server_user,
    log_tail,
    wait_for,
)


class PgBouncer(Server):
    """A pooler on a loopback port, which lets everybody in as the superuser.

    `pool_mode` says for how long a client has a session of PostgreSQL's. As a context manager it is
    started, and then stopped and removed.
    """

    def __init__(self, postgres: PostgreSQL, pool_mode: Literal["session", "transaction"]) -> None:
        self.folder = create_folder()
        self.log = self.folder / "pgbouncer.log"
        self.port = free_port()
        self._postgres = postgres
        self._pool_mode = pool_mode
        self._process: Process | None = None

    def start(self) -> None:
        """Start it and return when it answers. Raises ServerError with the tail of its log."""
        configuration = self.folder / "pgbouncer.ini"
        configuration.write_text(
            f"""
            [databases]
            * = host={self._postgres.folder} port={self._postgres.port} user=postgres
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = any
            pool_mode = {self._pool_mode}
            """.replace("            ", "")
        )
        give_to_server_user(configuration)
        self._process = process = Process(["/usr/sbin/pgbouncer", configuration], self.log)
        try:
            wait_for(lambda: self._is_ready() or not process.is_running(), 60, "it to answer")
        except TimeoutError as error:
            self.stop()
            raise ServerError(f"{error}:\n{log_tail(self.log)}") from None
        if not process.is_running():
            raise ServerError(f"PgBouncer did not start:\n{log_tail(self.log)}")

    def stop(self) -> None:
        """End it, if it runs; it may be started again."""
        if self._process is not None:
            process, self._process = self._process, None
            process.end(signal.SIGTERM)

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
