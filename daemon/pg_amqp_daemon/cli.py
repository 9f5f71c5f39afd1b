"""The program pg-amqp: one command for each thing that is done outside the server."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict

from pg_amqp_daemon.runtime import logs

if TYPE_CHECKING:
    from pg_amqp_daemon.runtime.process import Process

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
    if re.match("postgres(ql)?://", dsn) and not re.fullmatch(r"\w+://([^/?@]*@)?[^@]*", dsn):
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
    on the database. In schema amqp.
    """
    from pg_amqp_daemon.install import install

    try:
        click.echo(install.uninstall(dsn) if uninstall else install.install(dsn))
    except install.InstallError as error:
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
    after SIGTERM or SIGINT, and with --once if nothing that was due is left.
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
def run(dsn: str, listen_metrics: tuple[str, int] | None) -> None:
    """Do all that the database has rows for, until SIGTERM: relay and consume."""
    from pg_amqp_daemon.consume.consume import Consume
    from pg_amqp_daemon.relay.relay import Relay

    process = _process()
    doors = Relay(dsn, process), Consume(dsn, process, optional=True)
    _serve(process, listen_metrics)
    process.run(*doors)


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


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and int(port) < 65536):
        raise click.BadParameter("not HOST:PORT, such as 127.0.0.1:9810")
    return host.strip("[]") or "127.0.0.1", int(port)
