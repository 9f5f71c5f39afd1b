"""pg-amqp listen, where RabbitMQ does not take a message."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.proxy import CuttingProxy
from servers.rabbitmq import RabbitMQ
from servers.relay import DaemonProcess, ListenProcess
from support.fix_servers import VHost
from support.listeners import GAP, Listener, Switchboard, switchboard
from support.patience import LIMIT
from support.sessions import open_session


def outbox(listener: Listener) -> list[str]:
    """The payloads that wait in the outbox; a gap whose confirm was cut off waits beside them."""
    rows = listener.session.run(
        "SELECT convert_from(body, 'UTF8') FROM amqp.outbox"
        " WHERE type IS DISTINCT FROM %s ORDER BY id",
        GAP,
    )
    return [text for (text,) in rows]


def test_while_the_broker_is_away_the_outbox_has_them_and_run_delivers_them(
    database: str, broker: VHost, proxy: CuttingProxy
) -> None:
    with switchboard(database, broker, port=proxy.port) as make:
        listener = make()
        with DaemonProcess(database):
            listener.wait_until_heard()
            proxy.refuse()
            listener.notify("a", "b", "c")
            listener.wait_until("the outbox", lambda status: status["stored"] == 3)
            proxy.pass_all()
            listener.wait_for_texts("a", "b", "c")
            assert not outbox(listener)
            error = listener.status()["last_error"]
            assert error is not None
            listener.notify("d")
            listener.wait_for_texts("a", "b", "c", "d")


def test_a_row_that_drops_tells_of_a_gap_when_the_broker_is_back(
    database: str, broker: VHost, proxy: CuttingProxy
) -> None:
    with switchboard(database, broker, port=proxy.port) as make:
        listener = make(on_failure="drop")
        with ListenProcess(database):
            listener.wait_until_heard()
            listener.notify("before")
            listener.wait_for_texts("before")
            # So that what is known is later than what was received.
            first = listener.session.value("SELECT clock_timestamp()")
            proxy.refuse()
            listener.notify("lost", "lost too")
            listener.wait_until("both", lambda status: status["dropped"] == 2)
            second = listener.session.value("SELECT clock_timestamp()")
            proxy.pass_all()
            gap = listener.wait_for_gap("dropped")
            listener.notify("after")
            listener.wait_for_texts("before", "after")
        within = "SELECT %s::timestamptz <= %s AND %s <= %s::timestamptz"
        assert listener.session.value(within, gap["gap-from"], first, second, gap["gap-to"])
        assert not outbox(listener)


def test_a_gap_waits_in_the_outbox_where_the_broker_is_away(
    database: str, broker: VHost, proxy: CuttingProxy
) -> None:
    with switchboard(database, broker, port=proxy.port) as make:
        listener = make()
        proxy.refuse()
        with ListenProcess(database):
            listener.wait_until("the gap", lambda status: status["gaps"] == 1)
        ((kind, reason),) = listener.session.run(
            "SELECT type, headers ->> 'gap-reason' FROM amqp.outbox"
        )
        assert (kind, reason) == ("pg-amqp.gap", "start")


def test_a_role_that_may_not_store_drops(database: str, broker: VHost, proxy: CuttingProxy) -> None:
    with switchboard(database, broker, port=proxy.port) as make:
        listener = make()
        listener.session.execute("CREATE ROLE listens LOGIN")
        listener.session.execute("GRANT USAGE ON SCHEMA amqp TO listens")
        listener.session.execute("GRANT SELECT ON amqp.broker, amqp.listener TO listens")
        listener.session.execute(
            "GRANT SELECT, INSERT, UPDATE ON amqp.listener_state, amqp.listener_lease TO listens"
        )
        try:
            with ListenProcess(f"{database} user=listens"):
                listener.wait_until_heard()
                proxy.refuse()
                listener.notify("lost")
                listener.wait_until("the loss", lambda status: status["dropped"] == 1)
                proxy.pass_all()
                listener.wait_for_gap("dropped")
                # As soon as it may, it does.
                listener.session.execute("GRANT INSERT ON amqp.outbox TO listens")
                listener.wait_for_gap("row")
                proxy.refuse()
                listener.notify("stored")
                listener.wait_until("the outbox", lambda status: status["stored"] >= 1)
                assert "stored" in outbox(listener)
        finally:
            listener.session.execute("DROP OWNED BY listens")
            listener.session.execute("DROP ROLE listens")


def test_a_missing_exchange_is_told_and_its_neighbours_go_on(
    listeners: Switchboard, listening: ListenProcess, channel: BlockingChannel
) -> None:
    missing, other = listeners(), listeners()
    for listener in (missing, other):
        listener.wait_until_heard()
    channel.exchange_delete(missing.exchange)
    for number in range(10):
        missing.notify(str(number))
        other.notify(str(number))
    other.wait_for_texts(*map(str, range(10)))
    missing.wait_until("the outbox", lambda status: status["stored"] == 10)
    assert "no exchange" in missing.status()["last_error"]
    assert other.status()["last_error"] is None
    assert outbox(missing) == [str(number) for number in range(10)]


def test_what_nobody_gets_is_seen_with_mandatory(
    listeners: Switchboard, listening: ListenProcess, channel: BlockingChannel
) -> None:
    listener = listeners(mandatory=True)
    listener.wait_until_heard()
    channel.queue_unbind(listener.inbox.queue, listener.exchange, "#")
    listener.notify("nobody")
    listener.wait_until("the outbox", lambda status: status["stored"] == 1)
    assert "NO_ROUTE" in listener.status()["last_error"]


def test_a_blocked_broker_does_not_stop_the_reading(database: str) -> None:
    with RabbitMQ() as node, switchboard(database, VHost(node, "/")) as make:
        listener = make()
        with ListenProcess(database):
            listener.wait_until_heard()
            with node.short_of_memory():
                # The first that is written is what RabbitMQ blocks the connection for.
                listener.notify("first")
                listener.wait_until("the outbox", lambda status: status["stored"] == 1)
                listener.notify("second")
                listener.wait_until("the outbox", lambda status: status["stored"] == 2)
                usage = listener.session.value("SELECT pg_notification_queue_usage()")
                assert usage == 0
            wait_for(lambda: _published(listener), LIMIT, "the broker to take messages again")


def _published(listener: Listener) -> bool:
    listener.notify("again")
    return bool(listener.status()["published"])


def test_somebody_elses_constraint_on_the_outbox_loses_nothing_but_its_own(
    database: str, broker: VHost, proxy: CuttingProxy
) -> None:
    with switchboard(database, broker, port=proxy.port) as make:
        listener = make()
        listener.session.execute(
            "ALTER TABLE amqp.outbox ADD CHECK (convert_from(body, 'UTF8') <> 'bad')"
        )
        with ListenProcess(database):
            listener.wait_until_heard()
            proxy.refuse()
            listener.notify("a", "bad", "b")
            listener.wait_until(
                "all", lambda status: (status["stored"], status["dropped"]) == (2, 1)
            )
            assert outbox(listener) == ["a", "b"]
            assert "check constraint" in listener.status()["last_error"]


@pytest.mark.parametrize("words", ["ACCESS EXCLUSIVE"])
def test_a_lock_on_the_outbox_does_not_stop_the_reading(
    database: str, broker: VHost, proxy: CuttingProxy, words: str
) -> None:
    with switchboard(database, broker, port=proxy.port) as make, open_session(database) as locking:
        listener = make()
        with ListenProcess(database):
            listener.wait_until_heard()
            locking.execute("BEGIN")
            locking.execute(f"LOCK amqp.outbox IN {words} MODE")
            proxy.refuse()
            listener.notify("a")
            # Nobody who listens is in a transaction, or has anything left to read.
            wait_for(
                lambda: listener.session.value(
                    "SELECT count(*) = 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
                    " WHERE NOT granted AND application_name LIKE 'pg-amqp listen%%(outbox)%%'"
                ),
                LIMIT,
                "the outbox to be waited for",
            )
            listener.session.execute(
                "SELECT pg_notify(%s, repeat('x', 7000)) FROM generate_series(1, 100)",
                [listener.name],
            )
            wait_for(
                lambda: listener.session.value("SELECT pg_notification_queue_usage() = 0"),
                LIMIT,
                "all to be read",
            )
            locking.execute("COMMIT")
            listener.wait_until("the outbox", lambda status: status["stored"] == 2)
