"""The program pg-amqp: one command for each thing that is done outside the server."""

from __future__ import annotations

import click


@click.group()
@click.version_option(package_name="pg_amqp_py")
def main() -> None:
    """Deliver the outbox of a PostgreSQL database to RabbitMQ."""
