"""A private PostgreSQL cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from psycopg.pq import PGconn, Ping

from servers.processes import (
    Process,
    Server,
    ServerError,
    children,
    create_folder,
    free_port,
    give_to_server_user,
    log_tail,
    run,
    wait_for,
)

_STOP_SIGNALS = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_prepared_transactions": "10",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_min_messages": "warning",
    "log_min_error_statement": "error",
    # A long test run should not pause for a checkpoint.
    "checkpoint_timeout": "1h",
    "max_wal_size": "4GB",
}

ALONE = "PG_AMQP_PY_ALONE"
"""The variable that names the programs' folder of a PostgreSQL on which tests have outbox and inbox
alone, without the extension: `make matrix` sets it."""


def bindir() -> Path:
    """Return the folder of the server's programs.

    That of the environment's PG_AMQP_PY_ALONE, or of its PG_CONFIG (the Makefile sets it), else of
    the newest PostgreSQL where Debian keeps them. PATH is no guide: it may lead to another
    PostgreSQL, or to a wrapper.
    """
    if ALONE in os.environ:
        return Path(os.environ[ALONE])
    pg_config = os.environ.get("PG_CONFIG")
    if pg_config:
        return Path(subprocess.check_output([pg_config, "--bindir"], text=True).strip())
    installed = [
        path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "postgres").exists()
    ]
    if not installed:
        raise ServerError("no PostgreSQL server found: set PG_CONFIG, or run servers/prepare.sh")
    return max(installed, key=lambda path: float(path.parent.name))


class PostgreSQL(Server):
    """A cluster in a folder of its own, on a loopback port and a Unix socket in that folder.

    `folder` is where it lives (default: a temporary one, removed by `remove`); `settings` are added
    to postgresql.conf; `durable` says whether it may lose data when the machine crashes (tests may:
    fsync is off); `outlive` lets it run on when this process ends; `standby_of` makes it a
    streaming standby of another one. Everybody who reaches it may connect as anybody, the superuser
    is `postgres`. As a context manager it is started, and then stopped and removed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        durable: bool = False,
        outlive: bool = False,
        standby_of: PostgreSQL | None = None,
    ) -> None:
        self.folder = create_folder(folder)
        self.port = free_port()
        self.data = self.folder / "data"
        self.log = self.folder / "postgres.log"
        self.bindir = bindir()
        self._settings = {
            **_SETTINGS,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "on" if durable else "off",
            "full_page_writes": "on" if durable else "off",
            **(settings or {}),
        }
        self._outlive = outlive
        self._primary = standby_of
        self._process: Process | None = None

    def start(self) -> None:
        """Start the server, creating the cluster first if need be; return when it answers.

        Raises ServerError with the tail of the server's log.
        """
        if not self.data.exists():
            self._base_backup(self._primary) if self._primary else self._initdb()
        self._process = process = Process(
            [self.bindir / "postgres", "-D", self.data],
            self.log,
            orphan_signal=None if self._outlive else signal.SIGQUIT,
        )
        try:
            wait_for(
                lambda: self._is_ready() or not process.is_running(), 60, "PostgreSQL to answer"
            )
        except TimeoutError as error:
            self.stop("immediate")
            raise ServerError(f"{error}:\n{log_tail(self.log)}") from None
        if not process.is_running():
            raise ServerError(f"PostgreSQL did not start:\n{log_tail(self.log)}")

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server as `pg_ctl stop -m` does, if it runs; it may be started again."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.end(_STOP_SIGNALS[mode], signal.SIGQUIT)

    def kill(self) -> None:
        """End all its processes with SIGKILL; it may be started again, and then recovers."""
        if self._process is None:
            return
        process, self._process = self._process, None
        # A backend is a session of its own and overwrites the environment that would mark it. Who
        # is stopped starts no other ones while we look.
        os.kill(process.pid, signal.SIGSTOP)
        backends = children(process.pid)
        process.end(signal.SIGKILL)
        for backend in backends:
            # The others may have told it already.
            with suppress(ProcessLookupError):
                os.kill(backend, signal.SIGKILL)
        wait_for(
            lambda: not any(Path(f"/proc/{backend}").exists() for backend in backends),
            10,
            "PostgreSQL's processes to end",
        )

    def promote(self) -> None:
        """Make a standby a primary of its own; return when it takes writes."""
        run([self.bindir / "pg_ctl", "promote", f"--pgdata={self.data}", "--wait", "--silent"])
        self._primary = None

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server in this mode and start it on the same port with the same data."""
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Stop the server at once and remove its folder."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """Return a libpq connection string, through the Unix socket."""
        return f"host={self.folder} port={self.port} dbname={dbname} user={user}"

    def dsn_with(self, other: PostgreSQL, dbname: str = "postgres") -> str:
        """Return a libpq connection string of whichever of the two takes writes, through TCP."""
        return (
            f"host=127.0.0.1,127.0.0.1 port={self.port},{other.port} dbname={dbname}"
            " user=postgres target_session_attrs=read-write"
        )

    def log_text(self) -> str:
        """Return all that the server logged so far."""
        return self.log.read_text(errors="replace")

    @property
    def processes(self) -> list[Process]:
        """The processes that were started: none when the server is down."""
        return [self._process] if self._process else []

    @property
    def pid(self) -> int:
        """The postmaster's process id. Raises ServerError when it is down."""
        if self._process is None:
            raise ServerError("PostgreSQL is not running")
        return self._process.pid

    def _initdb(self) -> None:
        run(
            [
                self.bindir / "initdb",
                f"--pgdata={self.data}",
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--no-instructions",
            ]
        )
        self._configure()

    def _base_backup(self, primary: PostgreSQL) -> None:
        run(
            [
                self.bindir / "pg_basebackup",
                f"--pgdata={self.data}",
                f"--dbname={primary.dsn()}",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            ]
        )
        self._configure()

    def _configure(self) -> None:
        conf = self.data / "postgresql.conf"
        with conf.open("a") as file:
            for name, value in self._settings.items():
                quoted = value.replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")
        give_to_server_user(conf)

    def _is_ready(self) -> bool:
        return PGconn.ping(self.dsn().encode()) == Ping.OK
