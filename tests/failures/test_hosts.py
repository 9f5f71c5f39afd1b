"""Several hosts, dead hosts, and rows that change."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import errors

from servers.management import Management
from servers.processes import free_port, wait_for
from servers.proxy import CuttingProxy, Welcome
from servers.rabbitmq import RabbitMQ
from support.failures import failure_fixtures
from support.fix_servers import VHost
from support.patience import LIMIT
from support.queues import declare, numbers_in
from support.sessions import Session, open_session

session, through, direct = failure_fixtures()


def connected_port(session: Session, broker_id: int) -> int:
    port: int = session.value(
        "SELECT port FROM amqp.status() WHERE broker_id = %s AND connected", broker_id
    )
    return port


@pytest.fixture
def cluster(
    session: Session, rabbitmq: RabbitMQ, broker: VHost
) -> Iterator[tuple[int, CuttingProxy, CuttingProxy]]:
    """A broker of two hosts: its id, the host tried first, and the other one."""
    with CuttingProxy(rabbitmq.amqp_port) as one, CuttingProxy(rabbitmq.amqp_port) as other:
        first, second = sorted((one, other), key=lambda proxy: proxy.port)
        url = broker.url(port=first.port)
        host = f"127.0.0.1:{first.port}"
        broker_id = session.add_broker(url.replace(host, f"{host},127.0.0.1:{second.port}"))
        yield broker_id, first, second


def test_dead_host_of_a_cluster_is_passed_over(
    session: Session, cluster: tuple[int, CuttingProxy, CuttingProxy], channel: BlockingChannel
) -> None:
    declare(channel)
    broker_id, first, second = cluster
    first.refuse()
    session.publish(broker_id, "events", [1])
    assert connected_port(session, broker_id) == second.port
    # At commit, too.
    with session.transaction():
        session.publish(broker_id, "events", [2])
        first.pass_all()
        second.refuse()
    assert connected_port(session, broker_id) == first.port
    # And between two transactions.
    first.refuse()
    second.pass_all()
    session.run("SELECT amqp.ping(%s)", broker_id)
    session.publish(broker_id, "events", [3])
    assert connected_port(session, broker_id) == second.port
    assert session.warnings() == []
    assert numbers_in(channel, "events", 3) == [1, 2, 3]


def test_cluster_with_no_host_alive(
    session: Session, cluster: tuple[int, CuttingProxy, CuttingProxy]
) -> None:
    broker_id, first, second = cluster
    first.refuse()
    second.welcome(Welcome.RESET)
    error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
    assert error.sqlstate[:2] == "08"
    assert error.message == f"amqp: could not connect to any host of broker {broker_id}"
    for proxy in (first, second):
        assert f'"127.0.0.1:{proxy.port}"' in error.detail


@pytest.mark.parametrize("welcome", [Welcome.RESET, Welcome.STALL])
def test_dead_broker_costs_one_attempt_and_not_one_for_every_row(
    session: Session, broker: VHost, proxy: CuttingProxy, welcome: Welcome
) -> None:
    broker_id = session.add_broker(broker.url(port=proxy.port))
    session.set(on_failure="warn", connect_timeout="200ms")
    proxy.welcome(welcome)
    published = session.value(
        "SELECT count(*) FILTER (WHERE amqp.publish(%s, 'events', 'key', n::text))"
        " FROM generate_series(1, 500) AS n",
        broker_id,
    )
    assert published == 0
    assert proxy.connections == 1
    # Said once in a transaction; the rest is counted.
    first, rest = session.warnings()
    assert first.sqlstate[:2] == "08"
    assert rest.message.startswith("amqp: 499 more calls failed: could not connect to broker")
    failed = "SELECT failed FROM amqp.status() WHERE broker_id = %s"
    assert session.value(failed, broker_id) == 500
    # ping() and disconnect() try at once.
    session.error("SELECT amqp.ping(%s)", broker_id)
    assert proxy.connections == 2
    session.run("SELECT amqp.disconnect(%s)", broker_id)
    session.run("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
    assert proxy.connections == 3


def test_dead_host_of_a_cluster_costs_one_attempt(
    session: Session, cluster: tuple[int, CuttingProxy, CuttingProxy]
) -> None:
    broker_id, first, second = cluster
    session.set(on_failure="warn")
    for proxy in (first, second):
        proxy.welcome(Welcome.RESET)
    for _ in range(3):
        session.publish(broker_id, "events", range(20))
    # The backoff is a second at first, which these three statements do not need.
    assert (first.connections, second.connections) == (1, 1)
    # A host that comes back is found again without any help.
    second.pass_all()
    session.set(on_failure="error")

    def reached() -> bool:
        try:
            session.run("SELECT amqp.publish(%s, 'amq.direct', 'key', 'x')", broker_id)
        except errors.OperationalError:
            return False
        return True

    wait_for(reached, LIMIT, "the end of the backoff", interval=0.1)
    assert connected_port(session, broker_id) == second.port


def test_backoff_grows(session: Session, broker: VHost, proxy: CuttingProxy) -> None:
    broker_id = session.add_broker(broker.url(port=proxy.port))
    proxy.welcome(Welcome.RESET)
    session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)

    def wait_said(attempts: int) -> float | None:
        """How long the next attempt is away, once there were so many."""
        error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
        found = re.search(r"the next one is in ([0-9.]+) s", error.hint)
        return float(found[1]) if found and proxy.connections == attempts else None

    first = wait_said(1)
    second = wait_for(lambda: wait_said(2), LIMIT, "the second attempt", interval=0.1)
    assert first is not None
    assert second is not None
    assert first <= 1.0 < second <= 2.0


def test_rotated_password_is_used_from_the_next_transaction(
    session: Session,
    broker: VHost,
    proxy: CuttingProxy,
    management: Management,
    channel: BlockingChannel,
) -> None:
    declare(channel)
    user = f"rotating-{broker.vhost}"
    management.create_user(user, "before")
    try:
        management.grant(broker.vhost, user)
        broker_id = session.add_broker(broker.url(user, "before", port=proxy.port))
        session.publish(broker_id, "events", [1])
        management.create_user(user, "after")
        session.run("UPDATE amqp.broker SET password = 'after'")
        session.publish(broker_id, "events", [2])
        assert proxy.connections == 2
        wait_for(lambda: proxy.open_connections == 1, LIMIT, "the old connection to close")
        # A change that is rolled back changes nothing, and neither does one to the same values.
        with session.transaction(force_rollback=True):
            session.run("UPDATE amqp.broker SET password = 'wrong'")
        session.run("UPDATE amqp.broker SET password = 'after'")
        connections = proxy.connections
        session.publish(broker_id, "events", [3])
        assert proxy.connections == connections
        assert session.warnings() == []
        assert numbers_in(channel, "events", 3) == [1, 2, 3]
    finally:
        management.delete_user(user)


def test_moved_broker_is_used_from_the_next_transaction(
    session: Session,
    rabbitmq: RabbitMQ,
    proxy: CuttingProxy,
    through: int,
    channel: BlockingChannel,
) -> None:
    declare(channel)
    session.publish(through, "events", [1])
    with CuttingProxy(rabbitmq.amqp_port) as elsewhere:
        session.run("UPDATE amqp.broker SET port = %s", elsewhere.port)
        session.publish(through, "events", [2])
        assert (proxy.connections, elsewhere.connections) == (1, 1)
        assert connected_port(session, through) == elsewhere.port
        wait_for(lambda: proxy.open_connections == 0, LIMIT, "the old connection to close")
    assert numbers_in(channel, "events", 2) == [1, 2]


def test_changed_row_counts_whoever_changes_it(
    session: Session, database: str, broker: VHost, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    session.publish(through, "events", [1])
    publish = "SELECT amqp.publish(%s, 'events', 'key', 'x')"
    with open_session(database) as other:
        with other.transaction():
            other.run("UPDATE amqp.broker SET password = 'wrong'")
            session.publish(through, "events", [2])
        assert session.error(publish, through).sqlstate == "28P01"
        other.run("TRUNCATE amqp.broker")
        assert session.error(publish, through).sqlstate == "42704"
        # The number is free: what has it now is what counts.
        other.run(f"ALTER SEQUENCE amqp.broker_broker_id_seq RESTART WITH {through}")
        assert other.add_broker(broker.url()) == through
        session.publish(through, "events", [3])
        # As replication and restore write.
        other.run("SET session_replication_role = replica")
        other.run("UPDATE amqp.broker SET password = 'wrong'")
        assert session.error(publish, through).sqlstate == "28P01"
        other.run("UPDATE amqp.broker SET password = NULL")
    session.run("SELECT amqp.disconnect(%s)", through)
    with session.transaction():
        session.publish(through, "events", [4])
        session.run("SAVEPOINT a")
        session.run("UPDATE amqp.broker SET password = 'wrong'")
        session.run("ROLLBACK TO a")
        session.publish(through, "events", [5])
    session.publish(through, "events", [6])
    assert session.warnings() == []
    assert numbers_in(channel, "events", 6) == [1, 2, 3, 4, 5, 6]


def test_changed_row_while_messages_are_pending(
    session: Session, database: str, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    with session.transaction(), open_session(database) as other:
        session.publish(through, "events", [1])
        other.run("UPDATE amqp.broker SET port = %s", free_port())
        session.publish(through, "events", [2])
    assert session.warnings() == []
    assert numbers_in(channel, "events", 2) == [1, 2]
