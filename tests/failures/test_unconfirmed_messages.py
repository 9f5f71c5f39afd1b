"""What a commit could not get confirmed: kept, delivered later in order, or lost with a word."""

from __future__ import annotations

import re

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction, Welcome
from servers.rabbitmq import RabbitMQ
from support.calls import Call
from support.fix_servers import VHost
from support.patience import LIMIT
from support.queues import declare, numbers_in, open_channel, take
from support.sessions import Report, Session, open_session, session_fixture, wait_for_end

session = session_fixture(confirm_timeout="200ms")

LOST = r"amqp: .* lost at the end of the session.*"


@pytest.fixture
def through(session: Session, broker: VHost, proxy: CuttingProxy, channel: BlockingChannel) -> int:
    """The test's broker through the proxy, already connected, with exchange and queue `events`."""
    declare(channel)
    broker_id = session.add_broker(broker.url(port=proxy.port))
    session.publish(broker_id, "events", [0])
    assert numbers_in(channel, "events", 1) == [0]
    return broker_id


def commit_in_vain(session: Session, proxy: CuttingProxy, broker_id: int, *numbers: int) -> Report:
    """Publish numbers to a broker that is gone before the commit; return the warning."""
    session.set(confirm_timeout="200ms")
    with session.transaction():
        session.publish(broker_id, "events", numbers)
        proxy.refuse()
    # From here on the broker may be as slow as it likes.
    session.set(confirm_timeout="20s")
    (found,) = session.warnings()
    return found


def counts(session: Session) -> tuple[int, ...]:
    """The numbers of the one broker in amqp.status()."""
    ((*found,),) = session.run(
        "SELECT published, confirmed, returned, failed, pending, unconfirmed FROM amqp.status()"
    )
    return tuple(found)


def settled(session: Session) -> bool:
    """Whether nothing is kept; asking is a transaction that publishes nothing."""
    kept: int = session.value("SELECT sum(unconfirmed) FROM amqp.status()")
    return kept == 0


def wait_until_settled(session: Session) -> None:
    """Wait for the end of the backoff, and for transactions to deliver what is kept."""
    wait_for(lambda: settled(session), LIMIT, "the delivery of what is kept", interval=0.05)


def test_the_warning_says_that_they_are_kept(
    session: Session, proxy: CuttingProxy, through: int
) -> None:
    found = commit_in_vain(session, proxy, through, 1, 2)
    assert found.message == f"amqp: 2 messages not confirmed by broker {through}"
    assert "kept, and tried again at the next transactions of this session" in found.hint
    assert counts(session) == (3, 1, 0, 0, 0, 2)


@pytest.mark.parametrize("how", ["BEGIN READ ONLY", "BEGIN", "BEGIN ISOLATION LEVEL SERIALIZABLE"])
def test_a_transaction_that_publishes_nothing_delivers_them(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel, how: str
) -> None:
    commit_in_vain(session, proxy, through, 1, 2, 3)
    proxy.pass_all()

    def committed() -> bool:
        session.run(how)
        session.run("SELECT 1")
        session.run("COMMIT")
        return settled(session)

    wait_for(committed, LIMIT, "a commit after the backoff", interval=0.05)
    assert numbers_in(channel, "events", 3) == [1, 2, 3]
    assert session.warnings() == []
    assert counts(session) == (4, 4, 0, 0, 0, 0)


def test_a_transaction_that_publishes_delivers_them_first(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    commit_in_vain(session, proxy, through, *range(1, 500))
    publish = "SELECT amqp.publish(%s, 'events', 'key', '500')"
    # Not while they cannot go.
    assert session.error(publish, through).sqlstate == "08001"
    proxy.pass_all()
    with session.transaction():
        # ping() ends the backoff, and writes nothing by itself.
        session.run("SELECT amqp.ping(%s)", through)
        assert take(channel, "events") == []
        session.run("SAVEPOINT a")
        session.run(publish, through)
        assert numbers_in(channel, "events", 499) == list(range(1, 500))
        session.run("ROLLBACK TO a")
        session.run(publish, through)
    assert numbers_in(channel, "events", 1) == [500]
    assert session.warnings() == []


def test_what_is_rolled_back_delivers_them_as_well(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    commit_in_vain(session, proxy, through, 1)
    proxy.pass_all()
    with session.transaction(force_rollback=True):
        session.run("SELECT amqp.disconnect(%s)", through)
        session.publish(through, "events", [2])
    assert numbers_in(channel, "events", 1) == [1]
    assert counts(session)[-1] == 0


def test_nothing_is_tried_under_capture(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    commit_in_vain(session, proxy, through, 1)
    proxy.pass_all()
    session.run("BEGIN")
    session.set(capture="on")
    session.run("SELECT amqp.disconnect(%s)", through)
    session.publish(through, "events", [2])
    session.run("COMMIT")
    assert counts(session)[-1] == 1
    session.set(capture="off")
    wait_until_settled(session)
    assert numbers_in(channel, "events", 1) == [1]


@pytest.mark.parametrize("welcome", [Welcome.RESET, Welcome.STALL])
def test_one_attempt_in_each_backoff_period(
    session: Session, proxy: CuttingProxy, through: int, welcome: Welcome
) -> None:
    commit_in_vain(session, proxy, through, 1)
    session.set(confirm_timeout="200ms")
    proxy.welcome(welcome)
    # It ends the backoff, and its own commit makes the attempt that begins the next one.
    session.run("SELECT amqp.disconnect(%s)", through)
    connections = proxy.connections
    for _ in range(200):
        session.run("SELECT 1")
    assert proxy.connections == connections
    session.error("SELECT amqp.publish(%s, 'events', 'key', '2')", through)
    assert proxy.connections == connections


def test_a_broker_that_was_silent_is_tried_at_the_next_commit(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    with session.transaction():
        session.publish(through, "events", [1])
        proxy.stall()
    (found,) = session.warnings()
    assert found.sqlstate == "08006"
    proxy.pass_all()
    session.set(confirm_timeout="20s")
    assert settled(session)
    # It may also have come when the proxy let it pass.
    assert set(numbers_in(channel, "events", 1)) == {1}


def test_a_stall_while_they_are_retried(
    session: Session, broker: VHost, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    commit_in_vain(session, proxy, through, *range(1, 100))
    login = proxy.bytes_to_server
    session.set(confirm_timeout="30s")
    proxy.pass_all()
    session.run("SET statement_timeout = '300ms'")
    proxy.cut_after(400, Direction.TO_SERVER, then=Welcome.STALL)
    # The wait in a call can be interrupted, and what was kept still is.
    ask = "SELECT amqp.exchange_declare(%s, 'amq.topic', '', true, true)"
    session.run("SELECT amqp.disconnect(%s)", through)
    error = Call(lambda: session.error(f"{ask}, pg_sleep(20)", through)).result()
    assert error.sqlstate in ("57014", "08001", "08006")
    assert proxy.bytes_to_server > login
    session.run("RESET statement_timeout")
    proxy.pass_all()
    session.run("SELECT amqp.disconnect(%s)", through)
    session.run(ask, through)
    assert list(dict.fromkeys(numbers_in(channel, "events", 99))) == list(range(1, 100))
    assert settled(session)


def test_several_transactions_of_two_brokers(
    session: Session, broker: VHost, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    declare(channel, "others")
    other = session.add_broker(broker.url())
    with session.transaction():
        session.publish(through, "events", [1])
        session.publish(other, "others", [2])
        session.publish(through, "events", [3])
        proxy.refuse()
    (found,) = session.warnings()
    assert found.message == f"amqp: 2 messages not confirmed by broker {through}"
    # The other one is none the worse.
    session.publish(other, "others", [4])
    assert numbers_in(channel, "others", 2) == [2, 4]
    proxy.pass_all()
    session.run("SELECT amqp.ping(%s)", through)
    assert numbers_in(channel, "events", 2) == [1, 3]
    assert numbers_in(channel, "others") == []


def test_a_real_restart(database: str, rabbitmq: RabbitMQ, broker: VHost) -> None:
    with open_channel(broker.url()) as channel:
        declare(channel)
    rabbitmq.write_down()
    with open_session(database) as session:
        broker_id = session.add_broker(broker.url())
        session.set(confirm_timeout="200ms")
        persistent = "SELECT amqp.publish(%s, 'events', 'key', %s, delivery_mode => 2)"
        with session.transaction():
            session.run(persistent, broker_id, "1")
            session.run(persistent, broker_id, "2")
            rabbitmq.kill()
        session.set(confirm_timeout="20s")
        rabbitmq.start()
        wait_until_settled(session)
        session.run(persistent, broker_id, "3")
        assert counts(session) == (3, 3, 0, 0, 0, 0)
    with open_channel(broker.url()) as channel:
        assert numbers_in(channel, "events", 3) == [1, 2, 3]


def test_a_blocked_broker_gets_them_once(database: str, rabbitmq: RabbitMQ, broker: VHost) -> None:
    with open_channel(broker.url()) as channel:
        declare(channel)
    with open_session(database) as session:
        broker_id = session.add_broker(broker.url())
        session.set(confirm_timeout="200ms")
        session.publish(broker_id, "events", [0])
        with rabbitmq.short_of_memory():
            session.publish(broker_id, "events", range(1, 100))
            (found,) = session.warnings()
            assert found.message == f"amqp: 99 messages not confirmed by broker {broker_id}"
            # Nobody waits for it at every commit.
            session.set(confirm_timeout="10min")
            for _ in range(20):
                Call(lambda: session.run("SELECT 1")).result()
            assert counts(session)[-1] == 99
            error = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
            assert error.sqlstate == "53000"
        wait_until_settled(session)
        session.publish(broker_id, "events", [100])
        assert counts(session) == (101, 101, 0, 1, 0, 0)
        assert session.warnings() == []
    with open_channel(broker.url()) as channel:
        assert numbers_in(channel, "events", 101) == list(range(101))


def test_confirms_that_came_before_the_connection_broke_count(
    database: str, rabbitmq: RabbitMQ, broker: VHost
) -> None:
    with open_channel(broker.url()) as channel:
        declare(channel)
    with open_session(database) as session:
        broker_id = session.add_broker(broker.url())
        session.set(confirm_timeout="200ms")
        session.publish(broker_id, "events", [0])
        with rabbitmq.short_of_memory():
            session.publish(broker_id, "events", range(1, 100))
            assert len(session.warnings()) == 1
            session.set(confirm_timeout="20s")
        with open_channel(broker.url()) as channel:
            wait_for(
                lambda: channel.queue_declare("events", passive=True).method.message_count == 100,
                LIMIT,
                "all of them to arrive",
            )
        # The session, idle all the time, finds the confirms and then the end of the connection.
        rabbitmq.rabbitmqctl("close_all_connections", "--vhost", broker.vhost, "maintenance")
        session.publish(broker_id, "events", [100])
        assert counts(session) == (101, 101, 0, 0, 0, 0)
    with open_channel(broker.url()) as channel:
        assert numbers_in(channel, "events", 101) == list(range(101))


def test_what_the_broker_refuses_of_them_is_reported_once(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    declare(channel, "bad")
    with session.transaction():
        for number in range(9):
            session.publish(through, "bad" if number % 3 == 1 else "events", [number])
        session.run(
            "SELECT amqp.publish(%s, 'amq.direct', 'nowhere', 'x', mandatory => true)", through
        )
        proxy.refuse()
    session.warnings()
    channel.exchange_delete("bad")
    proxy.pass_all()
    session.run("SELECT amqp.ping(%s)", through)
    returned, refused = sorted(session.warnings(), key=lambda report: len(report.message))[::-1]
    assert refused.message == f'amqp: 3 messages to exchange "bad" refused by broker {through}'
    assert "returned as unroutable" in returned.message
    assert numbers_in(channel, "events", 6) == [0, 2, 3, 5, 6, 8]
    assert counts(session)[2:] == (1, 3, 0, 0)
    session.publish(through, "events", [9])
    assert session.warnings() == []


def test_a_changed_row_sends_them_to_the_new_host(
    session: Session,
    rabbitmq: RabbitMQ,
    proxy: CuttingProxy,
    through: int,
    channel: BlockingChannel,
) -> None:
    commit_in_vain(session, proxy, through, 1, 2)
    session.run("UPDATE amqp.broker SET port = %s", rabbitmq.amqp_port)
    session.publish(through, "events", [3])
    assert numbers_in(channel, "events", 3) == [1, 2, 3]


@pytest.mark.parametrize("size", [100_000, 2_000_000])
def test_a_new_host_with_smaller_frames(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel, size: int
) -> None:
    with session.transaction():
        session.run("SELECT amqp.publish(%s, 'events', 'key', repeat('x', %s))", through, size)
        session.publish(through, "events", [1])
        proxy.refuse()
    with RabbitMQ(config={"frame_max": "8192"}) as small:
        with open_channel(small.url()) as there:
            declare(there)
        session.run(
            "UPDATE amqp.broker SET port = %s, vhost = '/' WHERE broker_id = %s",
            small.amqp_port,
            through,
        )
        session.run("SELECT amqp.ping(%s)", through)
        with open_channel(small.url()) as there:
            assert take(there, "events", 2) == ["x" * size, "1"]


def test_without_publisher_confirms(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    session.set(publisher_confirms="off")
    found = commit_in_vain(session, proxy, through, 1, 2)
    assert found.message == f"amqp: 2 messages not confirmed by broker {through}"
    proxy.pass_all()
    wait_until_settled(session)
    session.publish(through, "events", [3])
    assert numbers_in(channel, "events", 3) == [1, 2, 3]
    assert session.warnings() == []


# ---- The end of the session ----


def lines(postgres: PostgreSQL, pid: int) -> list[str]:
    """What the server's log says of messages that this backend has lost."""
    return [
        line
        for line in postgres.log_text().splitlines()
        if re.search(LOST, line) and f"[{pid}]" in line
    ]


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_the_log_says_what_is_lost(
    postgres: PostgreSQL,
    database: str,
    broker: VHost,
    proxy: CuttingProxy,
    channel: BlockingChannel,
    how: str,
) -> None:
    declare(channel)
    declare(channel, "größe")
    with open_session(database) as observer, open_session(database) as session:
        session.set(confirm_timeout="200ms")
        broker_id = session.add_broker(broker.url("guest", "guest", port=proxy.port))
        with session.transaction():
            session.publish(broker_id, "events", [1, 2, 3])
            session.publish(broker_id, "größe", [4])
            proxy.refuse()
        if how == "close":
            session.close()
        else:
            observer.run("SELECT pg_terminate_backend(%s)", session.pid)
        wait_for_end(observer, session.pid)
        (line,) = lines(postgres, session.pid)
        assert "LOG:  amqp: 4 messages not confirmed by broker" in line
        assert '"events" (3), "gr\\xf6\\xdfe" (1)' in line
        assert "connection refused" in line
        assert "guest" not in line


def test_the_log_says_nothing_where_nothing_is_lost(
    postgres: PostgreSQL, database: str, broker: VHost, proxy: CuttingProxy, through: int
) -> None:
    with open_session(database) as observer, open_session(database) as session:
        session.set(confirm_timeout="200ms")
        session.publish(through, "events", [1])
        commit_in_vain(session, proxy, through, 2)
        proxy.pass_all()
        session.run("SELECT amqp.ping(%s)", through)
        session.close()
        wait_for_end(observer, session.pid)
        assert lines(postgres, session.pid) == []


def test_status_notices_that_a_connection_is_gone(
    session: Session, proxy: CuttingProxy, through: int
) -> None:
    connected = "SELECT connected, host IS NOT NULL FROM amqp.status()"
    assert session.run(connected) == [(True, True)]
    proxy.reset()
    assert session.run(connected) == [(False, False)]
    session.run("SELECT amqp.ping(%s)", through)
    assert session.run(connected) == [(True, True)]


@pytest.mark.slow
def test_headers_that_do_not_fit_the_frames_of_another_host(
    session: Session, broker: VHost, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    """A connection with smaller frames takes over: what does not fit is refused, the rest goes."""
    with (
        RabbitMQ(config={"frame_max": "8192"}) as small,
        open_channel(small.url()) as elsewhere,
    ):
        declare(elsewhere)
        add = "INSERT INTO amqp.broker SELECT %s, host, %s, '/' FROM amqp.broker"
        session.set(confirm_timeout="5s")
        with session.transaction():
            session.publish(through, "events", [1])
            session.run(
                "SELECT amqp.publish(%s, 'events', 'key', 'large',"
                " headers => jsonb_build_object('a', repeat('x', 10000)))",
                through,
            )
            session.publish(through, "events", [2])
            proxy.refuse()
            session.run(add, through, small.amqp_port)
        (warning,) = session.warnings()
        assert "3 messages not confirmed" in warning.message
        # The other host is one from the next transaction on.
        session.run("SELECT amqp.ping(%s)", through)
        (warning,) = session.warnings()
        assert warning.sqlstate == "55000"
        assert warning.message.startswith('amqp: 1 message to exchange "events"')
        assert "at most 8192 bytes" in warning.detail
        assert numbers_in(elsewhere, "events", 2) == [1, 2]
        # The session goes on there.
        session.run("SELECT 1")
        session.publish(through, "events", [3])
        assert numbers_in(elsewhere, "events", 1) == [3]
        error = session.error(
            "SELECT amqp.publish(%s, 'events', 'key', 'large',"
            " headers => jsonb_build_object('a', repeat('x', 10000)))",
            through,
        )
        assert error.sqlstate == "54000"
        session.publish(through, "events", [4])
        assert session.warnings() == []
