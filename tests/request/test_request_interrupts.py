"""What ends a wait for an answer, and what becomes of the session then."""

from __future__ import annotations

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction, Welcome
from servers.rabbitmq import RabbitMQ
from support.answering import Responder, echo, silent
from support.calls import Call
from support.fix_servers import VHost
from support.patience import LIMIT
from support.sessions import Report, Session, open_session

LONG = (
    "SELECT amqp.body_text(r)"
    " FROM amqp.request({}, '', 'pricing', %s::text, timeout => '10min') AS r"
)
ASK = LONG.format(1)


def settled(session: Session, broker: VHost) -> None:
    """The session asks as ever; nothing that came before is taken for the answer."""
    with Responder(broker.url(), queue="other"):
        for text in "ab":
            found = session.value(ASK.replace("pricing", "other"), text)
            assert found == text
    assert session.warnings() == []


def test_statement_timeout(session: Session, broker: VHost) -> None:
    with Responder(broker.url(), silent):
        session.run("SET statement_timeout = '200ms'")
        assert session.error(ASK, "x").sqlstate == "57014"
        session.run("RESET statement_timeout")
        settled(session, broker)


@pytest.mark.parametrize("within", ["a transaction", "an exception block"])
def test_cancel(session: Session, database: str, broker: VHost, within: str) -> None:
    session.run("BEGIN")
    session.run("SAVEPOINT s")
    with Responder(broker.url(), silent) as responder, open_session(database) as other:
        if within == "a transaction":
            call = Call(lambda: session.error(ASK, "x"))
        else:
            block = """DO $$ BEGIN
                PERFORM amqp.request(1, '', 'pricing', 'x', timeout => '10min');
            EXCEPTION WHEN query_canceled THEN NULL; END $$"""
            call = Call(lambda: session.run(block))
        responder.wait_for_question()
        other.run("SELECT pg_cancel_backend(%s)", session.pid)
        result: Report | list[object] = call.result()
        if isinstance(result, Report):
            assert result.sqlstate == "57014"
            session.run("ROLLBACK TO s")
    settled(session, broker)
    session.run("COMMIT")


def test_termination(session: Session, database: str, broker: VHost) -> None:
    with Responder(broker.url(), silent) as responder, open_session(database) as other:
        call = Call(lambda: session.run(ASK, "x"))
        responder.wait_for_question()
        other.run("SELECT pg_terminate_backend(%s)", session.pid)
        with pytest.raises(psycopg.errors.AdminShutdown):
            call.result()


def test_the_broker_goes_away_while_an_answer_is_awaited(
    session: Session, broker: VHost, proxy: CuttingProxy
) -> None:
    number = session.add_broker(broker.url(port=proxy.port))
    # Whoever asks a second time gets an answer.
    answers = iter([silent])
    with Responder(broker.url(), lambda q: next(answers, echo)(q)) as responder:
        call = Call(lambda: session.error(LONG.format(number), "x"))
        responder.wait_for_question()
        proxy.reset()
        error = call.result()
        assert (error.sqlstate, error.message) == (
            "08006",
            f"amqp: the connection to broker {number} was lost",
        )
        assert error.detail.endswith("The request was sent, and may have been carried out.")
        # It is not asked a second time.
        assert len(responder.questions) == 1
    with Responder(broker.url()):
        assert session.value(LONG.format(number), "x") == "x"


@pytest.mark.slow
def test_rabbitmq_is_restarted_while_an_answer_is_awaited(
    session: Session, broker: VHost, rabbitmq: RabbitMQ
) -> None:
    responder = Responder(broker.url(), silent, durable=True)
    call = Call(lambda: session.error(ASK, "x"))
    responder.wait_for_question()
    rabbitmq.restart()
    error = call.result()
    assert error.sqlstate == "08006"
    assert "may have been carried out" in error.detail
    with Responder(broker.url(), durable=True):
        assert session.value(ASK, "x") == "x"


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_an_idle_connection_that_is_gone_is_replaced(
    session: Session, broker: VHost, proxy: CuttingProxy, how: str
) -> None:
    number = session.add_broker(broker.url(port=proxy.port))
    with Responder(broker.url()) as responder:
        for count in range(1, 4):
            assert session.value(LONG.format(number), "x") == "x"
            assert len(responder.questions) == count
            if how == "reset":
                proxy.reset()
            else:
                proxy.half_close(Direction.BOTH)


def test_an_idle_connection_that_is_silent_is_replaced(
    session: Session, broker: VHost, proxy: CuttingProxy
) -> None:
    number = session.add_broker(broker.url(port=proxy.port))
    ask = LONG.format(number).replace("10min", "400ms")
    with Responder(broker.url()) as responder:
        assert session.value(ask, "x") == "x"
        proxy.stall()
        # Right behind an answer the request is written at once, and nobody knows what became of it.
        states = [session.error(ask, "x").sqlstate for _ in range(2)]
        assert set(states) <= {"MQ001", "08006", "08001"}
        proxy.pass_all()
        wait_for(lambda: _asks(session, ask), LIMIT, "an answer")
        assert len(responder.questions) >= 2


def _asks(session: Session, ask: str) -> bool:
    try:
        return bool(session.value(ask, "x") == "x")
    except psycopg.Error:
        return False


def test_what_was_not_written_whole_is_asked_on_another_connection(
    session: Session, broker: VHost, proxy: CuttingProxy
) -> None:
    number = session.add_broker(broker.url(port=proxy.port))
    with Responder(broker.url()) as responder:
        assert session.value(LONG.format(number), "x") == "x"
        proxy.cut_after(1_000_000, Direction.TO_SERVER, then=Welcome.PASS)
        large = LONG.format(number).replace("body_text(r)", "body_text(r) = repeat('y', 8000000)")
        assert session.value(large.replace("%s::text", "repeat('y', 8000000)"))
        assert [len(question.body) for question in responder.questions] == [1, 8_000_000]


def test_the_queue_is_deleted_while_an_answer_is_awaited(
    session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    with Responder(broker.url(), silent) as responder:
        call = Call(lambda: session.value(ASK, "x"))
        question = responder.wait_for_question()
        channel.queue_delete("pricing")
        # Who has the request answers all the same.
        question.answer("late, but there", channel)
        assert call.result() == "late, but there"


def test_an_answer_that_comes_too_late_is_nobody_s(
    session: Session, broker: VHost, channel: BlockingChannel
) -> None:
    with Responder(broker.url(), silent) as responder:
        for count in range(1, 4):
            error = session.error(ASK.replace("10min", "50ms"), "old")
            assert error.sqlstate == "MQ001"
            responder.wait_for_question(count).answer("too late", channel)
        responder._answer = echo
        assert session.value(ASK, "new") == "new"


def test_a_refusal_that_comes_too_late_is_nobody_s(
    session: Session, broker: VHost, proxy: CuttingProxy
) -> None:
    number = session.add_broker(broker.url(port=proxy.port))
    with Responder(broker.url()):
        assert session.value(LONG.format(number), "x") == "x"
        proxy.stall(Direction.TO_CLIENT)
        for exchange in ("missing", "amq.fanout"):
            refused = f"SELECT amqp.request({number}, '{exchange}', 'k', 'x', timeout => '100ms')"
            assert session.error(refused).sqlstate == "MQ001"
            call = _written(proxy, session, LONG.format(number))
            proxy.pass_all()
            assert call.result() == "x"
            proxy.stall(Direction.TO_CLIENT)
        proxy.pass_all()


def _written(proxy: CuttingProxy, session: Session, ask: str) -> Call:
    """A call that has written something, though nothing comes back."""
    before = proxy.bytes_to_server
    call = Call(lambda: session.value(ask, "x"))
    wait_for(lambda: proxy.bytes_to_server > before, LIMIT, "the next request")
    return call
