"""Fixtures: real servers, a fresh database and a fresh virtual host for each test.

`postgres`, `certificates`, `rabbitmq`, `management` and `influxdb` live as long as the session, and
start when a test first asks for them. `database`, `broker`, `proxy`, `channel` and
`influx_database` are made for one test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pika
import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import sql

from pg_amqp_daemon.install.install import install
from servers.certificates import Certificates
from servers.influxdb import InfluxDB
from servers.management import Management
from servers.postgres import ALONE, PostgreSQL
from servers.processes import temporary_folder
from servers.proxy import CuttingProxy
from servers.rabbitmq import RabbitMQ

PLUGINS = ("rabbitmq_management", "rabbitmq_mqtt", "rabbitmq_stomp", "rabbitmq_web_stomp")

_numbers = count(1)


@dataclass(frozen=True)
class VHost:
    """A virtual host of the session's RabbitMQ node, empty when the test starts."""

    rabbitmq: RabbitMQ
    vhost: str

    def url(
        self,
        user: str = "guest",
        password: str = "guest",
        *,
        port: int | None = None,
        tls: bool = False,
    ) -> str:
        """Return its AMQP URL, of another port (a proxy's) or of the TLS listener if asked."""
        return self.rabbitmq.url(user, password, self.vhost, port=port, tls=tls)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """A running PostgreSQL; its `template_amqp` is a database with the extension.

    Under `make matrix`, which has no PL/Python, with outbox and inbox alone.
    """
    with PostgreSQL() as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE template_amqp")
        template = server.dsn("template_amqp")
        if ALONE in os.environ:
            install(template)
        else:
            with psycopg.connect(template, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION pg_amqp_py CASCADE")
        yield server


@pytest.fixture
def database(postgres: PostgreSQL) -> Iterator[str]:
    """The connection string, as superuser, of a fresh database with the extension.

    What is still connected at the end of the test is thrown out.
    """
    name = sql.Identifier(f"test_{next(_numbers)}")
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        # A checkpoint costs less than 8 MB of WAL: without fsync, hardly anything. PostgreSQL 14
        # has no other strategy.
        strategy = "STRATEGY file_copy" if connection.info.server_version >= 150000 else ""
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template_amqp {}").format(name, sql.SQL(strategy))
        )
        yield postgres.dsn(name.as_string(None).strip('"'))
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    """An authority and certificates that it signed; the node's TLS listener uses the good one."""
    with temporary_folder() as folder:
        yield Certificates(folder)


@pytest.fixture(scope="session")
def rabbitmq(certificates: Certificates) -> Iterator[RabbitMQ]:
    """A running RabbitMQ node with default limits, a listener for TLS and the plugins of all doors.

    A test that restarts or breaks it brings it back before it ends.
    """
    with RabbitMQ(tls=certificates.tls(), plugins=PLUGINS) as node:
        yield node


@pytest.fixture
def small_messages(rabbitmq: RabbitMQ) -> Iterator[int]:
    """A broker that takes messages of at most so many bytes."""
    set_size = (
        "application:set_env(rabbit, max_message_size, {0}),"
        " persistent_term:put(max_message_size, {0})."
    )
    rabbitmq.rabbitmqctl("eval", set_size.format(20_000))
    yield 20_000
    rabbitmq.rabbitmqctl("eval", set_size.format(134_217_728))


@pytest.fixture(scope="session")
def management(rabbitmq: RabbitMQ) -> Management:
    """The HTTP API of the session's node: users, permissions, connections in milliseconds."""
    return Management(rabbitmq.management_port)


@pytest.fixture
def broker(rabbitmq: RabbitMQ, management: Management) -> Iterator[VHost]:
    """A fresh virtual host, in which guest (password guest) may do everything."""
    vhost = f"test-{next(_numbers)}"
    management.create_vhost(vhost)
    yield VHost(rabbitmq, vhost)
    management.delete_vhost(vhost)


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[CuttingProxy]:
    """A proxy to the node's AMQP port: `broker.url(port=proxy.port)` leads through it."""
    with CuttingProxy(rabbitmq.amqp_port) as proxy:
        yield proxy


@pytest.fixture
def channel(broker: VHost) -> Iterator[BlockingChannel]:
    """A pika channel on the test's virtual host, not through the proxy."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url()))
    yield connection.channel()
    if connection.is_open:
        connection.close()


@pytest.fixture(scope="session")
def influxdb() -> Iterator[InfluxDB]:
    """A running InfluxDB, which lets everybody in.

    A test that restarts or breaks it brings it back before it ends.
    """
    with InfluxDB() as server:
        yield server


@pytest.fixture
def influx_database(influxdb: InfluxDB) -> Iterator[str]:
    """The name of a fresh database in it."""
    name = f"test_{next(_numbers)}"
    influxdb.query(f"CREATE DATABASE {name}")
    yield name
    influxdb.query(f"DROP DATABASE {name}")
