"""What a session shows of itself: amqp.pending(), amqp.status(), amqp.ping(); and amqp.capture."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import errors
from psycopg.rows import dict_row

from servers.management import Management
from servers.processes import wait_for
from servers.proxy import CuttingProxy, Welcome
from servers.rabbitmq import RabbitMQ
from support.fix_servers import VHost
from support.messages import Inbox, publish
from support.sessions import Session, open_session, wait_for_end

COLUMNS = [
    "broker_id",
    "exchange",
    "routing_key",
    "message",
    "body",
    "delivery_mode",
    "content_type",
    "reply_to",
    "correlation_id",
    "mandatory",
    "headers",
    "content_encoding",
    "priority",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "captured",
]

# Every property of AMQP, as amqp.publish() takes it.
FULL = """
SELECT amqp.publish(
    1, 'amq.fanout', 'kéy', 'mëssage',
    delivery_mode => 2,
    content_type => 'text/plain',
    reply_to => 'reply',
    correlation_id => 'correlation',
    mandatory => true,
    headers => '{"a": 1, "b": {"c": [null, true, "x", 1.5, 9223372036854775807]}}',
    content_encoding => 'utf-8',
    priority => 7,
    expiration => '60000',
    message_id => 'id',
    "timestamp" => '2024-02-29 12:34:56+00',
    type => 'type',
    user_id => 'guest',
    app_id => 'app'
)
"""


def rows(session: Session, query: str) -> list[dict[str, Any]]:
    """Run a query and return its rows by column name."""
    with session.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode()).fetchall()


def pending(session: Session) -> list[dict[str, Any]]:
    """Return amqp.pending()."""
    return rows(session, "SELECT * FROM amqp.pending()")


def messages(session: Session) -> list[str]:
    """Return the messages in amqp.pending()."""
    return [row["message"] for row in pending(session)]


def status(session: Session) -> list[dict[str, Any]]:
    """Return amqp.status()."""
    return rows(session, "SELECT * FROM amqp.status()")


def only_status(session: Session) -> dict[str, Any]:
    """Return the one row of amqp.status()."""
    (row,) = status(session)
    return row


# ---- amqp.pending() ----


def test_pending_shows_every_property(session: Session, channel: BlockingChannel) -> None:
    assert pending(session) == []
    inbox = Inbox(channel, "amq.fanout")
    with session.transaction(force_rollback=True):
        session.execute(FULL.encode())
        (row,) = pending(session)
        assert list(row) == COLUMNS
        assert row == {
            "broker_id": 1,
            "exchange": "amq.fanout",
            "routing_key": "kéy",
            "message": "mëssage",
            "body": "mëssage".encode(),
            "delivery_mode": 2,
            "content_type": "text/plain",
            "reply_to": "reply",
            "correlation_id": "correlation",
            "mandatory": True,
            "headers": {"a": 1, "b": {"c": [None, True, "x", 1.5, 9223372036854775807]}},
            "content_encoding": "utf-8",
            "priority": 7,
            "expiration": "60000",
            "message_id": "id",
            "timestamp": datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC),
            "type": "type",
            "user_id": "guest",
            "app_id": "app",
            "captured": False,
        }
    assert pending(session) == []
    assert inbox.drain() == []


def test_pending_shows_null_for_what_was_not_given(session: Session) -> None:
    with session.transaction(force_rollback=True):
        session.execute("SELECT amqp.publish(1, NULL, NULL, NULL::text)")
        session.execute("SELECT amqp.publish(1, '', 'q', '{\"a\": 1}'::jsonb)")
        first, second = pending(session)
    shown = ("broker_id", "exchange", "routing_key", "message", "body", "mandatory", "captured")
    assert [first[name] for name in shown] == [1, "amq.direct", "", "", b"", False, False]
    assert not any(first[name] for name in COLUMNS if name not in shown)
    assert all(first[name] is None for name in COLUMNS if name not in shown)
    assert (second["exchange"], second["message"]) == ("", '{"a": 1}')
    assert second["content_type"] == "application/json"


def test_pending_shows_bytes_and_text(session: Session) -> None:
    bodies = [b"", b"text", "é".encode(), b"\x00", b"a\x00b", b"\xff\xfe", bytes(range(256)) * 2000]
    with session.transaction(force_rollback=True):
        for body in bodies:
            session.execute("SELECT amqp.publish(1, 'amq.topic', '', %b)", [body])
        found = pending(session)
    assert [row["body"] for row in found] == bodies
    assert [row["message"] for row in found] == ["", "text", "é", None, None, None, None]


def test_pending_is_in_call_order_over_brokers(session: Session, broker: VHost) -> None:
    session.execute("SELECT amqp.add_broker(%s)", [broker.url()])
    with session.transaction(force_rollback=True):
        for i in range(50):
            publish(session, i, broker=1 + i // 3 % 2)
        found = pending(session)
        assert [(row["broker_id"], row["message"]) for row in found] == [
            (1 + i // 3 % 2, str(i)) for i in range(50)
        ]
        assert {row["broker_id"]: row["pending"] for row in status(session)} == {1: 26, 2: 24}


def test_pending_follows_savepoints(session: Session) -> None:
    with session.transaction(force_rollback=True):
        publish(session, "one")
        session.execute("SAVEPOINT s")
        publish(session, "two")
        session.execute("SAVEPOINT t")
        publish(session, "three")
        session.execute("RELEASE SAVEPOINT t")
        assert messages(session) == ["one", "two", "three"]
        session.execute("ROLLBACK TO SAVEPOINT s")
        assert messages(session) == ["one"]
        publish(session, "four")
        assert messages(session) == ["one", "four"]
        assert only_status(session)["pending"] == 2
    assert messages(session) == []


def test_pending_takes_nothing_out(session: Session, inbox: Inbox) -> None:
    with session.transaction():
        publish(session, "one")
        assert messages(session) == messages(session) == ["one"]
        publish(session, "two")
        assert session.execute("SELECT count(*) FROM amqp.pending()").fetchone() == (2,)
    assert messages(session) == []
    assert inbox.texts() == ["one", "two"]


def test_pending_leaves_out_what_is_published_already(session: Session, inbox: Inbox) -> None:
    with session.transaction(force_rollback=True):
        session.execute("SELECT amqp.autonomous_publish(1, 'amq.topic', '', 'now')")
        assert pending(session) == []
    assert inbox.texts() == ["now"]


def test_pending_asserts_what_a_trigger_publishes(session: Session, inbox: Inbox) -> None:
    session.execute(
        """
        CREATE TABLE orders (id integer);
        CREATE TRIGGER publish AFTER INSERT ON orders
        FOR EACH ROW EXECUTE FUNCTION amqp.publish_change('1', 'amq.topic')
        """
    )
    with session.transaction(force_rollback=True):
        session.execute("INSERT INTO orders VALUES (7)")
        assert session.execute(
            "SELECT routing_key, message::jsonb #>> '{new,id}' FROM amqp.pending()"
        ).fetchall() == [("public.orders.insert", "7")]
    assert inbox.drain() == []


# ---- amqp.capture ----


def test_capture_contacts_no_broker_and_sends_nothing(
    database: str, proxy: CuttingProxy, broker: VHost
) -> None:
    with open_session(database) as session:
        session.execute("SELECT amqp.add_broker(%s)", [broker.url(port=proxy.port)])
        session.execute("SET amqp.capture = on")
        with session.transaction():
            publish(session, "one", "two")
            assert session.execute(
                "SELECT amqp.autonomous_publish(1, 'nowhere', 'key', 'three')"
            ).fetchone() == (True,)
            found = pending(session)
            assert [(row["message"], row["captured"]) for row in found] == [
                ("one", True),
                ("two", True),
                ("three", True),
            ]
        for call in (
            "exchange_declare(1, 'x', 'topic', false, true)",
            "exchange_bind(1, 'x', 'y')",
            "exchange_unbind(1, 'x', 'y')",
            "exchange_delete(1, 'x')",
            "queue_declare(1, 'q')",
            "queue_bind(1, 'q', 'x')",
            "queue_unbind(1, 'q', 'x')",
            "queue_purge(1, 'q')",
            "queue_delete(1, 'q')",
        ):
            assert session.execute(f"SELECT amqp.{call}").fetchone() == (True,)
        session.execute("SELECT amqp.disconnect(1)")
        with pytest.raises(errors.ObjectNotInPrerequisiteState):
            session.execute("SELECT * FROM amqp.ping(1)")
        assert status(session) == []
    assert proxy.connections == 0


def test_capture_needs_no_broker_at_all(session: Session, inbox: Inbox) -> None:
    session.execute("SELECT amqp.add_broker('amqp://127.0.0.1:1/')")
    session.execute("SET amqp.capture = on")
    with session.transaction():
        publish(session, "down", broker=2)
        publish(session, "unknown", broker=99)
        assert [(row["broker_id"], row["message"]) for row in pending(session)] == [
            (2, "down"),
            (99, "unknown"),
        ]
    assert session.warnings() == []
    assert inbox.drain() == []


def test_capture_shows_every_property(session: Session, channel: BlockingChannel) -> None:
    inbox = Inbox(channel, "amq.fanout")
    with session.transaction():
        session.execute(FULL.encode())
        session.execute("SET LOCAL amqp.capture = on")
        session.execute(FULL.encode())
        sent, captured = pending(session)
        assert captured == {**sent, "captured": True}
        session.execute("SET LOCAL amqp.capture = off")
    assert len(inbox.drain()) == 1


def test_captured_messages_are_never_sent_though_capture_is_switched_off(
    session: Session, inbox: Inbox
) -> None:
    with session.transaction():
        publish(session, "sent first")
        session.execute("SET LOCAL amqp.capture = on")
        publish(session, "captured")
        session.execute("SET LOCAL amqp.capture = off")
        publish(session, "sent last")
        assert [(row["message"], row["captured"]) for row in pending(session)] == [
            ("sent first", False),
            ("captured", True),
            ("sent last", False),
        ]
        assert only_status(session)["pending"] == 2
    assert inbox.texts() == ["sent first", "sent last"]


def test_nothing_is_sent_if_capture_is_switched_on_before_the_commit(
    session: Session, inbox: Inbox
) -> None:
    with session.transaction():
        publish(session, "never")
        session.execute("SET amqp.capture = on")
    assert inbox.texts() == []
    session.execute("SET amqp.capture = off")
    publish(session, "after")
    assert inbox.texts() == ["after"]
    row = only_status(session)
    assert (row["published"], row["confirmed"], row["failed"]) == (1, 1, 0)


def test_captured_messages_follow_savepoints_and_end_with_the_transaction(
    session: Session, inbox: Inbox
) -> None:
    session.execute("SET amqp.capture = on")
    with session.transaction():
        publish(session, "one")
        with session.transaction(force_rollback=True):
            publish(session, "two")
        publish(session, "three")
        assert messages(session) == ["one", "three"]
    assert messages(session) == []
    assert inbox.drain() == []


def test_capture_still_refuses_bad_messages(session: Session) -> None:
    session.execute("SET amqp.capture = on")
    with pytest.raises(errors.StringDataRightTruncation):
        session.execute("SELECT amqp.publish(1, 'x', repeat('k', 256), 'message')")
    with pytest.raises(errors.InvalidParameterValue):
        session.execute("SELECT amqp.publish(1, 'x', 'k', 'message', delivery_mode => 3)")


def test_capture_allows_two_phase_commit(session: Session, inbox: Inbox) -> None:
    session.execute("SET amqp.capture = on")
    session.execute("BEGIN")
    publish(session, "never")
    session.execute("PREPARE TRANSACTION 'captured'")
    assert pending(session) == []
    session.execute("COMMIT PREPARED 'captured'")
    assert inbox.drain() == []


def test_capture_may_belong_to_a_role_or_database(
    session: Session, database: str, inbox: Inbox
) -> None:
    name = session.info.dbname
    session.execute(f"ALTER DATABASE {name} SET amqp.capture = on".encode())
    with open_session(database) as captured:
        publish(captured, "never")
    publish(session, "one")
    assert inbox.texts() == ["one"]


def test_capture_that_is_no_boolean_is_an_error(session: Session, inbox: Inbox) -> None:
    session.execute("SET amqp.capture = 'maybe'")
    with pytest.raises(errors.InvalidParameterValue) as caught:
        publish(session, "never")
    assert "amqp.capture" in str(caught.value.diag.message_primary)
    session.execute("RESET amqp.capture")
    publish(session, "one")
    assert inbox.texts() == ["one"]


# ---- amqp.status() ----


def test_status_before_anything_was_used(session: Session, database: str) -> None:
    with open_session(database) as fresh:
        assert status(fresh) == []


def test_status_shows_the_connection(
    session: Session, broker: VHost, rabbitmq: RabbitMQ, management: Management
) -> None:
    publish(session, "one")
    row = only_status(session)
    connected_since = row.pop("connected_since")
    assert timedelta(0) <= datetime.now(UTC) - connected_since < timedelta(minutes=1)
    assert row == {
        "broker_id": 1,
        "connected": True,
        "host": "127.0.0.1",
        "port": rabbitmq.amqp_port,
        "vhost": broker.vhost,
        "ssl": False,
        "server_product": "RabbitMQ",
        "server_version": management.request("GET", "overview")["rabbitmq_version"],
        "published": 1,
        "confirmed": 1,
        "returned": 0,
        "failed": 0,
        "pending": 0,
        "unconfirmed": 0,
        "last_error": None,
        "last_error_at": None,
    }


def test_status_counts(session: Session, inbox: Inbox, channel: BlockingChannel) -> None:
    def counts() -> list[int]:
        row = only_status(session)
        return [row[name] for name in ("published", "confirmed", "returned", "failed", "pending")]

    publish(session, "one")
    assert counts() == [1, 1, 0, 0, 0]
    with session.transaction():
        publish(session, "two", "three")
        assert counts() == [1, 1, 0, 0, 2]
    assert counts() == [3, 3, 0, 0, 0]
    with session.transaction(force_rollback=True):
        publish(session, "never")
        assert counts() == [3, 3, 0, 0, 1]
    assert counts() == [3, 3, 0, 0, 0]
    # Nobody takes it, and it counts as confirmed all the same.
    session.execute("SELECT amqp.publish(1, 'amq.direct', 'nobody', 'four', mandatory => true)")
    assert counts() == [4, 4, 1, 0, 0]
    assert "NO_ROUTE" in only_status(session)["last_error"]
    channel.exchange_declare("gone")
    with session.transaction():
        session.execute("SELECT amqp.publish(1, 'gone', '', 'five')")
        publish(session, "six")
        channel.exchange_delete("gone")
    assert counts() == [6, 5, 1, 1, 0]
    assert "gone" in only_status(session)["last_error"]
    session.execute("SELECT amqp.autonomous_publish(1, 'amq.topic', '', 'seven')")
    assert counts() == [7, 6, 1, 1, 0]
    assert inbox.texts() == ["one", "two", "three", "six", "seven"]


def test_status_shows_why_there_is_no_connection(session: Session) -> None:
    session.execute("SELECT amqp.add_broker('amqp://127.0.0.1:1/')")
    with pytest.raises(errors.SqlclientUnableToEstablishSqlconnection):
        publish(session, "never", broker=2)
    row = only_status(session)
    assert (row["broker_id"], row["connected"]) == (2, False)
    assert row["host"] is row["port"] is row["connected_since"] is row["server_version"] is None
    assert "refused" in row["last_error"].lower()


def test_status_says_when_the_last_error_was(session: Session) -> None:
    session.add_broker("amqp://127.0.0.1:1/")
    before = session.value("SELECT clock_timestamp()")
    with pytest.raises(errors.SqlclientUnableToEstablishSqlconnection):
        publish(session, "never", broker=2)
    publish(session, "one")
    at = session.value("SELECT last_error_at FROM amqp.status() WHERE broker_id = 2")
    assert before <= at <= session.value("SELECT clock_timestamp()")
    assert session.run("SELECT broker_id, last_error IS NULL FROM amqp.status()") == [
        (1, True),
        (2, False),
    ]


def test_status_after_disconnect(session: Session, broker: VHost, management: Management) -> None:
    publish(session, "one")
    session.execute("SELECT amqp.disconnect(1)")
    row = only_status(session)
    assert (row["connected"], row["host"], row["published"]) == (False, None, 1)
    wait_for(lambda: not management.connections(broker.vhost), 30, "the end of the connection")
    publish(session, "two")
    row = only_status(session)
    assert (row["connected"], row["published"]) == (True, 2)


def test_status_of_two_brokers(session: Session, broker: VHost, rabbitmq: RabbitMQ) -> None:
    session.execute("SELECT amqp.add_broker(%s)", [broker.url(tls=True)])
    session.execute("UPDATE amqp.broker SET ssl_verify_peer = false WHERE broker_id = 2")
    publish(session, "one")
    publish(session, "two", "three", broker=2)
    found = {
        row["broker_id"]: (row["port"], row["ssl"], row["published"]) for row in status(session)
    }
    assert found == {1: (rabbitmq.amqp_port, False, 1), 2: (rabbitmq.amqps_port, True, 2)}


def test_session_keeps_one_connection_and_closes_it_in_the_end(
    session: Session, database: str, broker: VHost, proxy: CuttingProxy
) -> None:
    with open_session(database) as other:
        other.execute("SELECT amqp.add_broker(%s)", [broker.url(port=proxy.port)])
        for i in range(5):
            publish(other, i, broker=2)
            other.execute("SELECT * FROM amqp.ping(2)")
        assert (proxy.connections, proxy.open_connections) == (1, 1)
        pid = other.info.backend_pid
    wait_for_end(session, pid)
    wait_for(lambda: not proxy.open_connections, 30, "the end of the connection")


# ---- amqp.ping() ----


def test_ping_connects_and_answers(session: Session, broker: VHost, rabbitmq: RabbitMQ) -> None:
    (first,) = rows(session, "SELECT * FROM amqp.ping(1)")
    (second,) = rows(session, "SELECT * FROM amqp.ping(1)")
    for row in (first, second):
        assert timedelta(0) < row.pop("round_trip") < timedelta(seconds=10)
    status = only_status(session)
    assert first == second
    assert first == {name: status[name] for name in first}
    assert set(first) == {"host", "port", "server_product", "server_version"}
    assert (first["host"], first["port"]) == ("127.0.0.1", rabbitmq.amqp_port)


def test_ping_raises_the_reason(session: Session, broker: VHost, proxy: CuttingProxy) -> None:
    session.execute("SELECT amqp.add_broker(%s)", [broker.url(port=proxy.port)])
    session.execute("SELECT amqp.add_broker(%s)", [broker.url(password="wrong")])
    for call, sqlstate in {
        "amqp.ping(99)": "42704",
        "amqp.ping(NULL)": "22004",
        "amqp.ping(3)": "28P01",
    }.items():
        with pytest.raises(errors.Error) as caught:
            session.execute(f"SELECT * FROM {call}")
        assert caught.value.sqlstate == sqlstate
    proxy.refuse()
    with pytest.raises(errors.SqlclientUnableToEstablishSqlconnection):
        session.execute("SELECT * FROM amqp.ping(2)")
    # It asks at once, whatever happened a moment ago, and heals what has broken.
    proxy.welcome(Welcome.PASS)
    session.execute("SELECT * FROM amqp.ping(2)")
    proxy.reset()
    session.execute("SELECT * FROM amqp.ping(2)")
    assert proxy.connections == 2


def test_ping_publishes_nothing(session: Session, inbox: Inbox) -> None:
    with session.transaction():
        publish(session, "one")
        session.execute("SELECT * FROM amqp.ping(1)")
        assert inbox.texts() == []
        assert messages(session) == ["one"]
    assert inbox.texts() == ["one"]
