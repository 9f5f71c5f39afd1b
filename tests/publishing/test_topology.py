"""Exchanges, queues and bindings, declared from SQL and looked at from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import errors

from servers.management import Management
from support.fix_servers import VHost
from support.sessions import Session, open_session


@pytest.fixture
def session(database: str, broker: VHost) -> Iterator[Session]:
    """A session with broker 1."""
    with open_session(database) as session:
        session.execute("SELECT amqp.add_broker(%s)", [broker.url()])
        yield session


def call(session: Session, function: str) -> Any:
    row = session.execute(f"SELECT amqp.{function}").fetchone()
    assert row is not None
    return row[0]


def look(management: Management, *path: str) -> Any:
    return management.request("GET", *path)


def test_exchange_with_all_that_can_be_said_of_it(
    session: Session, broker: VHost, management: Management
) -> None:
    assert call(
        session,
        "exchange_declare(1, 'e', 'headers', false, true, true, true,"
        """ '{"alternate-exchange": "amq.fanout"}')""",
    )
    found = look(management, "exchanges", broker.vhost, "e")
    assert found["type"] == "headers"
    assert (found["durable"], found["auto_delete"], found["internal"]) == (True, True, True)
    assert found["arguments"] == {"alternate-exchange": "amq.fanout"}


def test_exchange_as_pg_amqp_declares_it(
    session: Session, broker: VHost, management: Management
) -> None:
    assert call(session, "exchange_declare(1, 'e', 'topic', false, false)")
    found = look(management, "exchanges", broker.vhost, "e")
    assert found["type"] == "topic"
    assert (found["durable"], found["auto_delete"], found["internal"]) == (False, False, False)


def test_passive_declares_nothing(session: Session, channel: BlockingChannel) -> None:
    for function, sqlstate in {
        "exchange_declare(1, 'e', '', true, false)": "42704",
        "queue_declare(1, 'q', true)": "42704",
    }.items():
        with pytest.raises(errors.UndefinedObject) as caught:
            call(session, function)
        assert caught.value.sqlstate == sqlstate
        assert "NOT_FOUND" in (caught.value.diag.message_detail or "")
    call(session, "exchange_declare(1, 'e', 'fanout', false, true)")
    assert call(session, "exchange_declare(1, 'e', NULL, true, NULL)")


def test_declared_otherwise(session: Session) -> None:
    call(session, "exchange_declare(1, 'e', 'fanout', false, true)")
    with pytest.raises(errors.ObjectNotInPrerequisiteState) as caught:
        call(session, "exchange_declare(1, 'e', 'direct', false, true)")
    assert "PRECONDITION_FAILED" in (caught.value.diag.message_detail or "")
    # The session goes on, on the same connection.
    assert call(session, "exchange_declare(1, 'e', 'fanout', false, true)")


def test_queues(session: Session, broker: VHost, management: Management) -> None:
    assert call(session, "queue_declare(1, 'classic')")
    assert call(
        session, """queue_declare(1, 'quorum', arguments => '{"x-queue-type": "quorum"}')"""
    )
    assert call(session, """queue_declare(1, 'short', arguments => '{"x-max-length": 5}')""")
    assert look(management, "queues", broker.vhost, "classic")["durable"]
    quorum = look(management, "queues", broker.vhost, "quorum")
    assert quorum["arguments"] == {"x-queue-type": "quorum"}
    # Later releases of RabbitMQ add the type of the queue.
    assert look(management, "queues", broker.vhost, "short")["arguments"]["x-max-length"] == 5


def test_an_exclusive_queue_is_in_use_for_others(session: Session, database: str) -> None:
    call(session, "queue_declare(1, 'mine', durable => false, exclusive => true)")
    with open_session(database) as other, pytest.raises(errors.ObjectInUse):
        call(other, "queue_declare(1, 'mine', true)")


def test_bindings_route_and_unbindings_do_not(session: Session, channel: BlockingChannel) -> None:
    for function in (
        "exchange_declare(1, 'first', 'topic', false, true)",
        "exchange_declare(1, 'second', 'topic', false, true)",
        "queue_declare(1, 'q')",
        "queue_bind(1, 'q', 'second', 'a.*')",
        "exchange_bind(1, 'second', 'first', '#')",
    ):
        assert call(session, function) is True
    publish = "autonomous_publish(1, 'first', 'a.b', 'x', mandatory => true)"
    assert call(session, publish)
    assert channel.basic_get("q", auto_ack=True)[2] == b"x"
    assert call(session, "exchange_unbind(1, 'second', 'first', '#')")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="unroutable"):
        call(session, publish)
    assert call(session, "exchange_bind(1, 'second', 'first', '#')")
    assert call(session, "queue_unbind(1, 'q', 'second', 'a.*')")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="unroutable"):
        call(session, publish)


def test_bindings_with_arguments(session: Session, channel: BlockingChannel) -> None:
    call(session, "queue_declare(1, 'q')")
    rule = """'{"x-match": "all", "tenant": 7}'"""
    assert call(session, f"queue_bind(1, 'q', 'amq.headers', arguments => {rule})")
    for tenant in (6, 7):
        headers = f"""'{{"tenant": {tenant}}}'"""
        call(session, f"publish(1, 'amq.headers', '', '{tenant}', headers => {headers})")
    assert channel.basic_get("q", auto_ack=True)[2] == b"7"
    assert channel.basic_get("q", auto_ack=True)[0] is None


@pytest.mark.parametrize("value", ["1.5", "1e20", "-7", "3000000000", "true", '"a"'])
def test_bindings_match_what_publish_sends(
    session: Session, channel: BlockingChannel, value: str
) -> None:
    call(session, "exchange_declare(1, 'behind', 'fanout')")
    for queue in ("q", "r"):
        call(session, f"queue_declare(1, '{queue}')")
    rule = f"""'{{"x-match": "all", "a": {value}}}'"""
    call(session, f"queue_bind(1, 'q', 'amq.headers', arguments => {rule})")
    call(session, f"exchange_bind(1, 'behind', 'amq.headers', arguments => {rule})")
    call(session, "queue_bind(1, 'r', 'behind', '')")
    for header in (value, "2.5"):
        headers = f"""'{{"a": {header}}}'"""
        call(session, f"publish(1, 'amq.headers', '', '{header}', headers => {headers})")
    for queue in ("q", "r"):
        assert channel.basic_get(queue, auto_ack=True)[2] == value.encode()
        assert channel.basic_get(queue, auto_ack=True)[0] is None
    # Unbinding finds it by the same arguments.
    call(session, f"queue_unbind(1, 'q', 'amq.headers', arguments => {rule})")
    headers = f"""'{{"a": {value}}}'"""
    call(session, f"publish(1, 'amq.headers', '', 'x', headers => {headers})")
    assert channel.basic_get("q", auto_ack=True)[0] is None


def test_a_fraction_that_the_broker_refuses(session: Session) -> None:
    error = session.error(
        "SELECT amqp.queue_declare(1, 'q', arguments => '{\"x-max-length\": 1.5}')"
    )
    assert "x-max-length" in error.detail


def test_purge_and_delete(session: Session, channel: BlockingChannel) -> None:
    call(session, "queue_declare(1, 'q')")
    call(session, "publish(1, '', 'q', 'x')")
    with pytest.raises(errors.ObjectNotInPrerequisiteState):
        call(session, "queue_delete(1, 'q', if_empty => true)")
    assert call(session, "queue_purge(1, 'q')")
    assert channel.basic_get("q", auto_ack=True)[0] is None
    assert call(session, "queue_delete(1, 'q', if_empty => true)")
    assert call(session, "queue_delete(1, 'q')")
    with pytest.raises(errors.UndefinedObject):
        call(session, "queue_purge(1, 'q')")
    call(session, "exchange_declare(1, 'e', 'fanout', false, true)")
    call(session, "queue_declare(1, 'q')")
    call(session, "queue_bind(1, 'q', 'e')")
    with pytest.raises(errors.ObjectNotInPrerequisiteState):
        call(session, "exchange_delete(1, 'e', if_unused => true)")
    assert call(session, "exchange_delete(1, 'e')")
    # An exchange that this session has seen before is looked for again.
    with pytest.raises(errors.UndefinedObject, match='exchange "e" does not exist'):
        call(session, "publish(1, 'e', 'k', 'x')")


def test_they_act_at_once_whatever_becomes_of_the_transaction(
    session: Session, channel: BlockingChannel
) -> None:
    with session.transaction(force_rollback=True):
        call(session, "queue_declare(1, 'q')")
    channel.queue_declare("q", passive=True)
    with session.transaction():
        session.execute("SELECT amqp.publish(1, '', 'q', 'pending')")
        call(session, "queue_declare(1, 'other')")
        assert channel.basic_get("q", auto_ack=True)[0] is None
    assert channel.basic_get("q", auto_ack=True)[2] == b"pending"


def test_without_permission(session: Session, broker: VHost, management: Management) -> None:
    management.create_user("reader", "reader")
    try:
        management.grant(broker.vhost, "reader", configure="^$")
        session.execute("SELECT amqp.add_broker(%s)", [broker.url("reader", "reader")])
        with pytest.raises(errors.InsufficientPrivilege, match='to declare queue "q"'):
            call(session, "queue_declare(2, 'q')")
    finally:
        management.delete_user("reader")


def test_warn_instead_of_raise(session: Session) -> None:
    session.execute("SET amqp.on_failure = warn")
    assert call(session, "queue_purge(1, 'nothing')") is False
    assert call(session, "queue_declare(1, '')") is False
