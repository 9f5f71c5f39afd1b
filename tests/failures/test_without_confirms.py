"""Failures with amqp.publisher_confirms = off."""

from __future__ import annotations

import json

from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction
from support.calls import Call
from support.failures import MANY, commit_meanwhile, failure_fixtures
from support.patience import LIMIT
from support.queues import declare, numbers_in
from support.sessions import Report, Session

session, through, direct = failure_fixtures()


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
    with session.transaction():
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
        with session.transaction():
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
