"""A private InfluxDB 1.x server."""

from __future__ import annotations

import base64
import json
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

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

Setting = str | int | bool


class InfluxDB(Server):
    """A server with its own data and ports, on loopback, beside any other one.

    `folder` is where it lives (default: a temporary one, removed by `remove`). `config` is added to
    its configuration, by section: {"http": {"max-body-size": 1000}}; `outlive` lets it run on when
    this process ends. As a context manager it is started, and then stopped and removed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        config: Mapping[str, Mapping[str, Setting]] | None = None,
        outlive: bool = False,
    ) -> None:
        self.folder = create_folder(folder)
        self.log = self.folder / "influxdb.log"
        self.port = free_port()
        # For backups; it cannot be switched off.
        self._rpc_port = free_port()
        self._config = dict(config or {})
        self._outlive = outlive
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id. Raises ServerError when it is down."""
        if self._process is None:
            raise ServerError("InfluxDB is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server and return when it answers.

        Raises ServerError with the tail of the server's log.
        """
        configuration = self.folder / "influxdb.conf"
        configuration.write_text(self._configuration())
        give_to_server_user(configuration)
        self._process = process = Process(
            ["influxd", "-config", configuration],
            self.log,
            env={"HOME": str(self.folder)},
            orphan_signal=None if self._outlive else signal.SIGKILL,
        )
        try:
            wait_for(lambda: self._is_ready() or not process.is_running(), 60, "InfluxDB to answer")
        except TimeoutError as error:
            self.kill()
            raise ServerError(f"{error}:\n{log_tail(self.log)}") from None
        if not process.is_running():
            raise ServerError(f"InfluxDB did not start:\n{log_tail(self.log)}")

    def stop(self) -> None:
        """Shut the server down in order; it may be started again. Does nothing if it is down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would. Does nothing if it is down."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server and start it again on the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it stand still, with its connections open."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._running().send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Kill the server and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def configure(self, config: Mapping[str, Mapping[str, Setting]]) -> None:
        """Let this be what is added to its configuration when it is next started."""
        self._config = dict(config)

    def query(
        self, text: str, database: str = "", *, login: tuple[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Run statements of InfluxQL and return the rows of the last one, times in nanoseconds.

        Raises ServerError with InfluxDB's words when it refuses one.
        """
        form = urlencode({"q": text, "db": database, "epoch": "ns"}).encode()
        request = Request(f"{self.url}/query", data=form)
        if login is not None:
            token = base64.b64encode(":".join(login).encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        try:
            with urlopen(request, timeout=30) as response:
                results = json.load(response)["results"]
        except HTTPError as error:
            with error:
                raise ServerError(f"{text}: {error.read().decode(errors='replace')}") from None
        for result in results:
            if "error" in result:
                raise ServerError(f"{text}: {result['error']}")
        return [
            dict(zip(series["columns"], values, strict=True)) | series.get("tags", {})
            for series in results[-1].get("series", [])
            for values in series["values"]
        ]

    def log_text(self) -> str:
        """Return all that it has logged."""
        return self.log.read_text(errors="replace")

    def _running(self) -> Process:
        if self._process is None:
            raise ServerError("InfluxDB is not running")
        return self._process

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.end(how)

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/ping", timeout=5) as response:
                return bool(response.status == 204)
        except (URLError, OSError):
            return False

    def _configuration(self) -> str:
        data = self.folder / "data"
        sections: dict[str, dict[str, Setting]] = {
            "": {
                "reporting-disabled": True,
                "bind-address": f"127.0.0.1:{self._rpc_port}",
            },
            "meta": {"dir": f"{data}/meta"},
            "data": {"dir": f"{data}/data", "wal-dir": f"{data}/wal"},
            "monitor": {"store-enabled": False},
            "http": {"bind-address": f"127.0.0.1:{self.port}"},
        }
        for section, settings in self._config.items():
            sections.setdefault(section, {}).update(settings)
        return "\n".join(
            "\n".join(
                [
                    *([f"[{section}]"] if section else []),
                    # A text, number or boolean of JSON is one of TOML.
                    *(f"{name} = {json.dumps(value)}" for name, value in settings.items()),
                ]
            )
            for section, settings in sections.items()
        )
