"""A queue that does not confirm: no copies, no waits for others, and the right words."""

from __future__ import annotations

from pika.adapters.blocking_connection import BlockingChannel

from servers.management import Management
from servers.processes import wait_for
from servers.proxy import CuttingProxy
from support.fix_servers import VHost
from support.patience import LIMIT
from support.queues import numbers_in
from support.sessions import Session
from support.stuck import stuck_fixtures, suspended

session, through = stuck_fixtures()


def unconfirmed(session: Session) -> int:
    number: int = session.value("SELECT unconfirmed FROM amqp.status()")
    return number


def test_it_gets_one_copy_and_nobody_else_waits(
    session: Session,
    broker: VHost,
    proxy: CuttingProxy,
    through: int,
    channel: BlockingChannel,
) -> None:
    session.publish(through, "orders", [0])
    assert (numbers_in(channel, "ledger", 1), numbers_in(channel, "mailer", 1)) == ([0], [0])
    with suspended(broker, "mailer"):
        session.publish(through, "orders", [1])
        (warning,) = session.warnings()
        assert "a queue has not confirmed" in warning.detail
        assert "awaited" in warning.hint
        written = proxy.bytes_to_server
        for _ in range(100):
            session.run("SELECT 1")
        # Not a byte, and so no wait either.
        assert proxy.bytes_to_server == written
        for number in range(2, 50):
            session.run("SELECT amqp.ping(%s)", through)
            session.publish(through, "events", [number])
        assert session.warnings() == []
        assert proxy.connections == 1
        assert numbers_in(channel, "events", 48) == list(range(2, 50))
        assert numbers_in(channel, "ledger", 1) == [1]
        assert unconfirmed(session) == 1
        # More to the same place.
        session.publish(through, "orders", [50, 51])
        assert len(session.warnings()) == 1
        assert unconfirmed(session) == 3
    wait_for(lambda: session.run("SELECT 1") and unconfirmed(session) == 0, LIMIT, "the confirms")
    assert numbers_in(channel, "mailer", 3) == [1, 50, 51]
    assert numbers_in(channel, "ledger", 2) == [50, 51]
    session.publish(through, "orders", [52])
    assert numbers_in(channel, "mailer", 1) == [52]
    assert session.warnings() == []


def test_a_confirm_that_is_only_slow_makes_no_copy(
    session: Session, broker: VHost, through: int, channel: BlockingChannel
) -> None:
    with suspended(broker, "mailer"):
        session.publish(through, "orders", range(1, 100))
        assert len(session.warnings()) == 1
        session.run("SELECT 1")
    session.publish(through, "orders", [100])
    wait_for(lambda: session.run("SELECT 1") and unconfirmed(session) == 0, LIMIT, "the confirms")
    for queue in ("ledger", "mailer"):
        assert numbers_in(channel, queue, 100) == list(range(1, 101))
    row = session.run("SELECT published, confirmed, failed FROM amqp.status()")
    assert row == [(100, 100, 0)]


def test_other_messages_of_the_same_transaction_are_waited_for(
    session: Session, broker: VHost, through: int, channel: BlockingChannel
) -> None:
    with suspended(broker, "mailer"):
        session.publish(through, "orders", [1])
        with session.transaction():
            session.publish(through, "events", [2])
            session.publish(through, "orders", [3])
            session.publish(through, "events", [4])
        assert unconfirmed(session) == 2
        assert numbers_in(channel, "events", 2) == [2, 4]
        assert session.value("SELECT confirmed FROM amqp.status()") == 2
    wait_for(lambda: session.run("SELECT 1") and unconfirmed(session) == 0, LIMIT, "the confirms")
    assert numbers_in(channel, "mailer", 2) == [1, 3]


def test_it_is_written_again_when_the_connection_breaks(
    session: Session, broker: VHost, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    with suspended(broker, "mailer"):
        session.publish(through, "orders", [1])
        proxy.reset()
        session.run("SELECT 1")
        written = proxy.bytes_to_server
        session.run("SELECT 1")
        assert proxy.bytes_to_server == written
        assert proxy.connections == 2
    wait_for(lambda: session.run("SELECT 1") and unconfirmed(session) == 0, LIMIT, "the confirms")
    assert numbers_in(channel, "ledger", 2) == [1, 1]
    assert numbers_in(channel, "mailer", 2) == [1, 1]


def test_a_refusal_of_a_later_message_makes_no_copy(
    session: Session, broker: VHost, through: int, channel: BlockingChannel
) -> None:
    channel.exchange_declare("gone", "fanout")
    with suspended(broker, "mailer"):
        session.publish(through, "orders", [1])
        session.warnings()
        with session.transaction():
            session.publish(through, "gone", [2])
            session.publish(through, "events", [3])
            channel.exchange_delete("gone")
        assert "gone" in session.warnings()[0].message
        # The channel was closed for a later one: this one had been routed.
        session.run("SELECT 1")
        assert unconfirmed(session) == 0
    assert numbers_in(channel, "events", 1) == [3]
    assert numbers_in(channel, "ledger", 1) == [1]
    assert numbers_in(channel, "mailer", 1) == [1]


def test_what_waits_for_a_confirm_is_bounded(
    session: Session, broker: VHost, through: int, channel: BlockingChannel
) -> None:
    publish = "SELECT amqp.publish(%s, 'orders', 'key', 'x')"
    with suspended(broker, "mailer"):
        session.publish(through, "orders", range(200))
        error = session.error(publish, through)
        assert error.sqlstate == "53000"
        assert 'exchange "orders" with routing key "key"' in error.message
        session.publish(through, "events", [1])
        assert numbers_in(channel, "events", 1) == [1]
        session.set(on_failure="outbox")
        session.run(publish, through)
        assert session.value("SELECT count(*) FROM amqp.outbox") == 1
        session.set(on_failure="error")
    wait_for(lambda: session.run("SELECT 1") and unconfirmed(session) == 0, LIMIT, "the confirms")
    session.run(publish, through)
    assert len(numbers_in_all(channel)) == 201


def numbers_in_all(channel: BlockingChannel) -> list[bytes]:
    """What is in the mailer's queue, whatever it is."""
    found = []
    while (body := channel.basic_get("mailer", auto_ack=True)[2]) is not None:
        found.append(body)
    return found


def test_so_many_that_rabbitmq_stops_reading(
    session: Session, broker: VHost, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    numbers = list(range(3_000))
    with suspended(broker, "mailer"):
        session.publish(through, "orders", numbers)
        assert len(session.warnings()) == 1
        for _ in range(20):
            session.run("SELECT 1")
        # On another connection.
        session.publish(through, "events", [1])
        assert numbers_in(channel, "events", 1) == [1]
        assert session.warnings() == []
    wait_for(lambda: session.run("SELECT 1") and unconfirmed(session) == 0, LIMIT, "the confirms")
    assert numbers_in(channel, "mailer", 3_000) == numbers
    assert numbers_in(channel, "ledger", 3_000) == numbers
    assert proxy.connections == 2


def test_autonomous_publish_says_so(
    session: Session, broker: VHost, through: int, channel: BlockingChannel, management: Management
) -> None:
    with suspended(broker, "mailer"):
        error = session.error("SELECT amqp.autonomous_publish(%s, 'orders', 'k', '1')", through)
        assert error.sqlstate == "08006"
        assert "a queue has not confirmed" in error.detail
        session.publish(through, "events", [2])
        assert session.warnings() == []
    assert numbers_in(channel, "events", 1) == [2]
    assert numbers_in(channel, "ledger", 1) == [1]
