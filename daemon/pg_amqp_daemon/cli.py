"""The program pg-amqp: one command for each thing that is done outside the server."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict

from pg_amqp_daemon.runtime import logs

if TYPE_CHECKING:
    from pg_amqp_daemon.runtime.process import Process

_URI = r"\w+://([^/?@]*@)?[^/?@]*(/[^?@]*(\?.*)?|\?[^@]*)?"
_DSN_HELP = (
    "Connection string or URI of the database. What it does not say comes from libpq's environment"
    " variables (PGHOST, PGSERVICE, ...) and service files."
)


@click.group()
@click.version_option(package_name="pg_amqp_py")
def main() -> None:
    """Carry messages between a PostgreSQL database and RabbitMQ."""


def _checked_dsn(_context: click.Context, _parameter: click.Parameter, dsn: str) -> str:
    # Texts about a string that is wrong repeat parts of it, and they may be those of a password.
    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise click.BadParameter("not a connection string or URI of PostgreSQL") from None
    # libpq would take what stands behind such a character in a password for a host or a database.
    if re.match("postgres(ql)?://", dsn) and not re.fullmatch(_URI, dsn):
        raise click.BadParameter(
            "not a connection string or URI of PostgreSQL: in a URI, @ / and ? of a password"
            " are written %40 %2F and %3F"
        )
    return dsn


_dsn_option = click.option("--dsn", default="", callback=_checked_dsn, help=_DSN_HELP)


@main.command()
@_dsn_option
@click.option("--uninstall", is_flag=True, help="Remove them, if no message is in them.")
def install(dsn: str, uninstall: bool) -> None:
    """Install outbox and inbox without the extension, or upgrade them.

    For databases that must do without PL/Python: plain SQL, which needs no superuser, only CREATE
    on the database. In schemas amqp and amqp_inner.
    """
    from pg_amqp_daemon.install import install

    try:
        click.echo(install.uninstall(dsn) if uninstall else install.install(dsn))
    except install.InstallError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@_dsn_option
@click.option(
    "--warning",
    type=click.FloatRange(0),
    default=60.0,
    metavar="SECONDS",
    help="Age of the oldest message that is due. Default: 60.",
)
@click.option(
    "--critical", type=click.FloatRange(0), default=300.0, metavar="SECONDS", help="Default: 300."
)
def check(dsn: str, warning: float, critical: float) -> None:
    """Look once at everything from outside: versions, outbox, consumers, listeners, brokers.

    The exit status is that of a plugin of Nagios: 0 all is well, 1 warning, 2 critical, 3 unknown.
    """
    from pg_amqp_daemon.check.check import Limits
    from pg_amqp_daemon.check.check import check as look

    text, status = look(dsn, Limits(warning, critical))
    click.echo(text)
    sys.exit(status)


@main.command()
@click.option(
    "--broker",
    "brokers",
    multiple=True,
    metavar="URI",
    help="amqp://USER:PASSWORD@HOST[:PORT][,HOST...]/[VHOST] or amqps://..., instead of --dsn.",
)
@_dsn_option
@click.option(
    "--broker-id", type=int, metavar="ID", help="Which broker of amqp.broker. Default: 1."
)
@click.option(
    "--exchange",
    metavar="NAME",
    callback=lambda _context, _parameter, value: value and _short(value),
    help="Look at what is published to it from now on.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    callback=lambda _context, _parameter, values: tuple(map(_short, values)),
    help="Only with this routing key, or one of these; a topic exchange knows * and #. Default: #.",
)
@click.option(
    "--queue",
    metavar="NAME",
    callback=lambda _context, _parameter, value: value and _short(value),
    help="Look at a stream; with --take, at any queue.",
)
@click.option(
    "--take", is_flag=True, help="Take what is shown out of the queue: nobody else will get it."
)
@click.option(
    "--from",
    "start",
    metavar="OFFSET",
    callback=lambda _context, _parameter, value: value and _stream_offset(value),
    help="Where to begin in a stream: first, last, next, or a number. Default: last.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after so many messages.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def tail(
    brokers: tuple[str, ...],
    dsn: str,
    broker_id: int | None,
    exchange: str | None,
    keys: tuple[str, ...],
    queue: str | None,
    take: bool,
    start: str | int | None,
    count: int | None,
    as_json: bool,
) -> None:
    """Show messages as they come, until Ctrl-C.

    Those of an exchange are shown without taking anything away from anybody: they are looked at by
    way of a queue that is bound to it as long as this runs. So are those of a stream.
    """
    from pg_amqp_daemon.tail import show
    from pg_amqp_daemon.tail.source import Exchange, Queue, Source
    from pg_amqp_daemon.tail.tail import Tail, TailError, addresses_in, addresses_of

    if brokers and (dsn or broker_id is not None):
        raise click.UsageError("--broker goes without --dsn and --broker-id")
    if (exchange is None) == (queue is None):
        raise click.UsageError("say --exchange or --queue")
    source: Source
    if exchange is not None:
        if take or start is not None:
            raise click.UsageError("--take and --from go with --queue")
        if not exchange:
            raise click.UsageError("no queue can be bound to the default exchange")
        source = Exchange(exchange, keys or ("#",))
    else:
        if keys:
            raise click.UsageError("--key goes with --exchange")
        source = Queue(queue or "", "last" if start is None else start, take)
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    shown = show.as_json if as_json else show.for_people(colours=colours)
    try:
        addresses = (
            addresses_of(brokers)
            if brokers
            else addresses_in(dsn, 1 if broker_id is None else broker_id)
        )
        Tail(source, shown, count or 0).run(addresses)
    except TailError as error:
        raise click.ClickException(str(error)) from None


# What it was called when the outbox was all that there was.
main.add_command(
    click.Command("install-outbox", params=install.params, callback=install.callback, hidden=True)
)


_metrics_option = click.option(
    "--listen-metrics",
    metavar="HOST:PORT",
    callback=lambda _context, _parameter, value: value and _host_and_port(value),
    help="Serve /metrics (Prometheus) and /health on this address.",
)


@main.command()
@_dsn_option
@click.option("--once", is_flag=True, help="Deliver what is due, then exit.")
@_metrics_option
def relay(dsn: str, once: bool, listen_metrics: tuple[str, int] | None) -> None:
    """Deliver messages from amqp.outbox to RabbitMQ until SIGTERM.

    Several relays may run: one works a broker's outbox, the others stand by. The exit status is 0
    after SIGTERM or SIGINT, and with --once if all that was due was delivered.
    """
    from pg_amqp_daemon.relay.relay import Relay

    process = _process()
    relay = Relay(dsn, process, once=once)
    _serve(process, listen_metrics)
    if once:
        sys.exit(relay.drain())
    process.run(relay)


@main.command()
@_dsn_option
@_metrics_option
def consume(dsn: str, listen_metrics: tuple[str, int] | None) -> None:
    """Store messages from RabbitMQ's queues as amqp.consumer says, until SIGTERM.

    Several may run: one works a consumer, the others stand by.
    """
    from pg_amqp_daemon.consume.consume import Consume

    process = _process()
    consume = Consume(dsn, process)
    _serve(process, listen_metrics)
    process.run(consume)


@main.command()
@_dsn_option
@_metrics_option
def listen(dsn: str, listen_metrics: tuple[str, int] | None) -> None:
    """Publish notifications (NOTIFY) as amqp.listener says, until SIGTERM.

    Several may run: one listens, the others stand by.
    """
    from pg_amqp_daemon.listen.listen import Listen

    process = _process()
    listen = Listen(dsn, process)
    _serve(process, listen_metrics)
    process.run(listen)


@main.command()
@_dsn_option
@_metrics_option
def run(dsn: str, listen_metrics: tuple[str, int] | None) -> None:
    """Do all that the database has rows for, until SIGTERM: relay, consume and listen."""
    from pg_amqp_daemon.consume.consume import Consume
    from pg_amqp_daemon.listen.listen import Listen
    from pg_amqp_daemon.relay.relay import Relay

    process = _process()
    doors = (
        Relay(dsn, process),
        Consume(dsn, process, optional=True),
        Listen(dsn, process, optional=True),
    )
    _serve(process, listen_metrics)
    process.run(*doors)


@main.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=lambda _context, _parameter, value: value and _host_and_port(value),
    help="Where to listen. Default: 127.0.0.1:8000, unless there is a --unix-socket.",
)
@click.option("--unix-socket", type=click.Path(path_type=Path), help="Listen there, too.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Processes. Default: 1.")
@click.option(
    "--broker",
    "brokers",
    multiple=True,
    metavar="URI",
    help="amqp://HOST[:PORT][,HOST...]/ or amqps://...; more of them are more hosts of the same"
    " broker. Requests bring the login. Default: amqp://localhost/, or with --dsn amqp.broker.",
)
@_dsn_option
@click.option("--outbox", is_flag=True, help="Store in amqp.outbox while RabbitMQ is away.")
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=16 * 1024 * 1024,
    metavar="BYTES",
    help="Largest body of a message. Default: 16 MB.",
)
@click.option(
    "--listen-metrics",
    metavar="HOST:PORT",
    callback=lambda _context, _parameter, value: value and _host_and_port(value),
    help="Serve /stats and /metrics on this address, and nowhere else.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this origin use it in browsers; * lets all.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Believe this proxy, or network, who its clients are (X-Forwarded-For).",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="PEM certificate chain.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key, if not in that file.")
def gateway(**options: Any) -> None:
    """Publish to RabbitMQ what is posted over HTTP, until SIGTERM.

    Needs no database, but with --outbox. 204 is answered when RabbitMQ has confirmed a message.
    """
    from pg_amqp_daemon.gateway.gateway import Options, run
    from pg_amqp_daemon.gateway.hosts import GatewayError

    if options["outbox"] and not options["dsn"]:
        raise click.UsageError("--outbox needs --dsn")
    if options["dsn"] and options["brokers"]:
        raise click.UsageError("with --dsn, brokers come from amqp.broker: leave out --broker")
    if options["listen"] is None and options["unix_socket"] is None:
        options["listen"] = "127.0.0.1", 8000
    logs.configure()
    try:
        run(Options(**options))
    except GatewayError as error:
        raise click.ClickException(str(error)) from None


def _process() -> Process:
    from pg_amqp_daemon.runtime.process import Process

    logs.configure()
    return Process()


def _serve(process: Process, address: tuple[str, int] | None) -> None:
    """Have the process answer for its metrics, if it shall."""
    if address is not None:
        try:
            process.serve(*address)
        except OSError as error:
            host, port = address
            raise click.ClickException(
                f"could not listen on {host}:{port}: {error.strerror}"
            ) from None


def _short(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise click.BadParameter("not UTF-8") from None
    if size > 255:
        raise click.BadParameter("longer than 255 bytes")
    return text


def _stream_offset(text: str) -> str | int:
    if text.isascii() and text.isdigit():
        return int(text)
    if text not in ("first", "last", "next"):
        raise click.BadParameter("not first, last, next, or a number")
    return text


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and int(port) < 65536):
        raise click.BadParameter("not HOST:PORT, such as 127.0.0.1:9810")
    return host.strip("[]") or "127.0.0.1", int(port)
