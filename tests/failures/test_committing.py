"""A broker that breaks off between publish() and the end of the commit."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction, Welcome
from support.calls import Call
from support.failures import MANY, commit_meanwhile, failure_fixtures, warning
from support.patience import LIMIT
from support.queues import declare, numbers_in, take
from support.sessions import Session
from support.shared import assert_works

session, through, direct = failure_fixtures()


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
    take(channel, "events", 41)
    cuts = 0
    for count in sorted({*range(1, whole + 1, max(1, whole // 40)), whole - 1, whole}):
        connections = proxy.connections
        with session.transaction():
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
    with session.transaction():
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
    with session.transaction():
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
    with session.transaction():
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
    with session.transaction():
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
