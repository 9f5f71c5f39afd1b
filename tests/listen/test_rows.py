"""Rows of amqp.listener: what is refused, and a change while messages flow."""

from __future__ import annotations

import json
import threading

import pytest

from servers.processes import wait_for
from servers.relay import ListenProcess
from support.listeners import Switchboard
from support.patience import LIMIT
from support.sessions import Session, open_session

INSERT = "INSERT INTO amqp.listener (channel, broker_id, exchange, {}) VALUES ('c', 1, 'e', %s)"


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ("", "channel must not be empty"),
        ("x" * 64, "channel must not be longer than 63 bytes"),
        ("ü" * 32, "channel must not be longer than 63 bytes"),
    ],
)
def test_a_channel_that_listen_would_cut_is_refused(
    session: Session, channel: str, message: str
) -> None:
    report = session.error(
        "INSERT INTO amqp.listener (channel, broker_id, exchange) VALUES (%s, 1, 'e')", channel
    )
    assert report.sqlstate == "23514"
    assert report.message == f'invalid row for table "amqp.listener": {message}'


def test_the_longest_channels_are_taken(session: Session) -> None:
    for channel in ("x" * 63, "ü" * 31 + "x"):
        session.execute(
            "INSERT INTO amqp.listener (channel, broker_id, exchange) VALUES (%s, 1, 'e')",
            [channel],
        )


@pytest.mark.parametrize(
    ("column", "value", "sqlstate", "words"),
    [
        ("routing_key", "{table}", "23514", "routing_key may have {channel}"),
        ("routing_key", "}", "23514", "routing_key may have {channel}"),
        ("routing_key", "x" * 255 + "{channel}", "22001", "routing_key is too long"),
        ("on_failure", "warn", "23514", "on_failure must be outbox or drop"),
        ("delivery_mode", "3", "22023", "delivery_mode"),
        ("priority", "256", "22023", "priority"),
        ("expiration", "soon", "22023", "expiration"),
        ("content_type", "x" * 256, "22001", "content_type is too long"),
        ("headers", "[1]", "22023", "headers must be a JSON object"),
        ("headers", '{"CC": "x"}', "22023", "CC and BCC"),
        ("headers", '{"' + "k" * 256 + '": 1}', "22001", ""),
        ("reply_to", "amq.rabbitmq.reply-to", "22023", "reply_to"),
    ],
)
def test_what_no_message_could_be_is_refused(
    session: Session, column: str, value: str, sqlstate: str, words: str
) -> None:
    report = session.error(INSERT.format(column), value)
    assert report.sqlstate == sqlstate
    assert words in report.message
    assert report.hint or sqlstate == "23514"
    assert "outbox_check" not in report.context


@pytest.mark.parametrize("column", ["channel", "broker_id", "exchange", "routing_key", "enabled"])
def test_nothing_that_is_needed_may_be_missing(session: Session, column: str) -> None:
    session.execute("INSERT INTO amqp.listener (channel, broker_id, exchange) VALUES ('c', 1, 'e')")
    report = session.error(f"UPDATE amqp.listener SET {column} = NULL")
    assert report.sqlstate in ("23514", "23502")
    assert column in report.message


def test_a_row_that_changes_while_messages_flow_loses_none_of_other_channels(
    listeners: Switchboard, listening: ListenProcess, database: str
) -> None:
    changing, steady = listeners(), listeners()
    for listener in (changing, steady):
        listener.wait_until_heard()
    ended = threading.Event()
    sent: list[str] = []

    def send() -> None:
        with open_session(database) as session:
            while not ended.is_set():
                sent.append(str(len(sent)))
                session.execute("SELECT pg_notify(%s, %s)", [steady.name, sent[-1]])

    sending = threading.Thread(target=send)
    sending.start()
    try:
        for number in range(3):
            changing.change(routing_key=f"key.{number}")
            gap = changing.wait_for_gap("row")
            assert gap["gap-from"] < gap["gap-to"]
            changing.notify(str(number))
            changing.wait_for_texts(*map(str, range(number + 1)))
            assert changing.received[-1].routing_key == f"key.{number}"
        changing.change(enabled=False)
        wait_for(
            lambda: listening.events("channels")[-1]["names"] == [steady.name],
            LIMIT,
            "nobody to listen for it",
        )
        changing.change(enabled=True)
        # Nobody knows since when.
        assert "gap-from" not in changing.wait_for_gap("row")
    finally:
        ended.set()
        sending.join()
    steady.wait_for_texts(*sent)
    assert not steady.gaps


def test_a_new_row_counts_at_once_and_a_removed_one_no_more(
    listeners: Switchboard, listening: ListenProcess
) -> None:
    first = listeners()
    first.wait_until_heard()
    new = listeners()
    gap = new.wait_for_gap("row")
    assert "gap-from" not in gap
    new.notify("a")
    new.wait_for_texts("a")
    listening_to = "SELECT count(*) FROM amqp.listener_state WHERE listener_id = %s"
    new.wait_until("the report", lambda status: status["published"] == 1)
    new.session.execute("DELETE FROM amqp.listener WHERE listener_id = %s", [new.id])
    assert new.session.value(listening_to, new.id) == 0
    first.notify("still there")
    first.wait_for_texts("still there")


def test_another_channel_is_another_row(listeners: Switchboard, listening: ListenProcess) -> None:
    listener = listeners()
    listener.wait_until_heard()
    listener.change(channel="moved")
    assert "gap-from" not in listener.wait_for_gap("row")
    listener.session.execute("NOTIFY moved, 'a'")
    listener.notify("to the old one")
    listener.session.execute("NOTIFY moved, 'b'")
    listener.wait_for_texts("a", "b")
    assert listener.received[0].routing_key == "moved"


@pytest.mark.parametrize("table", ["listener", "broker", "listener_lease"])
def test_while_a_table_is_locked_all_goes_on_by_the_rows_as_they_were(
    listeners: Switchboard, listening: ListenProcess, database: str, table: str
) -> None:
    listener = listeners()
    listener.wait_until_heard()
    with open_session(database) as locking:
        locking.execute("BEGIN")
        locking.execute(f"LOCK amqp.{table}")
        listening.wait_for_event("database not usable")
        listener.notify("a")
        listener.wait_for_texts("a")
        locking.execute("COMMIT")
    listener.wait_for_count("published", 1)
    second = listeners(listener.name)
    second.wait_for_gap("row")
    assert not listener.gaps
    assert len(listening.events("database not usable")) == 1


def test_rows_that_have_not_changed_are_not_read_again(listeners: Switchboard) -> None:
    one, two = listeners(), listeners()
    session = one.session
    look = "SELECT version, rows::text FROM amqp_inner.listener_look('host:1', %s)"
    ((version, rows),) = session.run(look, None)
    assert [row["channel"] for row in json.loads(rows)] == [one.name, two.name]
    assert session.run(look, version) == [(version, None)]
    for change in ({"priority": 3}, {"enabled": False}):
        one.change(**change)
        ((changed, rows),) = session.run(look, version)
        assert changed != version
        assert rows is not None
        version = changed
    two.change(enabled=False)
    assert session.run(look, version)[0][1] == "[]"
