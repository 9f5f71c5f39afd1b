"""A private nginx."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path

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

_PROGRAM = Path("/usr/sbin/nginx")
_FRAME = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{http}
}}
"""


class Nginx(Server):
    """An nginx with this inside of `http`, where `listen 8080;` becomes a port of its own."""

    def __init__(self, http: str) -> None:
        self.folder = create_folder()
        self.log = self.folder / "error.log"
        self.port = free_port()
        self._http = http.replace("listen 8080;", f"listen 127.0.0.1:{self.port};")
        self._process: Process | None = None

    def start(self) -> None:
        """Return when it answers. Raises ServerError."""
        configuration = self.folder / "nginx.conf"
        configuration.write_text(_FRAME.format(folder=self.folder, http=self._http))
        give_to_server_user(configuration)
        output = self.folder / "output.log"
        self._process = process = Process(
            [_PROGRAM, "-p", self.folder, "-e", self.log, "-c", configuration], output
        )
        wait_for(lambda: self._listens() or not process.is_running(), 30, "nginx to listen")
        if not process.is_running():
            raise ServerError(f"nginx did not start:\n{log_tail(output)}\n{log_tail(self.log)}")

    def remove(self) -> None:
        """End it at once and remove its folder."""
        if self._process is not None:
            self._process.end(signal.SIGTERM)
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
