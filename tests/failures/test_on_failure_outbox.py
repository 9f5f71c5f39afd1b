"""amqp.on_failure = outbox: what publish() puts into the outbox, and when."""

from __future__ import annotations

from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import errors

from servers.postgres import PostgreSQL
from servers.processes import free_port, wait_for
from servers.proxy import CuttingProxy, Welcome
from servers.rabbitmq import RabbitMQ
from support.fix_servers import VHost
from support.queues import declare, numbers_in
from support.sessions import Session, open_session, session_fixture

session = session_fixture(on_failure="outbox")

PUBLISH = "SELECT amqp.publish(%s, 'events', 'key', %s)"


@pytest.fixture
def away(session: Session) -> int:
    """A broker that is not there."""
    return session.add_broker(f"amqp://127.0.0.1:{free_port()}/")


def waiting(session: Session) -> list[str]:
    """The messages in the outbox, in order."""
    return [body.decode() for (body,) in session.run("SELECT body FROM amqp.outbox ORDER BY id")]


def test_a_broker_that_is_down_is_no_failure(
    session: Session, proxy: CuttingProxy, through: int
) -> None:
    proxy.refuse()
    session.run("CREATE TABLE t (n integer)")
    with session.transaction():
        session.run("INSERT INTO t VALUES (1)")
        assert (
            session.value(
                "SELECT count(*) FILTER (WHERE amqp.publish(%s, 'events', 'key', n::text))"
                " FROM generate_series(1, 1000) AS n",
                through,
            )
            == 1000
        )
        assert session.value("SELECT count(*) FROM amqp.pending()") == 0
    assert waiting(session) == [str(n) for n in range(1, 1001)]
    assert session.value("SELECT count(*) FROM t") == 1
    # Said once, and why.
    (found,) = session.warnings()
    assert found.sqlstate == "08001"
    assert found.message == f"amqp: messages to broker {through} go to the outbox"
    assert "connection refused" in found.detail
    assert "amqp.outbox" in found.hint
    # Later they queue behind, without a word and without asking the broker.
    connections = proxy.connections
    session.publish(through, "events", [1001])
    assert session.warnings() == []
    assert proxy.connections == connections
    assert waiting(session)[-1] == "1001"
    failed = session.run("SELECT published, failed FROM amqp.status()")
    assert failed == [(0, 0)]


def test_order_holds_until_the_outbox_is_empty(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    proxy.refuse()
    session.publish(through, "events", [1])
    proxy.pass_all()
    session.run("SELECT amqp.ping(%s)", through)
    session.publish(through, "events", [2])
    with session.transaction():
        # A call that has been through to the broker makes no difference.
        session.run("SELECT amqp.exchange_declare(%s, 'events', 'topic', false, true)", through)
        session.publish(through, "events", [3])
    assert waiting(session) == ["1", "2", "3"]
    assert numbers_in(channel, "events") == []
    # What is delayed, or for another broker, or dead, is not waited for.
    session.run("UPDATE amqp.outbox SET next_attempt_at = '2090-01-01+00' WHERE body = '1'")
    session.run("UPDATE amqp.outbox SET broker_id = 77 WHERE body = '2'")
    session.run("DELETE FROM amqp.outbox WHERE body = '3'")
    session.publish(through, "events", [4])
    assert numbers_in(channel, "events", 1) == [4]
    assert waiting(session) == ["1", "2"]


def test_no_property_is_lost(session: Session, away: int) -> None:
    session.run(
        """SELECT amqp.publish(%s, NULL, NULL, '{"a": "ß"}'::jsonb, delivery_mode => 2,
               reply_to => 'r', correlation_id => 'c', mandatory => true,
               headers => '{"h": [1, null]}', content_encoding => 'utf-8', priority => 5,
               expiration => '60000', message_id => 'm', "timestamp" => '2026-01-02 03:04:05.9+00',
               type => 't', user_id => 'guest', app_id => 'a')""",
        away,
    )
    session.run("SELECT amqp.publish(%s, 'x', 'k', '\\x00ff'::bytea)", away)
    names = [
        "broker_id", "exchange", "routing_key", "body", "delivery_mode", "content_type",
        "reply_to", "correlation_id", "mandatory", "headers", "content_encoding", "priority",
        "expiration", "message_id", "extract(epoch FROM timestamp)::int", "type", "user_id",
        "app_id", "ordering_key", "next_attempt_at", "attempts",
    ]  # fmt: skip
    first, second = session.run(f"SELECT {', '.join(names)} FROM amqp.outbox ORDER BY id")
    assert first == (
        away, "amq.direct", "", '{"a": "ß"}'.encode(), 2, "application/json", "r", "c", True,
        {"h": [1, None]}, "utf-8", 5, "60000", "m", 1767323045, "t", "guest", "a", None, None, 0,
    )  # fmt: skip
    assert second[:4] == (away, "x", "k", b"\x00\xff")
    assert second[13] is not None
    assert [*second[4:8], *second[9:13], *second[14:20]] == [None] * 14


@pytest.mark.parametrize(
    ("how", "sqlstate"),
    [("login", "28P01"), ("vhost", "08004"), ("exchange", "42704"), ("no AMQP", "08P01")],
)
def test_whatever_keeps_the_broker_from_taking_it(
    session: Session, postgres: PostgreSQL, broker: VHost, how: str, sqlstate: str
) -> None:
    url = {
        "login": broker.url("guest", "wrong"),
        "vhost": broker.url() + "-not",
        "exchange": broker.url(),
        "no AMQP": broker.url(port=postgres.port),
    }[how]
    broker_id = session.add_broker(url)
    session.publish(broker_id, "nowhere", [1, 2])
    (found,) = session.warnings()
    assert found.sqlstate == sqlstate
    assert waiting(session) == ["1", "2"]


def test_a_blocked_broker(database: str, rabbitmq: RabbitMQ, broker: VHost) -> None:
    with open_session(database) as session:
        broker_id = session.add_broker(broker.url())
        session.set(confirm_timeout="200ms", on_failure="outbox")
        session.publish(broker_id, "amq.topic", [0])
        with rabbitmq.short_of_memory():
            # The first one is on its way before anybody knows.
            session.publish(broker_id, "amq.topic", [1])
            session.warnings()
            session.publish(broker_id, "amq.topic", [2])
            (found,) = session.warnings()
            assert found.sqlstate == "53000"
            assert waiting(session) == ["2"]


def test_lost_in_the_middle_of_a_transaction(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    channel.exchange_declare("new", "topic")
    channel.queue_bind("events", "new", "#")
    with session.transaction():
        session.publish(through, "events", [1])
        proxy.refuse()
        # It is only noticed where the broker is asked.
        session.publish(through, "events", [2])
        session.publish(through, "new", [3])
        session.publish(through, "events", [4])
        proxy.pass_all()
        session.publish(through, "new", [5])
        assert session.value("SELECT count(*) FROM amqp.pending()") == 2
    (found,) = session.warnings()
    assert found.sqlstate[:2] == "08"
    assert numbers_in(channel, "events", 2) == [1, 2]
    assert waiting(session) == ["3", "4", "5"]


def test_what_is_the_callers_own_mistake_stays_an_error(session: Session, away: int) -> None:
    for arguments, sqlstate in {
        "NULL::int, 'e', 'k', 'x'": "22004",
        "77, 'e', 'k', 'x'": "42704",
        f"{away}, repeat('e', 256), 'k', 'x'": "22001",
        f"{away}, 'e', 'k', 'x', delivery_mode => 3": "22023",
        f"{away}, 'e', 'k', 'x', headers => '[]'": "22023",
        f"{away}, 'e', 'k', 'x', \"timestamp\" => '-infinity'": "22023",
    }.items():
        assert session.error(f"SELECT amqp.publish({arguments})").sqlstate == sqlstate, arguments
        with session.transaction(force_rollback=True):
            # Nor does it matter that others have been diverted.
            session.publish(away, "e", [1])
            error = session.error(f"SELECT amqp.publish({arguments})")
            assert error.sqlstate == sqlstate, arguments
    session.set(confirm_timeout="soon")
    assert session.error(PUBLISH, away, "x").sqlstate == "22023"
    session.set(confirm_timeout="", on_failure="out")
    error = session.error(PUBLISH, away, "x")
    assert (error.sqlstate, error.hint) == (
        "22023",
        'Available values: "error", "warn", "outbox".',
    )
    assert waiting(session) == []


def test_other_calls_fail_as_ever(session: Session, away: int) -> None:
    for query in (
        "SELECT amqp.autonomous_publish(%s, 'e', 'k', 'x')",
        "SELECT amqp.exchange_declare(%s, 'e', 'topic', false, true)",
        "SELECT amqp.ping(%s)",
    ):
        assert session.error(query, away).sqlstate == "08001"
    with session.transaction():
        session.publish(away, "e", [1])
    session.warnings()
    assert session.error("SELECT amqp.autonomous_publish(%s, 'e', 'k', 'x')", away)
    assert waiting(session) == ["1"]


@pytest.mark.parametrize("welcome", [Welcome.RESET, Welcome.STALL])
def test_one_attempt_to_connect_in_each_backoff_period(
    session: Session, proxy: CuttingProxy, through: int, welcome: Welcome
) -> None:
    session.set(connect_timeout="200ms")
    proxy.welcome(welcome)
    for number in range(20):
        with session.transaction(force_rollback=number < 10):
            session.publish(through, "events", range(number * 10, number * 10 + 10))
    assert proxy.connections == 1
    assert waiting(session) == [str(number) for number in range(100, 200)]


def test_savepoints_and_rollback(session: Session, away: int, database: str) -> None:
    with session.transaction(force_rollback=True):
        session.publish(away, "events", [1])
    assert waiting(session) == []
    with session.transaction():
        session.run("SAVEPOINT a")
        session.publish(away, "events", [2])
        session.run("ROLLBACK TO a")
        session.publish(away, "events", [3])
        session.run("SAVEPOINT b")
        session.publish(away, "events", [4])
        session.run("RELEASE b")
    assert waiting(session) == ["3", "4"]
    assert len(session.warnings()) == 2


def test_two_brokers(session: Session, through: int, away: int, channel: BlockingChannel) -> None:
    with session.transaction():
        for number in range(0, 10, 2):
            session.publish(through, "events", [number])
            session.publish(away, "events", [number + 1])
    assert numbers_in(channel, "events", 5) == [0, 2, 4, 6, 8]
    assert waiting(session) == ["1", "3", "5", "7", "9"]


def test_a_prepared_transaction(session: Session, away: int, through: int) -> None:
    session.run("BEGIN")
    session.publish(away, "events", [1])
    session.run("PREPARE TRANSACTION 'p'")
    session.warnings()
    assert waiting(session) == []
    session.run("COMMIT PREPARED 'p'")
    assert waiting(session) == ["1"]
    # It says nothing about the next transaction, whose broker is there.
    session.run("BEGIN")
    session.publish(through, "events", [2])
    with pytest.raises(errors.FeatureNotSupported):
        session.run("PREPARE TRANSACTION 'p'")


def test_capture(session: Session, away: int) -> None:
    session.set(capture="on")
    with session.transaction():
        session.publish(away, "events", [1])
        assert session.run("SELECT message, captured FROM amqp.pending()") == [("1", True)]
    assert waiting(session) == []
    assert session.warnings() == []


def test_a_read_only_transaction(
    session: Session, proxy: CuttingProxy, through: int, channel: BlockingChannel
) -> None:
    session.run("SET default_transaction_read_only = on")
    session.publish(through, "events", [1])
    assert numbers_in(channel, "events", 1) == [1]
    proxy.refuse()
    error = session.error(PUBLISH, through, "2")
    assert error.sqlstate == "25006"
    assert "cannot execute" in error.message
    (found,) = session.warnings()
    assert "connection refused" in found.detail


def test_changes_of_a_table(session: Session, away: int) -> None:
    session.run("CREATE TABLE items (id integer PRIMARY KEY)")
    session.run(
        "CREATE TRIGGER items_publish AFTER INSERT OR UPDATE OR DELETE ON items"
        f" FOR EACH ROW EXECUTE FUNCTION amqp.publish_change('{away}', 'events')"
    )
    session.run("INSERT INTO items SELECT generate_series(1, 50)")
    assert len(session.warnings()) == 1
    rows = session.run(
        "SELECT routing_key, content_type, convert_from(body, 'UTF8')::jsonb->'new'->>'id'"
        " FROM amqp.outbox ORDER BY id"
    )
    assert rows == [("public.items.insert", "application/json", str(n)) for n in range(1, 51)]


def test_a_role_that_may_only_publish(
    session: Session, database: str, away: int, through: int, channel: BlockingChannel
) -> None:
    session.run("CREATE ROLE publisher LOGIN")
    try:
        session.run("GRANT USAGE ON SCHEMA amqp TO publisher")
        with open_session(database, role="publisher") as publisher:
            publisher.set(on_failure="outbox")
            publisher.publish(away, "events", [1])
            publisher.publish(through, "events", [2])
            assert publisher.error("SELECT body FROM amqp.outbox").sqlstate == "42501"
        assert waiting(session) == ["1"]
        assert numbers_in(channel, "events", 1) == [2]
    finally:
        session.run("DROP OWNED BY publisher; DROP ROLE publisher")


def test_settings_of_the_caller_stay_as_they_are(session: Session, through: int) -> None:
    shown: list[Any] = []
    for _ in range(2):
        shown.append(
            [session.value(f"SHOW {name}") for name in ("enable_seqscan", "enable_sort", "jit")]
        )
        session.run("BEGIN")
        session.publish(through, "events", [1])
        shown.append(
            [session.value(f"SHOW {name}") for name in ("enable_seqscan", "enable_sort", "jit")]
        )
        session.run("COMMIT")
    assert all(one == shown[0] for one in shown)


def test_a_hot_standby(broker: VHost, channel: BlockingChannel) -> None:
    declare(channel)
    with PostgreSQL() as primary:
        with open_session(primary.dsn()) as one:
            one.execute("CREATE EXTENSION pg_amqp_py CASCADE")
            one.execute("SELECT amqp.add_broker(%s)", [broker.url()])
            row = one.execute("SELECT pg_current_wal_lsn()").fetchone()
            assert row is not None
        with PostgreSQL(standby_of=primary) as standby, open_session(standby.dsn()) as session:
            wait_for(
                lambda: session.value("SELECT pg_last_wal_replay_lsn() >= %s", *row),
                30,
                "the standby to catch up",
            )
            session.set(on_failure="outbox")
            session.publish(1, "events", [1])
            assert numbers_in(channel, "events", 1) == [1]
            error = session.error("SELECT amqp.publish(1, 'nowhere', 'key', 'x')")
            assert error.sqlstate == "25006"
