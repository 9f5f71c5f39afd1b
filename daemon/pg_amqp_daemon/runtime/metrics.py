"""What a relay tells about itself: Prometheus metrics and health, over HTTP on a local port."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Health = Callable[[], tuple[bool, dict[str, Any]]]


class Metrics:
    """The metrics of one relay, by broker_id."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        broker = ["broker_id"]
        self.delivered = self._counter("delivered", "Messages that the broker confirmed.", broker)
        self.refused = self._counter(
            "refused", "Messages that were not delivered, by verdict.", [*broker, "verdict"]
        )
        self.leading = self._gauge("leading", "1 while this relay works the outbox.", broker)
        self.connected = self._gauge("connected", "1 while the broker is connected.", broker)
        self.pending = self._gauge("pending", "Messages in the outbox.", broker)
        self.waiting = self._gauge(
            "waiting", "Of these, messages that wait for a time or another attempt.", broker
        )
        self.oldest = self._gauge("oldest_seconds", "Age of the oldest message.", broker)
        self.dead = self._gauge("dead", "Dead letters.", broker)
        self.trouble = self._gauge(
            "trouble", "1 while something keeps messages from being delivered.", broker
        )
        self.database_up = self._gauge("database_up", "1 while the database answers.", [])

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(name, text, labels, namespace="pg_amqp", registry=self.registry)

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(name, text, labels, namespace="pg_amqp", registry=self.registry)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    timeout = 5
    """Seconds for a client to say what it wants."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        """A request every few seconds is no news."""


def serve(host: str, port: int, metrics: Metrics, health: Health) -> int:
    """Answer /metrics and /health in a thread of its own; returns the port, chosen if it was 0.

    Raises OSError if nobody can listen there.
    """
    show_metrics = make_wsgi_app(metrics.registry)

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            # Whoever says what is well shows it in the metrics, too.
            health()
            answer: Iterable[bytes] = show_metrics(environ, start)
            return answer
        if path == "/health":
            well, details = health()
            start(
                "200 OK" if well else "503 Service Unavailable",
                [("Content-Type", "application/json")],
            )
            return [json.dumps(details).encode() + b"\n"]
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"/metrics or /health\n"]

    server = make_server(host, port, application, _Server, _Quiet)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server.server_port
