"""What the one-line bodies of the SQL functions call, in one place: see sql/functions/."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import plpy

from pg_amqp_py.backend import inspection, outbox, publishing, registration, topology
from pg_amqp_py.backend.errors import AMQPError, from_server


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without its traceback in errors: PostgreSQL would show it as CONTEXT."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except plpy.SPIError as error:
            raise from_server(error) from None
        except AMQPError as error:
            raise error.with_traceback(None) from None

    return call


# On the hot path: they do for themselves what _plain() does for the others.
publish = publishing.publish
publish_change = publishing.publish_change

announce_change = registration.announce_change
add_broker = _plain(registration.add_broker)
disconnect = _plain(inspection.disconnect)
pending = _plain(inspection.pending)
ping = _plain(inspection.ping)
publish_outbox_batch = _plain(outbox.publish_outbox_batch)
status = _plain(inspection.status)
exchange_bind = _plain(topology.exchange_bind)
exchange_declare = _plain(topology.exchange_declare)
exchange_delete = _plain(topology.exchange_delete)
exchange_unbind = _plain(topology.exchange_unbind)
queue_bind = _plain(topology.queue_bind)
queue_declare = _plain(topology.queue_declare)
queue_delete = _plain(topology.queue_delete)
queue_purge = _plain(topology.queue_purge)
queue_unbind = _plain(topology.queue_unbind)
