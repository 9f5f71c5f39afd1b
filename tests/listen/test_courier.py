"""The courier: messages of many rows to one broker, at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_daemon.listen.courier import Courier
from pg_amqp_daemon.listen.gaps import Gap
from pg_amqp_daemon.listen.listener import Listener, Message, read_listeners
from pg_amqp_daemon.listen.metrics import ListenMetrics
from pg_amqp_daemon.listen.tally import Tally
from pg_amqp_daemon.runtime.metrics import Metrics
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.fields import FIELDS
from servers.processes import wait_for
from support.fix_servers import VHost
from support.messages import Inbox
from support.patience import LIMIT


def listener(number: int, exchange: str, **fields: object) -> Listener:
    """A row as amqp_inner.listener_look() tells it."""
    row = {
        **dict.fromkeys(FIELDS),
        **{"exchange": exchange, "routing_key": "k", "mandatory": False, "headers": {"h": 1}},
        **{"listener_id": number, "channel": "c", "broker_id": 1, "on_failure": "outbox"},
        "row": {},
        **fields,
    }
    return read_listeners(json.dumps([row]), may_store=True)[number]


class Sent:
    """What a courier was given, and what it did not get rid of."""

    def __init__(self) -> None:
        self.tally = Tally(ListenMetrics(Metrics()))
        self.diverted: dict[str, str] = {}
        """The reason, by the body."""
        self._numbers = iter(range(1_000_000))

    def divert(self, messages: list[Message], why: str) -> None:
        """As the outbox's thread is given them."""
        for message in messages:
            self.diverted[message.body.decode()] = why
        self.tally.drop(messages, why)

    def message(self, row: Listener, body: str, gap: Gap | None = None) -> Message:
        """For a notification."""
        number = next(self._numbers)
        return Message(row, body.encode(), f"{number:036}", 1, self.tally.account.epoch, gap)


@contextmanager
def courier(broker: VHost) -> Iterator[tuple[Sent, Callable[..., None]]]:
    """One that is connected, and what it is given: all of a call goes out at once."""
    sent = Sent()
    working = Courier(1, "test", sent.tally, sent.divert)
    node = broker.rabbitmq
    working.configure([Address("127.0.0.1", node.amqp_port, broker.vhost, "guest", "guest")])

    def put(*messages: Message) -> None:
        sent.tally.receive(messages)
        working.put(list(messages))
        wait_for(lambda: sent.tally.account.open == 0, LIMIT, "all to be settled")

    try:
        yield sent, put
    finally:
        working.stop()
        working.join(LIMIT)


def test_what_cannot_go_does_not_keep_its_neighbours(
    broker: VHost, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel, "amq.topic")
    there, gone = listener(1, "amq.topic"), listener(2, "gone")
    wrong = listener(3, "amq.topic", priority=300)
    foreign = listener(4, "amq.topic", user_id="somebody")
    with courier(broker) as (sent, put):
        put(*(sent.message(row, f"{row.id} {n}") for n in range(3) for row in (there, gone, wrong)))
        assert inbox.texts() == ["1 0", "1 1", "1 2"]
        assert {body[0]: why for body, why in sent.diverted.items()} == {
            "2": "NOT_FOUND - no exchange 'gone' in vhost '%s' (404)" % broker.vhost,  # noqa: UP031
            "3": "no broker could take it: 300",
        }
        sent.diverted.clear()
        put(*(sent.message(row, f"{row.id}") for row in (there, foreign, there)))
        # RabbitMQ closes the channel for it: what was before it may arrive twice.
        assert set(inbox.texts()) == {"1"}
        assert "user_id" in sent.diverted["4"]


def test_messages_that_change_within_a_batch_are_each_its_own(
    broker: VHost, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel, "amq.topic")
    one, two = listener(1, "amq.topic"), listener(2, "amq.topic", type="t", routing_key="other")
    with courier(broker) as (sent, put):
        gap = Gap(1, "row", None, "until")
        put(
            sent.message(one, "a"),
            sent.message(one, ""),
            sent.message(two, "b"),
            sent.message(one, "", gap),
            sent.message(one, "x" * 300_000),
        )
    found = inbox.drain()
    assert [(m.routing_key, m.properties.type, len(m.body)) for m in found] == [
        ("k", None, 1),
        ("k", None, 0),
        ("other", "t", 1),
        ("k", "pg-amqp.gap", 0),
        ("k", None, 300_000),
    ]
    assert [m.properties.message_id for m in found] == [f"{number:036}" for number in range(5)]
    assert found[3].properties.headers == {"h": 1, "gap-reason": "row", "gap-to": "until"}


def test_what_is_unroutable_is_told_by_its_own_id(broker: VHost, channel: BlockingChannel) -> None:
    row = listener(1, "amq.topic", mandatory=True)
    with courier(broker) as (sent, put):
        put(sent.message(row, "a"), sent.message(row, "b"))
        assert sent.diverted == dict.fromkeys("ab", "NO_ROUTE (312)")
