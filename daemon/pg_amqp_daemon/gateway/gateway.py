"""The gateway: what the command line says, made to work in as many processes as it says.

Most of it is imported when it begins: prometheus-client must find its folder when it is loaded, and
packages may be missing.
"""

from __future__ import annotations

import os
import resource
import shutil
import ssl
import tempfile
from pathlib import Path
from typing import NamedTuple

import structlog

from pg_amqp_daemon.gateway.hosts import GatewayError, Host, hosts_of

# Where prometheus-client keeps the numbers of several processes; it looks when it is loaded.
_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PACKAGES = ("httptools", "python_multipart", "uvicorn", "uvloop")
_DEFAULT_BROKER = "amqp://localhost/"
_DESCRIPTORS = 16384
"""For the clients that a process takes, and for what it needs beside them."""
_EXTRA = "in a clone of the project: pip install '.[gateway]'"


class Options(NamedTuple):
    """What the command line says."""

    listen: tuple[str, int] | None
    unix_socket: Path | None
    workers: int
    brokers: tuple[str, ...]
    dsn: str
    outbox: bool
    max_body: int
    listen_metrics: tuple[str, int] | None
    cors_origins: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    tls_cert: Path | None
    tls_key: Path | None


def run(options: Options) -> None:
    """Work until SIGTERM. Raises GatewayError."""
    hosts = hosts_of(options.brokers or (() if options.dsn else (_DEFAULT_BROKER,)))
    _check_packages()
    _check_tls(options)
    _take_descriptors()
    folder = Path(tempfile.mkdtemp(prefix="pg-amqp-gateway-"))
    os.environ[_VARIABLE] = str(folder)
    try:
        _run(options, hosts, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _take_descriptors() -> None:
    # Most systems allow 1024 to who does not ask for more, and some thousands to who does.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _check_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise GatewayError(f"needs {', '.join(missing)}: {_EXTRA}")


def _check_tls(options: Options) -> None:
    if options.tls_cert is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls_cert, options.tls_key, password=_no_password)
    except (OSError, ValueError) as error:
        raise GatewayError(f"could not load the certificate: {error}") from None


def _no_password() -> str:
    # OpenSSL would ask at a terminal.
    raise ValueError("the key is encrypted")


def _run(options: Options, hosts: list[Host], folder: Path) -> None:
    from pg_amqp_daemon.gateway.app import Limits
    from pg_amqp_daemon.gateway.metrics import Together
    from pg_amqp_daemon.gateway.processes import Processes
    from pg_amqp_daemon.gateway.serve import Settings, serve
    from pg_amqp_daemon.gateway.sockets import Sockets

    log = structlog.get_logger()
    sockets = Sockets()
    together = Together(str(folder))
    try:
        host, port = options.listen or ("", 0)
        metrics_port = None
        try:
            if options.listen is not None:
                port = sockets.listen(host, port, options.workers)
            if options.unix_socket is not None:
                sockets.listen_at(options.unix_socket)
            if options.listen_metrics is not None:
                metrics_port = sockets.listen_for_metrics(*options.listen_metrics)
        except OSError as error:
            raise GatewayError(f"could not listen: {error.strerror or error}") from None
        settings = Settings(
            hosts=hosts,
            dsn=options.dsn,
            outbox=options.outbox,
            place=(host, port),
            metrics_port=metrics_port,
            limits=Limits(
                options.max_body, frozenset(origin.encode() for origin in options.cors_origins)
            ),
            proxies=options.trusted_proxies,
            tls=None if options.tls_cert is None else (options.tls_cert, options.tls_key),
        )

        def work(place: int, orphaned: int) -> None:
            serve(settings, sockets.of(place), orphaned, together)

        log.info(
            "gateway started",
            host=host,
            port=port,
            unix_socket=options.unix_socket and str(options.unix_socket),
            metrics_port=metrics_port,
            workers=options.workers,
        )
        Processes(options.workers, work, together.forget).run(sockets.close)
    finally:
        sockets.remove()
