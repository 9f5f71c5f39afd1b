"""pg-amqp listen: what becomes of a notification, where all is well."""

from __future__ import annotations

import json
import time
import uuid

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.relay import DaemonProcess, ListenProcess
from support.listeners import Switchboard
from support.messages import Inbox
from support.sessions import Session


def test_the_example_of_the_listen_exchange(
    listeners: Switchboard, listening: ListenProcess
) -> None:
    listener = listeners("test", exchange="notify")
    listener.wait_until_heard()
    before = int(time.time())
    listener.session.execute("NOTIFY test, 'This is a test'")
    listener.wait_for_texts("This is a test")
    (delivery,) = listener.received
    assert (delivery.exchange, delivery.routing_key) == ("notify", "test")
    info = listener.session.info
    server = f"localhost:{info.port}"
    assert delivery.properties.headers == {
        "pgsql-channel": "test",
        "pgsql-server": server,
        "postgres-channel": "test",
        "postgres-dbname": info.dbname,
        "postgres-server": server,
        "source-exchange": "notify",
    }
    assert delivery.properties.app_id == "pgsql-listen-exchange"
    assert delivery.properties.delivery_mode == 2
    assert before <= delivery.properties.timestamp <= time.time()
    assert uuid.UUID(delivery.properties.message_id).version == 4


def test_all_properties_and_headers_are_those_of_the_row(
    listeners: Switchboard, listening: ListenProcess
) -> None:
    properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "delivery_mode": 1,
        "priority": 7,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "60000",
        "type": "t",
        "user_id": "guest",
        "app_id": "a",
    }
    headers = {"n": 1, "nested": {"list": [1, "two", None]}, "pgsql-server": "mine"}
    listener = listeners(
        "orders",
        routing_key="orders.{channel}.{channel}",
        headers=json.dumps(headers),
        **properties,
    )
    listener.wait_until_heard()
    listener.notify("{}")
    listener.wait_for_texts("{}")
    (delivery,) = listener.received
    assert delivery.routing_key == "orders.orders.orders"
    assert {name: getattr(delivery.properties, name) for name in properties} == properties
    found = delivery.properties.headers
    assert found is not None
    assert {name: found[name] for name in headers} == headers
    assert found["postgres-channel"] == "orders"


def test_each_message_has_an_id_of_its_own(
    listeners: Switchboard, listening: ListenProcess
) -> None:
    listener = listeners()
    listener.wait_until_heard()
    texts = [str(number) for number in range(500)]
    listener.session.execute(
        "SELECT pg_notify(%s, n::text) FROM generate_series(0, 499) AS n", [listener.name]
    )
    listener.wait_for_texts(*texts)
    assert len({delivery.properties.message_id for delivery in listener.received}) == len(texts)


@pytest.mark.parametrize(
    "name",
    ["Test", "a.b", 'x"; DROP TABLE t; --', "ü" * 31 + "x", "select", "x y", "'", "%s {channel}"],
)
def test_a_channel_is_what_its_name_says(
    listeners: Switchboard, listening: ListenProcess, name: str
) -> None:
    listener = listeners(name, routing_key="k")
    listener.session.execute("CREATE TABLE t ()")
    listener.wait_until_heard()
    listener.session.execute("SELECT pg_notify(%s, 'p')", [name])
    listener.wait_for_texts("p")
    assert listener.session.value("SELECT to_regclass('t') IS NOT NULL")
    assert listener.status()["channel"] == name
    headers = listener.received[0].properties.headers
    assert headers is not None
    assert headers["pgsql-channel"] == name


def test_what_is_not_quoted_postgresql_folds(
    listeners: Switchboard, listening: ListenProcess
) -> None:
    folded, quoted = listeners("test"), listeners("Test")
    for listener in (folded, quoted):
        listener.wait_until_heard()
    folded.session.execute("NOTIFY Test, 'not quoted'")
    folded.session.execute("NOTIFY \"Test\", 'quoted'")
    folded.wait_for_texts("not quoted")
    quoted.wait_for_texts("quoted")


@pytest.mark.parametrize("size", [0, 1, 7999])
def test_payloads_of_any_size_that_notify_takes(
    listeners: Switchboard, listening: ListenProcess, size: int
) -> None:
    listener = listeners()
    listener.wait_until_heard()
    listener.notify("x" * size)
    listener.wait_for_texts("x" * size)


def test_two_rows_for_a_channel_both_get_them_and_one_goes_on_without_the_other(
    listeners: Switchboard, listening: ListenProcess
) -> None:
    one, other = listeners("same"), listeners("same")
    for listener in (one, other):
        listener.wait_until_heard()
    one.notify("first")
    one.wait_for_texts("first")
    other.wait_for_texts("first")
    one.change(enabled=False)
    # Start, and the two rows; then the one that is left.
    listening.wait_for_event("channels", 2)
    other.notify(*"abcdefgh")
    other.wait_for_texts("first", *"abcdefgh")


def test_what_is_rolled_back_is_not_sent(listeners: Switchboard, listening: ListenProcess) -> None:
    listener = listeners()
    listener.wait_until_heard()
    session = listener.session
    session.execute("BEGIN")
    session.execute(f"NOTIFY {listener.name}, 'kept'")
    session.execute("SAVEPOINT s")
    session.execute(f"NOTIFY {listener.name}, 'lost'")
    session.execute("ROLLBACK TO s")
    session.execute("COMMIT")
    session.execute("BEGIN")
    session.execute(f"NOTIFY {listener.name}, 'lost'")
    session.execute("ROLLBACK")
    listener.notify("last")
    listener.wait_for_texts("kept", "last")


def test_notify_through_the_outbox_reaches_the_same_queue(
    database: str, listeners: Switchboard
) -> None:
    listener = listeners("orders", content_type="application/json", routing_key="o.{channel}")
    large = "ü" * 100_000
    with DaemonProcess(database):
        listener.wait_until_heard()
        listener.notify("short")
        listener.wait_for_texts("short")
        with listener.session.transaction():
            listener.session.execute("SELECT amqp.notify('orders', %s)", [large])
            listener.session.execute("SELECT amqp.notify('orders', NULL)")
            listener.session.execute("SELECT amqp.notify('orders', NULL)")
        listener.wait_for_texts("short", large, "", "")
    direct, *through = listener.received
    for delivery in through:
        assert delivery.routing_key == direct.routing_key == "o.orders"
        assert delivery.properties.headers == direct.properties.headers
        assert delivery.properties.content_type == "application/json"
        assert delivery.properties.app_id == direct.properties.app_id


def test_notify_is_part_of_the_transaction(listeners: Switchboard, session: Session) -> None:
    listeners("c")
    session.execute("BEGIN")
    session.execute("SELECT amqp.notify('c', 'lost')")
    session.execute("ROLLBACK")
    assert session.value("SELECT count(*) FROM amqp.outbox") == 0


def test_notify_needs_a_row(listeners: Switchboard) -> None:
    listener = listeners("c", enabled=False)
    report = listener.session.error("SELECT amqp.notify('d', '')")
    assert (report.sqlstate, report.message) == (
        "42704", 'channel "d" has no row in amqp.listener'
    )  # fmt: skip
    assert "INSERT INTO amqp.listener" in report.hint
    # Whether anybody listens makes no difference to it.
    listener.session.execute("SELECT amqp.notify('c', '')")
    assert listener.session.value("SELECT count(*) FROM amqp.outbox") == 1


def test_the_status_counts(listeners: Switchboard, listening: ListenProcess) -> None:
    listener = listeners()
    listener.wait_until_heard()
    listener.notify("a", "b", "c")
    listener.wait_for_texts("a", "b", "c")
    listener.wait_until("the report", lambda status: status["published"] == 3)
    status = listener.status()
    assert status["listener"].startswith(f"pg-amqp listen {listening.pid} on ")
    assert status["since"] is not None
    names = ("received", "published", "stored", "dropped", "gaps", "last_error", "last_error_at")
    assert [status[name] for name in names] == [3, 3, 0, 0, 1, None, None]
    listening.terminate()
    listener.wait_until("nobody to listen", lambda status: status["listener"] is None)
    assert listener.status()["since"] is None


def test_two_queues_and_one_of_them_unbound(
    listeners: Switchboard, listening: ListenProcess, channel: BlockingChannel
) -> None:
    listener = listeners()
    other = Inbox(channel, listener.exchange, listener.name)
    listener.wait_until_heard()
    listener.notify("both")
    listener.wait_for_texts("both")
    channel.queue_unbind(other.queue, listener.exchange, listener.name)
    listener.notify("one")
    listener.wait_for_texts("both", "one")
    assert other.texts()[-1] == "both"


def test_what_notify_refuses_goes_through_the_outbox(listeners: Switchboard) -> None:
    listener = listeners("c")
    report = listener.session.error(f"NOTIFY c, '{'x' * 8000}'")
    assert (report.sqlstate, report.message) == ("22023", "payload string too long")
    listener.session.execute("SELECT amqp.notify('c', %s)", ["x" * 8000])
    assert listener.session.value("SELECT length(body) FROM amqp.outbox") == 8000
