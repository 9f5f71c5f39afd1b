"""amqp.request_all(): several questions under way at the same time."""

from __future__ import annotations

import pytest

from support.answering import Question, Responder
from support.calls import Call
from support.fix_servers import VHost
from support.sessions import Session, open_session

TEXTS = "SELECT array_agg(amqp.body_text(r)) FROM amqp.request_all(1, '', 'pricing', {}) AS r"


def test_the_replies_come_in_the_order_of_the_messages(session: Session, broker: VHost) -> None:
    asked: list[Question] = []

    def backwards(question: Question) -> None:
        asked.append(question)
        if len(asked) == 3:
            # All were under way together: nothing was answered by now.
            for one in reversed(asked):
                one.answer(one.body)

    with Responder(broker.url(), backwards):
        found = session.value(TEXTS.format("ARRAY['a', 'b', 'c']"))
    assert found == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("messages", "bodies"),
    [
        ("ARRAY['a', NULL]", [b"a", b""]),
        ("ARRAY['1', '{\"a\": 2}']::jsonb[]", [b"1", b'{"a": 2}']),
        ("ARRAY['\\x00', '\\xff']::bytea[]", [b"\0", b"\xff"]),
        ("'{}'::text[]", None),
    ],
)
def test_each_type_of_message(
    session: Session, broker: VHost, messages: str, bodies: list[bytes] | None
) -> None:
    with Responder(broker.url()):
        found = session.value(
            f"SELECT array_agg(r.body) FROM amqp.request_all(1, '', 'pricing', {messages}) AS r"
        )
    assert found == bodies


def test_all_have_the_same_properties(session: Session, broker: VHost) -> None:
    with Responder(broker.url()) as responder:
        session.run(
            "SELECT amqp.request_all(1, '', 'pricing', ARRAY['1', '2']::jsonb[], type => 't')"
        )
    given = [question.properties for question in responder.questions]
    assert [(one.type, one.content_type) for one in given] == [("t", "application/json")] * 2
    assert given[0].correlation_id != given[1].correlation_id
    assert given[0].reply_to == given[1].reply_to


@pytest.mark.slow
def test_ten_thousand_at_once(session: Session, broker: VHost) -> None:
    with Responder(broker.url()):
        assert session.value(
            """SELECT array_agg(amqp.body_text(r)::int) =
                      (SELECT array_agg(n) FROM generate_series(1, 10000) AS n)
               FROM amqp.request_all(1, '', 'pricing',
                   (SELECT array_agg(n::text) FROM generate_series(1, 10000) AS n),
                   timeout => '5min') AS r"""
        )


@pytest.mark.slow
def test_large_requests_whose_replies_come_meanwhile(session: Session, broker: VHost) -> None:
    """Who only wrote would wait for ever: the broker cannot deliver, and stops reading."""
    with Responder(broker.url()):
        assert (
            session.value(
                """SELECT count(*) FROM amqp.request_all(1, '', 'pricing',
                   (SELECT array_agg(repeat(n::text, 500000)) FROM generate_series(1, 60) AS n),
                   timeout => '5min') AS r WHERE length(r.body) >= 500000"""
            )
            == 60
        )


def test_one_that_is_not_answered_fails_all(session: Session, broker: VHost) -> None:
    def most(question: Question) -> None:
        if question.body != b"2":
            question.answer(question.body)

    with Responder(broker.url(), most) as responder:
        error = session.error(
            "SELECT amqp.request_all(1, '', 'pricing', ARRAY['1', '2', '3'], timeout => '300ms')"
        )
        assert error.sqlstate == "MQ001"
        assert error.detail == (
            "The timeout was 0.3 s. Of 3 requests, 3 were sent and may have been carried out;"
            " 2 were answered."
        )
        assert len(responder.questions) == 3
        assert session.value(TEXTS.format("ARRAY['3', '4']")) == ["3", "4"]


def test_errors_are_those_of_one_request(session: Session, broker: VHost) -> None:
    for given, sqlstate in (
        ("'', 'missing', ARRAY['1', '2']", "42704"),
        ("'missing', 'k', ARRAY['1', '2']", "42704"),
        ("'amq.topic', 'k', ARRAY['1', '2']", "MQ003"),
        ("'', 'pricing', NULL::text[]", "22004"),
        ("'', 'pricing', ARRAY[['1'], ['2']]", "22023"),
        ("'', 'pricing', ARRAY['1'], timeout => '0'", "22023"),
    ):
        assert session.error(f"SELECT amqp.request_all(1, {given})").sqlstate == sqlstate
    with Responder(broker.url()):
        assert session.value(TEXTS.format("ARRAY['1', '2']")) == ["1", "2"]


def test_requests_of_other_sessions_go_on_meanwhile(
    session: Session, database: str, broker: VHost
) -> None:
    ours, theirs = (TEXTS.format(f"ARRAY['{one}', '{one}']") for one in ("ours", "theirs"))
    with Responder(broker.url()), open_session(database) as other:
        calls = [Call(lambda: session.value(ours)), Call(lambda: other.value(theirs))]
        assert [call.result() for call in calls] == [["ours"] * 2, ["theirs"] * 2]
