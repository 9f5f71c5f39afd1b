"""One process of a gateway: uvicorn, what it answers, and what is to be done now and then."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import uvicorn
import uvloop

from pg_amqp_daemon.gateway.app import App, Limits
from pg_amqp_daemon.gateway.brokers import BrokerRows, Brokers, FixedBrokers
from pg_amqp_daemon.gateway.hosts import Host
from pg_amqp_daemon.gateway.lane import Opener
from pg_amqp_daemon.gateway.login import Login
from pg_amqp_daemon.gateway.logins import Logins
from pg_amqp_daemon.gateway.message import Message
from pg_amqp_daemon.gateway.metrics import GatewayMetrics, SharedMetrics, Together
from pg_amqp_daemon.gateway.outbox import Outbox
from pg_amqp_daemon.gateway.posted import unpublished
from pg_amqp_daemon.gateway.problem import Problem
from pg_amqp_daemon.gateway.processes import ENDING
from pg_amqp_daemon.gateway.protocol import Protocol
from pg_amqp_daemon.gateway.tally import Tally
from pg_amqp_daemon.gateway.views import Views
from pg_amqp_daemon.runtime.connection_name import connection_name
from pg_amqp_daemon.runtime.logs import name_of

_TICK = 0.25
_IDLE = 75
"""Seconds for which a client may keep its connection without a request: longer than nginx does."""
_GRACE = 15
"""Seconds for the answers that are under way, at the end."""
_PROBE = 2.0


class Settings(NamedTuple):
    """What the command line says."""

    hosts: list[Host]
    """Of RabbitMQ, if it is not the database that knows them."""
    dsn: str
    outbox: bool
    place: tuple[str, int]
    metrics_port: int | None = None
    limits: Limits = Limits()
    proxies: tuple[str, ...] = ()
    tls: tuple[Path, Path | None] | None = None


class _Server(uvicorn.Server):
    """uvicorn's, but for its signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


def serve(
    settings: Settings, sockets: list[socket.socket], orphaned: int, together: Together
) -> None:
    """Answer requests until SIGTERM, or until `orphaned` can be read."""
    silence()
    # What is there now stays: to look through it again and again would make some requests wait.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, sockets, orphaned, together))


async def _serve(
    settings: Settings, sockets: list[socket.socket], orphaned: int, together: Together
) -> None:
    # In the loop: connections to RabbitMQ are opened in it.
    await _Worker(settings, together).run(sockets, orphaned)


def silence() -> None:
    """What these packages log holds tracebacks, and may hold what clients send."""
    for name in (
        "uvicorn",
        "uvicorn.error",
        "uvicorn.access",
        "asyncio",
        "psycopg",
        "python_multipart",
    ):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False


class _Worker:
    """What a process does."""

    def __init__(self, settings: Settings, together: Together) -> None:
        self._log = structlog.get_logger()
        trouble = together.take_room()
        if trouble is not None:
            self._log.warning("metrics of this process are not shown", error=trouble.strerror)
        shared = SharedMetrics()
        self._settings = settings
        self._metrics = GatewayMetrics(shared)
        self._together = together
        self._tally = Tally()
        self._opener = Opener(connection_name("gateway", settings.dsn or None))
        self._stopping = threading.Event()
        self._brokers: Brokers = (
            BrokerRows(settings.dsn, self._stopping, shared)
            if settings.dsn
            else FixedBrokers(settings.hosts)
        )
        self._outbox = Outbox(settings.dsn) if settings.outbox else None
        self._logins = Logins(self._opener, self._brokers.addresses, self._tally)
        self._probed_at = 0.0
        self._trouble: str | None = None

    async def run(self, sockets: list[socket.socket], orphaned: int) -> None:
        """Answer requests."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_exception)
        self._server = server = _Server(self._config())

        def stop() -> None:
            server.should_exit = True
            loop.remove_reader(orphaned)

        for number in ENDING:
            loop.add_signal_handler(number, stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        loop.add_reader(orphaned, stop)
        ticking = loop.create_task(self._tick())
        try:
            await server.serve(sockets=sockets)
        finally:
            ticking.cancel()
            self._logins.close()
            self._opener.end()
            self._stopping.set()
            if self._outbox is not None:
                self._outbox.stop()
            self._tell()

    def _config(self) -> uvicorn.Config:
        settings = self._settings
        views = Views(self._together, self._tell, self._ready, settings.place)
        public, private = views.public(), views.private()
        shown = public if settings.metrics_port is not None else public | private
        app: Any = App(self._logins, self._tally, shown, settings.limits, self._store)
        if settings.metrics_port is not None:
            telling = App(
                self._logins,
                self._tally,
                public | private,
                settings.limits,
                self._store,
                posts=False,
            )
            app = _by_port(app, settings.metrics_port, telling)
        options: dict[str, Any] = {}
        if settings.tls is not None:
            options["ssl_certfile"], options["ssl_keyfile"] = settings.tls
        if settings.proxies:
            options["forwarded_allow_ips"] = list(settings.proxies)
        return uvicorn.Config(
            app,
            http=partial(Protocol, tally=self._tally),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.proxies),
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=_GRACE,
            **options,
        )

    async def _tick(self) -> None:
        beats = 0
        while True:
            await asyncio.sleep(_TICK)
            beats += 1
            try:
                self._look(time.monotonic(), beats)
            except Exception as error:
                # A defect of ours: without these looks, nobody would be told that time is up.
                self._log.exception("gateway failed", error=name_of(error))

    def _look(self, now: float, beats: int) -> None:
        self._logins.tick(now)
        self._tell()
        if beats % 4 == 0:
            self._brokers.look()
            if self._outbox is not None:
                self._outbox.unblock()
            for connection in list(self._server.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.check(now)

    def _tell(self) -> None:
        clients = len(self._server.server_state.connections)
        self._metrics.take_over(self._tally, list(self._logins.publishers.values()), clients)

    async def _store(self, login: Login, message: Message) -> Problem | None:
        """Put a message into the outbox if its login may do that; None if it is there."""
        broker_id = self._brokers.own(login)
        if self._outbox is None or broker_id is None:
            return unpublished("nor stored")
        return await self._outbox.store(broker_id, message)

    async def _ready(self) -> str | None:
        """Why RabbitMQ is not there; None if it is."""
        now = time.monotonic()
        if any(publisher.connected for publisher in self._logins.publishers.values()):
            return None
        if now - self._probed_at > 1.0:
            self._probed_at = now
            self._trouble = await self._probe()
        return self._trouble

    async def _probe(self) -> str | None:
        trouble = "no broker is known"
        for host in self._brokers.hosts():
            try:
                async with asyncio.timeout(_PROBE):
                    _, writer = await asyncio.open_connection(host.host, host.port)
                writer.close()
            except (OSError, TimeoutError) as error:
                trouble = (
                    f"could not connect to {host.host}:{host.port}: {error or 'no answer in time'}"
                )
                continue
            return None
        return trouble

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody has awaited: mostly a client that has left, or speaks no TLS."""
        error = context.get("exception")
        if isinstance(error, (OSError, ssl.SSLError)):
            self._log.info("client connection failed", error=type(error).__name__)
        elif isinstance(error, RuntimeError) and "handler is closed" in str(error):
            return
        elif isinstance(error, Exception):
            self._log.error("defect", error=name_of(error))
        else:
            self._log.error("defect", error=str(context.get("message")))


def _by_port(app: App, port: int, other: App) -> Any:
    """The other application for what comes to the port."""

    async def route(scope: Any, receive: Any, send: Any) -> None:
        server = scope["server"]
        await (other if server and server[1] == port else app)(scope, receive, send)

    return route
