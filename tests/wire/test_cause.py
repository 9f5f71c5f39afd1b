"""Which messages a refusal of the broker speaks of, without a server."""

from __future__ import annotations

import pytest

from pg_amqp_py.wire.cause import blamed_by
from pg_amqp_py.wire.errors import MessageError, UnacceptableError
from pg_amqp_py.wire.message import Envelope, Message
from pg_amqp_py.wire.properties import encode_properties

LONG = "é" * 120


def blamed(text: str, *envelopes: Envelope, body: bytes = b"") -> list[bool]:
    matches, _ = blamed_by(text)
    return [matches(Message(envelope, body)) for envelope in envelopes]


@pytest.mark.parametrize(
    ("text", "exchange"),
    [
        ("NOT_FOUND - no exchange 'gone' in vhost '/'", "gone"),
        ("NOT_FOUND - no exchange 'it's' in vhost '/'", "it's"),
        ("NOT_FOUND - no exchange 'a' in vhost' in vhost '/'", "a' in vhost"),
        ("ACCESS_REFUSED - access to exchange 'x' in vhost 'v' refused for user 'u'", "x"),
        ("ACCESS_REFUSED - write access to exchange 'x' in vhost 'v' refused for user 'u'", "x"),
        ("ACCESS_REFUSED - cannot publish to internal exchange 'x' in vhost '/'", "x"),
        ("ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused", ""),
        # RabbitMQ cuts its texts to fit a short string, within a character if need be.
        (f"NOT_FOUND - no exchange '{LONG}' in vh...", LONG),
        (f"NOT_FOUND - no exchange '{LONG[:110]}...", LONG),
        (f"NOT_FOUND - no exchange '{LONG[:110]}\ufffd...", LONG),
    ],
)
def test_an_exchange(text: str, exchange: str) -> None:
    assert blamed(text, Envelope(exchange, "k"), Envelope("other", "k")) == [True, False]


def test_a_topic_and_its_exchange() -> None:
    text = (
        "ACCESS_REFUSED - access to topic 'a.b' in exchange 'x' in vhost '/' refused for user 'u'"
    )
    envelopes = [Envelope("x", "a.b"), Envelope("x", "a"), Envelope("y", "a.b")]
    assert blamed(text, *envelopes) == [True, False, False]
    assert blamed_by(text)[1]


def test_a_size() -> None:
    for text in (
        "PRECONDITION_FAILED - message size 11 is larger than configured max size 10",
        "PRECONDITION_FAILED - message size 11 is larger than max size 10",
    ):
        assert blamed(text, Envelope("x", "k"), body=b"x" * 11) == [True]
        assert blamed(text, Envelope("x", "k"), body=b"x" * 10) == [False]


def test_a_user_id() -> None:
    text = "PRECONDITION_FAILED - user_id property set to 'me' but authenticated user was 'guest'"
    envelopes = [Envelope("x", "k", user_id="me"), Envelope("x", "k"), Envelope("x", "k")]
    assert blamed(text, *envelopes) == [True, False, False]


def test_anything_else_blames_nobody() -> None:
    assert blamed("INTERNAL_ERROR", Envelope("x", "k"), Envelope("", "")) == [False, False]


@pytest.mark.parametrize("headers", ['{"CC": "k"}', '{"BCC": null}', '{"CC": ["k", 1]}'])
def test_routing_headers_that_rabbitmq_would_refuse(headers: str) -> None:
    with pytest.raises(UnacceptableError):
        encode_properties(Envelope("x", "k", headers=headers))


def test_routing_headers_that_it_takes() -> None:
    encode_properties(Envelope("x", "k", headers='{"CC": ["k", "l"], "BCC": []}'))


def test_direct_reply_to_needs_a_consumer() -> None:
    with pytest.raises(MessageError):
        encode_properties(Envelope("x", "k", reply_to="amq.rabbitmq.reply-to"))
