"""A queue whose process does not work: the broker is well, and this one queue confirms nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.proxy import CuttingProxy
from support.fix_servers import VHost
from support.queues import declare
from support.sessions import Session, session_fixture

_EACH = (
    "[sys:{action}(P) || {{ok, Q}} <- [rabbit_amqqueue:lookup("
    'rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>))],'
    " P <- [case amqqueue:get_pid(Q) of {{N, _}} -> whereis(N); I -> I end]]."
)


def _tell(broker: VHost, queue: str, action: str) -> None:
    broker.rabbitmq.rabbitmqctl(
        "eval", _EACH.format(action=action, vhost=broker.vhost, queue=queue)
    )


@contextmanager
def suspended(broker: VHost, queue: str) -> Iterator[None]:
    """Let the process of a queue stand still; in the end it goes on."""
    _tell(broker, queue, "suspend")
    try:
        yield
    finally:
        _tell(broker, queue, "resume")


def stuck_fixtures() -> tuple[Any, Any]:
    """The fixtures `session` and `through`: a session, and its broker with queues to suspend."""

    @pytest.fixture
    def through(
        session: Session, broker: VHost, proxy: CuttingProxy, channel: BlockingChannel
    ) -> int:
        """Through a proxy: a fanout `orders` to queues ledger and mailer, and a topic `events`."""
        channel.exchange_declare("orders", "fanout", durable=True)
        for queue in ("ledger", "mailer"):
            channel.queue_declare(queue, durable=True)
            channel.queue_bind(queue, "orders")
        declare(channel)
        return session.add_broker(broker.url(port=proxy.port))

    return session_fixture(confirm_timeout="300ms"), through
