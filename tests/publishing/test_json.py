"""Messages of type json: published as they are, wherever jsonb can be."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.relay import RelayProcess
from support.patience import LIMIT
from support.queues import declare
from support.sessions import Session

BODY = """json_build_object('b', 1, 'a', 'ü'::text)"""
TEXT = '{"b" : 1, "a" : "ü"}'


@pytest.mark.parametrize(
    "call",
    [
        "publish({broker}, '', 'events', {body})",
        "autonomous_publish({broker}, '', 'events', {body})",
        "publish_stomp({broker}, '/queue/events', {body})",
        "publish_mqtt({broker}, 'events', {body})",
        "publish_outbox({broker}, '', 'events', {body})",
        "publish_outbox_mqtt({broker}, 'events', {body})",
    ],
    ids=lambda call: call.partition("(")[0],
)
def test_json_is_published_as_it_is(
    database: str, session: Session, direct: int, channel: BlockingChannel, call: str
) -> None:
    """With the order of its keys and its blanks, which jsonb would not keep."""
    declare(channel)
    channel.queue_bind("events", "amq.topic", "events")
    session.run("SELECT amqp." + call.format(broker=direct, body=BODY))
    with RelayProcess(database):
        # Behind its last message, the outbox is empty.
        wait_for(lambda: session.value("SELECT count(*) FROM amqp.outbox") == 0, LIMIT, "delivery")
    method, properties, body = channel.basic_get("events", auto_ack=True)
    assert method is not None
    assert properties is not None
    assert (body.decode(), properties.content_type) == (TEXT, "application/json")


def test_what_has_no_type_is_still_text(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    declare(channel)
    session.run("""SELECT amqp.publish(%s::integer, '', 'events', '{"a": 1}')""", direct)
    session.run(f"PREPARE p AS SELECT amqp.publish({direct}, '', 'events', $1)")
    session.run("EXECUTE p('x')")
    found = [channel.basic_get("events", auto_ack=True) for _ in range(2)]
    assert [(body, properties and properties.content_type) for _, properties, body in found] == [
        (b'{"a": 1}', None),
        (b"x", None),
    ]


def test_an_exchange_is_durable_unless_something_else_is_said(
    session: Session, direct: int, channel: BlockingChannel
) -> None:
    session.run("SELECT amqp.exchange_declare(%s, 'news', 'topic')", direct)
    channel.exchange_declare("news", "topic", durable=True)


def test_a_broker_that_is_there_already_is_said(session: Session) -> None:
    uri = "amqp://me:secret@rabbit.example/shop"
    first = session.add_broker(uri)
    assert session.reports == []
    second = session.add_broker("amqp://me:other@rabbit.example/shop")
    (notice,) = session.reports
    assert notice.severity == "NOTICE"
    assert notice.message == f"broker {first} has the same host, port, virtual host and user"
    assert f"broker_id = {second}" in notice.hint
    session.add_broker("amqp://you:secret@rabbit.example/shop")
    assert len(session.reports) == 1
