"""What the one-line bodies of the SQL functions call, in one place: see sql/extension/."""

from __future__ import annotations

import plpy

from pg_amqp_py.backend import publishing, server
from pg_amqp_py.backend.asking import require_usage
from pg_amqp_py.backend.commit import Hooks
from pg_amqp_py.backend.errors import AMQPError, from_server
from pg_amqp_py.backend.session import session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# On the hot path: they do for themselves what _plain() does for the others.
publish = publishing.publish
publish_change = publishing.publish_change

_MODULES = {
    "tables": ("add_broker", "announce_change"),
    "diagnostics": ("disconnect", "pending", "ping", "status"),
    "outbox_batch": ("publish_outbox_batch",),
    "publishing": ("publish_change_failed",),
    "requesting": ("request", "request_all"),
    "topology": (
        "exchange_bind",
        "exchange_declare",
        "exchange_delete",
        "exchange_unbind",
        "queue_bind",
        "queue_declare",
        "queue_delete",
        "queue_purge",
        "queue_unbind",
    ),
}


def __getattr__(name: str) -> Callable[..., Any]:
    """The other functions, loaded when they are first called: most sessions only publish."""
    for module, functions in _MODULES.items():
        if name in functions:
            found = __import__(f"pg_amqp_py.backend.{module}", fromlist=[name])
            # A trigger runs for whoever may change its table.
            needs_usage = name != "announce_change"
            function = globals()[name] = _plain(getattr(found, name), needs_usage)
            return function
    raise AttributeError(name)


def _plain(function: Callable[..., Any], needs_usage: bool) -> Callable[..., Any]:
    """The function for whoever may use it, without its traceback in errors.

    PostgreSQL would show that as CONTEXT.
    """

    def call(*arguments: Any) -> Any:
        try:
            server.refuse_parallel_mode()
            if needs_usage:
                require_usage()
            return function(*arguments)
        except plpy.SPIError as error:
            raise from_server(error) from None
        except AMQPError as error:
            raise error.with_traceback(None) from None

    return call


# Last: whatever cannot be loaded is tried again at the next call, and this must not come twice.
Hooks(session).install()
