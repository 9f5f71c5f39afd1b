"""Brokers that are away, break off, hang, refuse or lie: what is lost, and what is said."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import errors

from servers.management import Management
from servers.processes import free_port, wait_for
from servers.proxy import CuttingProxy, Direction, Welcome
from servers.rabbitmq import RabbitMQ
from support.failing import (
    LIMIT,
    Call,
    Report,
    Session,
    assert_works,
    declare,
    drain,
    numbers_in,
    open_channel,
)
from support.fix_servers import Broker

MANY = list(range(2000))


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    """A session in the test's database."""
    with Session(database) as session:
        yield session


@pytest.fixture
def through(session: Session, broker: Broker, proxy: CuttingProxy) -> int:
    """The test's broker through the proxy, already connected."""
    broker_id = session.add_broker(broker.url(port=proxy.port))
    session.run("SELECT amqp.ping(%s)", broker_id)
    return broker_id


@pytest.fixture
def direct(session: Session, broker: Broker) -> int:
    """The test's broker."""
    return session.add_broker(broker.url())


def warning(session: Session) -> Report:
    """Return the one warning that the session has had."""
    (found,) = session.warnings()
    return found


# ---- Connecting ----


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
    session: Session, broker: Broker, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    declare(channel)
    broker_id = session.add_broker(broker.url(port=proxy.port))
    proxy.welcome(Welcome.RESET)
    error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
    assert error.sqlstate[:2] == "08"
    proxy.pass_all()
    assert_works(session, broker_id, channel, "events")


def test_silent_while_connecting(
    session: Session, broker: Broker, proxy: CuttingProxy, channel: BlockingChannel
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
    broker: Broker,
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


# ---- Between publish() and the end of the commit ----


def commit_meanwhile(session: Session, broker_id: int, meanwhile: Callable[[], object]) -> None:
    """Publish MANY in one transaction; do something before its commit."""
    with session.connection.transaction():
        session.publish(broker_id, "events", MANY)
        meanwhile()


@pytest.mark.parametrize(
    "break_it",
    [
        CuttingProxy.reset,
        lambda proxy: proxy.half_close(Direction.TO_SERVER),
        lambda proxy: proxy.half_close(Direction.TO_CLIENT),
        lambda proxy: proxy.half_close(Direction.BOTH),
    ],
    ids=["reset", "half-close to server", "half-close to client", "close"],
)
def test_broken_before_commit_is_noticed_by_nobody(
    session: Session,
    proxy: CuttingProxy,
    through: int,
    channel: BlockingChannel,
    break_it: Callable[[CuttingProxy], None],
) -> None:
    declare(channel)
    session.publish(through, "events", [])
    commit_meanwhile(session, through, lambda: break_it(proxy))
    assert session.warnings() == []
    received = numbers_in(channel, "events", len(MANY))
    # What the broker took of a connection that then broke may come a second time.
    assert list(dict.fromkeys(received)) == MANY
    assert_works(session, through, channel, "events")


@pytest.mark.parametrize("direction", [Direction.TO_SERVER, Direction.TO_CLIENT])
def test_cut_at_any_byte_of_publishing_loses_nothing(
    session: Session,
    proxy: CuttingProxy,
    through: int,
    channel: BlockingChannel,
    direction: Direction,
) -> None:
    declare(channel)
    numbers = list(range(40))

    def counter() -> int:
        return proxy.bytes_to_server if direction is Direction.TO_SERVER else proxy.bytes_to_client

    session.publish(through, "events", [0])
    before = counter()
    session.publish(through, "events", numbers)
    wait_for(lambda: counter() > before, LIMIT, "the confirms")
    whole = counter() - before
    drain(channel, "events", 41)
    cuts = 0
    for count in sorted({*range(1, whole + 1, max(1, whole // 40)), whole - 1, whole}):
        connections = proxy.connections
        with session.connection.transaction():
            session.publish(through, "events", numbers)
            proxy.cut_after(count, direction)
        proxy.pass_all()
        cuts += proxy.connections > connections
        received = numbers_in(channel, "events", len(numbers))
        assert list(dict.fromkeys(received)) == numbers, f"cut after {count} bytes"
        if proxy.connections == connections:
            assert received == numbers, "a duplicate without a broken connection"
    assert session.warnings() == []
    assert cuts > (30 if direction is Direction.TO_SERVER else 0)


def test_cut_again_and_again_goes_on_where_it_was(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    connections = proxy.connections
    stop = threading.Event()

    def cut(seen: int) -> None:
        proxy.cut_after(1_200_000, Direction.TO_SERVER)
        wait_for(
            lambda: stop.is_set() or proxy.connections > seen,
            LIMIT,
            "the next try",
            interval=0.001,
        )
        if not stop.is_set() and seen < connections + 4:
            cut(seen + 1)

    numbers = list(range(4000))
    with session.connection.transaction():
        session.run(
            "SELECT amqp.publish(%s, 'events', 'key', lpad(n::text, 2000, '0'))"
            " FROM generate_series(0, 3999) AS n",
            through,
        )
        cutting = Call(lambda: cut(connections))
    stop.set()
    cutting.result()
    assert proxy.connections > connections + 3
    assert session.warnings() == []
    received = numbers_in(channel, "events", len(numbers))
    assert sorted(set(received)) == numbers
    assert list(dict.fromkeys(received)) == numbers


def test_cut_under_autonomous_publish(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    session.run("SELECT amqp.autonomous_publish(%s, 'events', 'key', '0')", through)
    sent = [0]
    for count in range(1, 90, 11):
        proxy.cut_after(count, Direction.TO_SERVER)
        assert session.value(
            "SELECT amqp.autonomous_publish(%s, 'events', 'key', %s)", through, str(count)
        )
        sent.append(count)
        proxy.pass_all()
    received = numbers_in(channel, "events", len(sent))
    assert list(dict.fromkeys(received)) == sent


def test_stalled_commit_ends_with_a_warning(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    declare(channel, "others")
    session.run("CREATE TABLE t AS SELECT 0 AS n")
    session.set(confirm_timeout="200ms")
    with session.connection.transaction():
        session.publish(through, "events", [1, 2, 3])
        session.publish(through, "others", [4])
        session.run("UPDATE t SET n = 1")
        proxy.stall()
    found = warning(session)
    assert found.sqlstate == "08006"
    assert found.message == f"amqp: 4 messages not confirmed by broker {through}"
    assert '"events" (3)' in found.detail
    assert '"others" (1)' in found.detail
    assert "committed" in found.hint
    assert "tried again at the next transactions" in found.hint
    # The commit itself stands.
    assert session.value("SELECT n FROM t") == 1
    proxy.pass_all()
    session.set(confirm_timeout="5s")
    session.run("SELECT amqp.ping(%s)", through)
    session.publish(through, "events", [5])
    # What the proxy held back may have come, now or just before.
    received: list[int] = []

    def arrived() -> bool:
        received.extend(numbers_in(channel, "events"))
        return 5 in received

    wait_for(arrived, LIMIT, "the next message")
    assert set(received) <= {1, 2, 3, 5}
    assert session.warnings() == []


def test_stall_that_ends_in_time_is_noticed_by_nobody(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    session.set(confirm_timeout="20s")
    with session.connection.transaction():
        session.publish(through, "events", MANY)
        proxy.stall()
        end = threading.Timer(0.3, proxy.pass_all)
        end.start()
    assert session.warnings() == []
    assert numbers_in(channel, "events", len(MANY)) == MANY


@pytest.mark.parametrize("failure", ["refuse", "welcome silence"])
def test_unreachable_commit_ends_with_a_warning(
    session: Session,
    proxy: CuttingProxy,
    through: int,
    channel: BlockingChannel,
    failure: str,
) -> None:
    declare(channel)
    session.set(confirm_timeout="300ms")

    def fail() -> None:
        if failure == "refuse":
            proxy.refuse()
        else:
            proxy.welcome(Welcome.STALL)
            proxy.reset()

    commit_meanwhile(session, through, fail)
    found = warning(session)
    assert found.sqlstate == "08006"
    assert found.message == f"amqp: {len(MANY)} messages not confirmed by broker {through}"
    assert f'"events" ({len(MANY)})' in found.detail
    proxy.pass_all()
    session.run("SELECT amqp.ping(%s)", through)
    assert numbers_in(channel, "events", len(MANY)) == MANY
    assert_works(session, through, channel, "events")


def test_broker_reachable_again_within_the_timeout(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    session.set(confirm_timeout="20s")

    def fail() -> None:
        proxy.refuse()
        threading.Timer(0.3, proxy.pass_all).start()

    commit_meanwhile(session, through, fail)
    assert session.warnings() == []
    assert numbers_in(channel, "events", len(MANY)) == MANY


def test_counts_in_status(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    session.set(confirm_timeout="200ms")
    session.publish(through, "events", [1, 2])
    with session.connection.transaction():
        session.publish(through, "events", [3, 4, 5])
        proxy.refuse()
    session.run(
        "SELECT amqp.publish(%s, 'events', 'key', 'x') WHERE false", through
    )  # Nothing was published: nothing is counted.
    counted = session.run(
        "SELECT published, confirmed, returned, failed, pending, unconfirmed, connected, last_error"
        " FROM amqp.status() WHERE broker_id = %s",
        through,
    )
    assert counted[0][:7] == (5, 2, 0, 0, 0, 3, False)
    assert "refused" in counted[0][7]


# ---- Real restarts ----


def test_broker_restarts(database: str, rabbitmq: RabbitMQ, broker: Broker) -> None:
    with open_channel(broker.url()) as channel:
        declare(channel)
    with Session(database) as idle, Session(database) as patient, Session(database) as hasty:
        broker_id = idle.add_broker(broker.url())
        for session in (idle, patient, hasty):
            session.run(
                "SELECT amqp.publish(%s, 'events', 'key', '0', delivery_mode => 2)", broker_id
            )
        patient.set(confirm_timeout="60s")
        hasty.set(confirm_timeout="200ms")
        for session, number in (patient, "1"), (hasty, "2"):
            session.run("BEGIN")
            session.run(
                "SELECT amqp.publish(%s, 'events', 'key', %s, delivery_mode => 2)",
                broker_id,
                number,
            )
        rabbitmq.kill()
        committing = Call(lambda: patient.run("COMMIT"))
        try:
            hasty.run("COMMIT")
        finally:
            rabbitmq.start()
        # Killed between publish() and commit: retried for as long as confirm_timeout says.
        committing.result()
        assert patient.warnings() == []
        (lost,) = hasty.warnings()
        assert lost.message == f"amqp: 1 message not confirmed by broker {broker_id}"
        assert '"events" (1)' in lost.detail
        # Restarted between two transactions: nobody notices.
        idle.run("SELECT amqp.publish(%s, 'events', 'key', '3', delivery_mode => 2)", broker_id)
        assert idle.warnings() == []
    with open_channel(broker.url()) as channel:
        assert numbers_in(channel, "events", 5) == [0, 0, 0, 1, 3]


def test_connection_closed_by_an_administrator(
    session: Session, rabbitmq: RabbitMQ, broker: Broker, direct: int
) -> None:
    with open_channel(broker.url()) as channel:
        declare(channel)
    session.publish(direct, "events", [1])

    def close_all() -> None:
        rabbitmq.rabbitmqctl("close_all_connections", "--vhost", broker.vhost, "maintenance")

    close_all()
    session.publish(direct, "events", [2])
    with session.connection.transaction():
        session.publish(direct, "events", [3])
        close_all()
    assert session.warnings() == []
    with open_channel(broker.url()) as channel:
        assert numbers_in(channel, "events", 3) == [1, 2, 3]


# ---- Several hosts, backoff, changed rows ----


def connected_port(session: Session, broker_id: int) -> int:
    port: int = session.value(
        "SELECT port FROM amqp.status() WHERE broker_id = %s AND connected", broker_id
    )
    return port


@pytest.fixture
def cluster(
    session: Session, rabbitmq: RabbitMQ, broker: Broker
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
    with session.connection.transaction():
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
    session: Session, broker: Broker, proxy: CuttingProxy, welcome: Welcome
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


def test_backoff_grows(session: Session, broker: Broker, proxy: CuttingProxy) -> None:
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
    broker: Broker,
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
        with session.connection.transaction(force_rollback=True):
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
    session: Session, database: str, broker: Broker, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    session.publish(through, "events", [1])
    publish = "SELECT amqp.publish(%s, 'events', 'key', 'x')"
    with Session(database) as other:
        with other.connection.transaction():
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
    with session.connection.transaction():
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
    with session.connection.transaction(), Session(database) as other:
        session.publish(through, "events", [1])
        other.run("UPDATE amqp.broker SET port = %s", free_port())
        session.publish(through, "events", [2])
    assert session.warnings() == []
    assert numbers_in(channel, "events", 2) == [1, 2]


# ---- A broker that is short of memory ----


def test_memory_alarm(database: str, rabbitmq: RabbitMQ, broker: Broker) -> None:
    with open_channel(broker.url()) as channel:
        declare(channel)
    with Session(database) as session, Session(database) as patient:
        broker_id = session.add_broker(broker.url())
        session.set(confirm_timeout="300ms")
        patient.set(confirm_timeout="60s")
        session.publish(broker_id, "events", [1])
        patient.publish(broker_id, "events", [2])
        for one in (session, patient):
            one.run("BEGIN")
            one.publish(broker_id, "events", [3])
        with rabbitmq.short_of_memory():
            committing = Call(lambda: patient.run("COMMIT"))
            # The commit is bounded, and the reason is the broker's.
            session.run("COMMIT")
            found = warning(session)
            assert found.message == f"amqp: 1 message not confirmed by broker {broker_id}"
            assert "block" in found.detail
            # From now on the session knows.
            error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
            assert error.sqlstate == "53000"
            assert f"broker {broker_id} is not accepting messages" in error.message
            assert "memory" in error.detail
            session.set(on_failure="warn")
            assert not session.value("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
            assert warning(session).sqlstate == "53000"
            session.set(on_failure="error")
        # Whoever was willing to wait lost nothing.
        committing.result()
        assert patient.warnings() == []

        def taken() -> bool:
            try:
                session.publish(broker_id, "events", [4])
            except errors.InsufficientResources:
                return False
            return True

        wait_for(taken, LIMIT, "the broker to take messages again", interval=0.1)
        assert session.warnings() == []
    with open_channel(broker.url()) as channel:
        received = numbers_in(channel, "events", 4)
        assert {1, 2, 4} <= set(received)
        assert received.count(3) in (1, 2), "one of them was given up"


# ---- What a broker refuses ----


def publish_mixed(
    session: Session,
    broker_id: int,
    meanwhile: Callable[[], object],
    *,
    every: int = 7,
    exchange: str = "bad",
) -> list[int]:
    """Publish 3,000 messages, every so many of them to another exchange; return the rest."""
    with session.connection.transaction():
        session.run(
            "SELECT amqp.publish(%s, CASE WHEN n %% %s = 3 THEN %s ELSE 'events' END, 'key',"
            " n::text) FROM generate_series(0, 2999) AS n",
            broker_id,
            every,
            exchange,
        )
        meanwhile()
    return [n for n in range(3000) if n % every != 3]


@pytest.mark.parametrize("every", [4, 97, 2999])
def test_exchange_deleted_before_commit(
    session: Session, direct: int, channel: BlockingChannel, every: int
) -> None:
    declare(channel)
    declare(channel, "bad")
    others = publish_mixed(session, direct, lambda: channel.exchange_delete("bad"), every=every)
    count = 3000 - len(others)
    found = warning(session)
    noun = "message" if count == 1 else "messages"
    assert found.message == f'amqp: {count} {noun} to exchange "bad" refused by broker {direct}'
    assert "no exchange 'bad'" in found.detail
    assert "404" in found.detail
    # Each exactly once, and in order.
    assert numbers_in(channel, "events", len(others)) == others
    assert drain(channel, "bad") == []
    # Gone is gone: the next transaction hears it in time.
    error = session.error("SELECT amqp.publish(%s, 'bad', 'key', 'x')", direct)
    assert error.sqlstate == "42704"
    assert_works(session, direct, channel, "events")


def test_two_exchanges_deleted_before_commit(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    declare(channel)
    for name in ("bad", "it's worse"):
        declare(channel, name)
    with session.connection.transaction():
        for number in range(9):
            exchange = ("events", "bad", "it's worse")[number % 3]
            session.publish(direct, exchange, [number])
        channel.exchange_delete("bad")
        channel.exchange_delete("it's worse")
    assert sorted(found.message for found in session.warnings()) == [
        f'amqp: 3 messages to exchange "bad" refused by broker {direct}',
        f'amqp: 3 messages to exchange "it\'s worse" refused by broker {direct}',
    ]
    assert numbers_in(channel, "events", 3) == [0, 3, 6]


@pytest.fixture
def writer(
    session: Session, broker: Broker, management: Management
) -> Iterator[tuple[int, Callable[..., None]]]:
    """A broker row of a user that may write nowhere but to events, and how to change that."""
    user = f"writer-{broker.vhost}"
    management.create_user(user, "writes")

    def allow(write: str = "^events$") -> None:
        management.grant(broker.vhost, user, configure="", write=write, read="")

    allow()
    yield session.add_broker(broker.url(user, "writes")), allow
    management.delete_user(user)


def test_access_refused_at_commit(
    session: Session, writer: tuple[int, Callable[..., None]], channel: BlockingChannel
) -> None:
    declare(channel)
    declare(channel, "bad")
    broker_id, _ = writer
    others = publish_mixed(session, broker_id, lambda: None)
    found = warning(session)
    refused = 3000 - len(others)
    assert (
        found.message == f'amqp: {refused} messages to exchange "bad" refused by broker {broker_id}'
    )
    assert "ACCESS_REFUSED" in found.detail
    assert "exchange 'bad'" in found.detail
    assert numbers_in(channel, "events", len(others)) == others
    assert drain(channel, "bad") == []
    error = session.error("SELECT amqp.autonomous_publish(%s, 'bad', 'key', 'x')", broker_id)
    assert error.sqlstate in ("42501", "55000")
    assert "ACCESS_REFUSED" in error.detail


def test_topic_refused_at_commit(
    session: Session,
    broker: Broker,
    management: Management,
    writer: tuple[int, Callable[..., None]],
    channel: BlockingChannel,
) -> None:
    declare(channel)
    broker_id, _ = writer
    management.request(
        "PUT",
        "topic-permissions",
        broker.vhost,
        f"writer-{broker.vhost}",
        body={"exchange": "events", "write": "^good", "read": ".*"},
    )
    with session.connection.transaction():
        for number, key in enumerate(("good.a", "bad.a", "good.b", "bad.b", "bad.a", "good.c")):
            session.publish(broker_id, "events", [number], key)
    found = sorted(session.warnings(), key=lambda report: report.message)
    place = 'to exchange "events" with routing key'
    assert [report.message for report in found] == [
        f'amqp: 1 message {place} "bad.b" refused by broker {broker_id}',
        f'amqp: 2 messages {place} "bad.a" refused by broker {broker_id}',
    ]
    assert all("ACCESS_REFUSED" in report.detail for report in found)
    assert numbers_in(channel, "events", 3) == [0, 2, 5]


def test_message_larger_than_the_broker_takes(
    session: Session, small_messages: int, direct: int, channel: BlockingChannel
) -> None:
    declare(channel)
    sizes = [10, small_messages + 1, small_messages, 200_000, 20, 30]
    with session.connection.transaction():
        for size in sizes:
            session.run("SELECT amqp.publish(%s, 'events', 'key', repeat('x', %s))", direct, size)
    refused = session.warnings()
    assert all("message size" in report.detail for report in refused)
    assert all('exchange "events"' in report.message for report in refused)
    counts = sum(int(report.message.split()[1]) for report in refused)
    assert counts == 2
    arrived = [len(body) for body in drain(channel, "events", 4)]
    assert arrived == [size for size in sizes if size <= small_messages]
    error = session.error(
        "SELECT amqp.autonomous_publish(%s, 'events', 'key', repeat('x', 30000))", direct
    )
    assert "message size" in error.detail
    assert drain(channel, "events") == []


def test_nack(session: Session, direct: int, channel: BlockingChannel) -> None:
    channel.exchange_declare("events", "topic")
    channel.queue_declare("events", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.queue_bind("events", "events", "full.#")
    channel.queue_declare("others")
    channel.queue_bind("others", "events", "others")
    with session.connection.transaction():
        for number in range(20):
            session.publish(direct, "events", [number], "full" if number % 2 else "others")
    found = warning(session)
    arrived = numbers_in(channel, "events", 1)
    refused = 10 - len(arrived)
    assert refused > 0
    assert found.message.startswith(f"amqp: {refused} message")
    assert found.message.endswith(f'to exchange "events" refused by broker {direct}')
    assert "basic.nack" in found.detail
    assert arrived == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19][: len(arrived)]
    assert numbers_in(channel, "others", 10) == list(range(0, 20, 2))
    error = session.run("SELECT amqp.autonomous_publish(%s, 'events', 'full', '1')", direct)
    assert error == [(True,)]
    report = session.error("SELECT amqp.autonomous_publish(%s, 'events', 'full', '2')", direct)
    assert report.sqlstate == "55000"
    assert "basic.nack" in report.detail


def test_unroutable_mandatory(session: Session, direct: int, channel: BlockingChannel) -> None:
    channel.exchange_declare("events", "topic")
    channel.queue_declare("events")
    channel.queue_bind("events", "events", "here")
    publish = "SELECT amqp.publish(%s, 'events', %s, %s, mandatory => %s)"
    with session.connection.transaction():
        session.run(publish, direct, "here", "1", True)
        session.run(publish, direct, "nowhere", "2", True)
        session.run(publish, direct, "nowhere", "3", False)
        session.run(publish, direct, "nowhere", "4", True)
        session.run(publish, direct, "here", "5", True)
    found = warning(session)
    assert found.message == (
        f'amqp: 2 messages to exchange "events" with routing key "nowhere"'
        f" returned as unroutable by broker {direct}"
    )
    assert "NO_ROUTE" in found.detail
    assert "312" in found.detail
    assert numbers_in(channel, "events", 2) == [1, 5]
    error = session.error(
        "SELECT amqp.autonomous_publish(%s, 'events', 'nowhere', 'x', mandatory => true)", direct
    )
    assert error.sqlstate == "55000"
    assert 'routing key "nowhere"' in error.message
    assert "NO_ROUTE" in error.detail


def test_many_unroutable_keys_do_not_flood(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    channel.exchange_declare("events", "topic")
    session.run(
        "SELECT amqp.publish(%s, 'events', n::text, 'x', mandatory => true)"
        " FROM generate_series(1, 2000) AS n",
        direct,
    )
    found = session.warnings()
    assert 2 <= len(found) <= 20
    assert "more" in found[-1].message
    counts = [int(report.message.split()[1]) for report in found]
    assert sum(counts) == 2000


def test_user_id_of_somebody_else(session: Session, direct: int, channel: BlockingChannel) -> None:
    declare(channel)
    publish = "SELECT amqp.publish(%s, 'events', 'key', %s, user_id => %s)"
    with session.connection.transaction():
        session.run(publish, direct, "1", "guest")
        session.run(publish, direct, "2", "somebody")
        session.run(publish, direct, "3", None)
        session.run(publish, direct, "4", "somebody")
        session.run(publish, direct, "5", "guest")
    found = warning(session)
    assert found.message == f'amqp: 2 messages to exchange "events" refused by broker {direct}'
    assert "user_id" in found.detail
    assert numbers_in(channel, "events", 3) == [1, 3, 5]


def test_all_causes_in_one_transaction(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    declare(channel)
    declare(channel, "bad")
    channel.queue_unbind("events", "events", "#")
    channel.queue_bind("events", "events", "key")
    with session.connection.transaction():
        for number in range(0, 400, 4):
            session.publish(direct, "events", [number])
            session.publish(direct, "bad", [number + 1])
            session.run(
                "SELECT amqp.publish(%s, 'events', 'nowhere', 'x', mandatory => true)", direct
            )
            session.run("SELECT amqp.publish(%s, 'events', 'key', 'x', user_id => 'x')", direct)
        channel.exchange_delete("bad")
    messages = [report.message for report in session.warnings()]
    assert len(messages) == 3
    assert all(message.startswith("amqp: 100 messages") for message in messages)
    assert numbers_in(channel, "events", 100) == list(range(0, 400, 4))
    counts = session.run("SELECT published, returned, failed, pending FROM amqp.status()")
    assert counts == [(400, 100, 200, 0)]


# ---- Without publisher confirms ----


def test_without_publisher_confirms(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    session.set(publisher_confirms="off", confirm_timeout="60s")
    session.publish(through, "events", MANY)
    assert numbers_in(channel, "events", len(MANY)) == MANY
    # Nothing is awaited: a commit ends while the broker is silent.
    proxy.stall(Direction.TO_CLIENT)
    call = Call(lambda: session.publish(through, "events", MANY))
    call.result()
    assert numbers_in(channel, "events", len(MANY)) == MANY
    proxy.pass_all()
    session.set(publisher_confirms="on")
    session.publish(through, "events", MANY)
    assert numbers_in(channel, "events", len(MANY)) == MANY
    assert session.warnings() == []


def test_refusal_without_publisher_confirms_comes_late(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    declare(channel)
    declare(channel, "bad")
    session.set(publisher_confirms="off")
    with session.connection.transaction():
        session.publish(direct, "bad", [1])
        channel.exchange_delete("bad")
    warned: list[Report] = []
    sent = 0

    def told() -> bool:
        nonlocal sent
        session.publish(direct, "events", [sent])
        sent += 1
        warned.extend(session.warnings())
        return bool(warned)

    wait_for(told, LIMIT, "the refusal to arrive")
    assert "refused messages of an earlier transaction" in warned[0].message
    assert "no exchange 'bad'" in warned[0].detail
    session.set(publisher_confirms="on")
    session.publish(direct, "events", [sent])
    received = numbers_in(channel, "events", 1)
    # What was written to a closed channel is gone: nobody asked for a confirm.
    assert received[-1] == sent
    assert received == sorted(set(received))


def test_refusal_without_publisher_confirms_is_not_taken_for_that_of_the_next_call(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    declare(channel)
    for _ in range(10):
        declare(channel, "bad")
        session.set(publisher_confirms="off")
        with session.connection.transaction():
            session.publish(direct, "bad", [1])
            channel.exchange_delete("bad")
        # While the refusal is on its way; its exchange exists, and so does its broker.
        assert session.value(
            "SELECT amqp.exchange_declare(%s, 'events', 'fanout', true, false)", direct
        )
        session.set(publisher_confirms="on")
        session.publish(direct, "events", [2])
        assert numbers_in(channel, "events", 1) == [2]
        for report in session.warnings():
            assert "refused messages of an earlier transaction" in report.message


def test_cut_without_publisher_confirms(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    declare(channel)
    session.set(publisher_confirms="off")
    commit_meanwhile(session, through, proxy.reset)
    assert session.run("SELECT 1") == [(1,)]
    session.warnings()
    session.set(publisher_confirms="on")
    session.publish(through, "events", [5000])
    assert numbers_in(channel, "events", 1)[-1] == 5000


def test_status_of_nothing_lies(session: Session, direct: int) -> None:
    assert session.run("SELECT * FROM amqp.status()") == []
    session.run("SELECT amqp.ping(%s)", direct)
    row = session.run("SELECT to_json(s)::text FROM amqp.status() AS s")
    status = json.loads(row[0][0])
    assert status["connected"] is True
    assert status["server_product"] == "RabbitMQ"
    assert status["last_error"] is None
