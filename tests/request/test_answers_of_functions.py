"""The whole way round: a query asks, and a SQL function answers through pg-amqp run."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from servers.processes import wait_for
from servers.relay import DaemonProcess
from support.consumers import Consumer, desk
from support.fix_servers import VHost
from support.patience import LIMIT
from support.sessions import Session

ASK = "SELECT amqp.body_json(r) FROM amqp.request(1, '', %s, %s::jsonb, timeout => '5min') AS r"


@pytest.fixture
def consumer(database: str, broker: VHost) -> Iterator[Consumer]:
    """A queue whose messages a function answers."""
    with desk(database, broker) as make:
        make(enabled=False).session.execute(
            """CREATE TABLE asked (n int);
               CREATE FUNCTION twice(m amqp.message) RETURNS jsonb LANGUAGE sql AS $$
               INSERT INTO public.asked SELECT (amqp.body_json(m)->>'n')::int;
               SELECT jsonb_build_object('twice', 2 * (amqp.body_json(m)->>'n')::int)
               $$"""
        )
        consumer = make(target_function="twice")
        with DaemonProcess(database) as daemon:
            daemon.wait_for_event("consuming")
            yield consumer


@pytest.fixture
def session(consumer: Consumer) -> Session:
    """A session in the same database."""
    return consumer.session


def test_a_function_answers(session: Session, consumer: Consumer) -> None:
    for number in range(5):
        assert session.value(ASK, consumer.queue, f'{{"n": {number}}}') == {"twice": 2 * number}
    assert session.run("SELECT n FROM asked ORDER BY n") == [(n,) for n in range(5)]


def test_many_are_answered_together(session: Session, consumer: Consumer) -> None:
    found = session.run(
        """SELECT amqp.body_json(r)->'twice'
           FROM amqp.request_all(1, '', %s,
               ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series(1, 200) AS n),
               timeout => '5min') AS r""",
        consumer.queue,
    )
    assert found == [(2 * n,) for n in range(1, 201)]


def test_the_reply_says_what_it_is(session: Session, consumer: Consumer) -> None:
    row = session.run(
        "SELECT r.content_type, r.broker_id, r.message_id <> '', r.delivery_mode FROM"
        " amqp.request(1, '', %s, '{\"n\": 1}'::jsonb, timeout => '5min') AS r",
        consumer.queue,
    )
    assert row[0][:3] == ("application/json", 1, True)


def test_what_the_function_did_stays_done(session: Session, consumer: Consumer) -> None:
    session.run("BEGIN")
    session.run(ASK, consumer.queue, '{"n": 7}')
    session.run("ROLLBACK")
    assert session.value("SELECT n FROM asked") == 7


def test_no_answer_where_the_function_fails(session: Session, consumer: Consumer) -> None:
    bad = consumer.queue, '{"n": "no number"}'
    assert session.error(ASK.replace("5min", "300ms"), *bad).sqlstate == "MQ001"
    consumer.change(reply_errors=True)

    def told() -> bool:
        # The row is read again within a second.
        session.run("SET statement_timeout = '3s'")
        try:
            return bool(session.value(ASK, *bad)["sqlstate"] == "22P02")
        except psycopg.errors.QueryCanceled:
            return False

    wait_for(told, LIMIT, "the error as a reply")
