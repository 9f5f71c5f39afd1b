"""What a process tells about itself over HTTP: Prometheus metrics and health, on a local port."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, make_wsgi_app

from pg_amqp_daemon.runtime.health import Health

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


class Metrics:
    """The metrics of a process: whoever has any declares them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    @cached_property
    def database_up(self) -> Gauge:
        """Of all doors that look what there is to do in the database."""
        return self.gauge("database_up", "1 while the database answers.")

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """Declare what only grows."""
        return Counter(name, text, labels, namespace="pg_amqp", registry=self.registry)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """Declare what goes up and down."""
        return Gauge(name, text, labels, namespace="pg_amqp", registry=self.registry)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    timeout = 5
    """Seconds for a client to say what it wants."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        """A request every few seconds is no news."""


def serve(host: str, port: int, metrics: Metrics, health: Health) -> int:
    """Answer /metrics, /live, /ready and /health in a thread of its own; returns the port.

    It is chosen if it was 0. Raises OSError if nobody can listen there.
    """
    show_metrics = make_wsgi_app(metrics.registry)

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            # Whoever says what is well shows it in the metrics, too.
            health.answer()
            answer: Iterable[bytes] = show_metrics(environ, start)
            return answer
        if path == "/live":
            # Whoever answers lives: what has died in this process is begun anew by itself.
            start("200 OK", [("Content-Type", "text/plain")])
            return [b"live\n"]
        if path in ("/health", "/ready"):
            well, details = health.answer()
            start(
                "200 OK" if well else "503 Service Unavailable",
                [("Content-Type", "application/json")],
            )
            return [json.dumps(details).encode() + b"\n"]
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"/metrics, /live, /ready or /health\n"]

    class Server(_Server):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    server = make_server(host, port, application, Server, _Quiet)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server.server_port
