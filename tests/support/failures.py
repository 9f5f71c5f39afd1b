"""A session and its broker, directly and through a proxy that cuts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from servers.proxy import CuttingProxy
from support.fix_servers import VHost
from support.sessions import Report, Session, session_fixture

MANY = list(range(2000))


def failure_fixtures() -> tuple[Any, Any, Any]:
    """The fixtures `session`, and the test's broker as `through` (the proxy) and `direct`."""

    @pytest.fixture
    def through(session: Session, broker: VHost, proxy: CuttingProxy) -> int:
        """The test's broker through the proxy, already connected."""
        broker_id = session.add_broker(broker.url(port=proxy.port))
        session.run("SELECT amqp.ping(%s)", broker_id)
        return broker_id

    @pytest.fixture
    def direct(session: Session, broker: VHost) -> int:
        """The test's broker."""
        return session.add_broker(broker.url())

    return session_fixture(), through, direct


def warning(session: Session) -> Report:
    """Return the one warning that the session has had."""
    (found,) = session.warnings()
    return found


def commit_meanwhile(session: Session, broker_id: int, meanwhile: Callable[[], object]) -> None:
    """Publish MANY in one transaction; do something before its commit."""
    with session.transaction():
        session.publish(broker_id, "events", MANY)
        meanwhile()
