"""A broker that refuses, resets, hangs or is cut off while the session connects."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import errors

from servers.proxy import CuttingProxy, Direction, Welcome
from support.failures import failure_fixtures
from support.fix_servers import VHost
from support.queues import declare, numbers_in
from support.sessions import Session
from support.shared import assert_works

session, through, direct = failure_fixtures()


def test_refused(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    proxy.refuse()
    error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", through)
    assert error.sqlstate == "08001"
    assert "connection refused" in error.message
    assert f"127.0.0.1:{proxy.port}" in error.message
    proxy.pass_all()
    assert_works(session, through, channel, "events")


def test_reset_while_connecting(
    session: Session, broker: VHost, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    declare(channel)
    broker_id = session.add_broker(broker.url(port=proxy.port))
    proxy.welcome(Welcome.RESET)
    error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
    assert error.sqlstate[:2] == "08"
    proxy.pass_all()
    assert_works(session, broker_id, channel, "events")


def test_silent_while_connecting(
    session: Session, broker: VHost, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    declare(channel)
    broker_id = session.add_broker(broker.url(port=proxy.port))
    session.set(connect_timeout="200ms")
    proxy.welcome(Welcome.STALL)
    error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
    assert error.sqlstate == "08001"
    assert "does not answer" in error.message
    proxy.pass_all()
    session.set(connect_timeout="10s")
    assert_works(session, broker_id, channel, "events")


@pytest.mark.parametrize("direction", [Direction.TO_SERVER, Direction.TO_CLIENT])
def test_cut_at_any_byte_of_the_handshake(
    session: Session,
    broker: VHost,
    proxy: CuttingProxy,
    channel: BlockingChannel,
    direction: Direction,
) -> None:
    declare(channel)
    broker_id = session.add_broker(broker.url(port=proxy.port))
    session.publish(broker_id, "events", [0])
    whole = proxy.bytes_to_server if direction is Direction.TO_SERVER else proxy.bytes_to_client
    sent = [0]
    failures = 0
    for count in range(1, whole, whole // 24):
        session.run("SELECT amqp.disconnect(%s)", broker_id)
        proxy.cut_after(count, direction)
        # The cut may also hit the publish itself: then it is sent once more.
        state = ""
        try:
            session.publish(broker_id, "events", [count])
            sent.append(count)
        except errors.OperationalError as error:
            state = error.sqlstate or ""
            failures += 1
        assert state[:2] in ("", "08")
        proxy.pass_all()
        assert session.run("SELECT 1") == [(1,)]
    assert failures > 12
    assert session.warnings() == []
    received = numbers_in(channel, "events", len(sent))
    assert list(dict.fromkeys(received)) == sent
