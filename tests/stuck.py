"""A queue whose process does not work: the broker is well, and this one queue confirms nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fix_servers import Broker

_EACH = (
    "[sys:{action}(P) || {{ok, Q}} <- [rabbit_amqqueue:lookup("
    'rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>))],'
    " P <- [case amqqueue:get_pid(Q) of {{N, _}} -> whereis(N); I -> I end]]."
)


def _tell(broker: Broker, queue: str, action: str) -> None:
    broker.rabbitmq.rabbitmqctl(
        "eval", _EACH.format(action=action, vhost=broker.vhost, queue=queue)
    )


@contextmanager
def suspended(broker: Broker, queue: str) -> Iterator[None]:
    """Let the process of a queue stand still; in the end it goes on."""
    _tell(broker, queue, "suspend")
    try:
        yield
    finally:
        _tell(broker, queue, "resume")
