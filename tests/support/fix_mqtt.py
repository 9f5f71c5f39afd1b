"""Fixtures of tests that speak MQTT."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.proxy import CuttingProxy
from servers.rabbitmq import RabbitMQ
from support.fix_servers import VHost
from support.sessions import Session, open_session


@pytest.fixture
def mqtt_proxy(rabbitmq: RabbitMQ) -> Iterator[CuttingProxy]:
    """A proxy to its port for MQTT."""
    with CuttingProxy(rabbitmq.mqtt_port) as proxy:
        yield proxy


@pytest.fixture
def mqtt_session(database: str, broker: VHost) -> Iterator[Session]:
    """A session, whose broker 1 it is."""
    with open_session(database) as session:
        session.add_broker(broker.url())
        session.run("UPDATE amqp.broker SET mqtt_port = %s", broker.rabbitmq.mqtt_port)
        yield session
