"""Fixtures: a gateway that runs, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.gateway import GatewayProcess
from servers.proxy import CuttingProxy
from servers.rabbitmq import RabbitMQ
from support.posting import Client


@pytest.fixture
def gateway(rabbitmq: RabbitMQ) -> Iterator[GatewayProcess]:
    """A gateway to the session's RabbitMQ, of one process."""
    with GatewayProcess("--broker", f"amqp://127.0.0.1:{rabbitmq.amqp_port}/") as gateway:
        yield gateway


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[Client]:
    """A client of that gateway, as guest."""
    client = Client(gateway.port)
    yield client
    client.close()


@pytest.fixture
def far_gateway(proxy: CuttingProxy) -> Iterator[GatewayProcess]:
    """A gateway that reaches RabbitMQ through the proxy."""
    with GatewayProcess("--broker", f"amqp://127.0.0.1:{proxy.port}/") as gateway:
        yield gateway


@pytest.fixture
def far_client(far_gateway: GatewayProcess) -> Iterator[Client]:
    """A client of that one."""
    client = Client(far_gateway.port)
    yield client
    client.close()
