"""A gap that could not be told: it is as soon as it can be, though nothing else comes."""

from __future__ import annotations

from pika.adapters.blocking_connection import BlockingChannel

from servers.rabbitmq import RabbitMQ
from servers.relay import ListenProcess
from support.fix_servers import VHost
from support.listeners import Switchboard, switchboard
from support.stuck import suspended


def test_an_exchange_that_was_missing_gets_the_gap_by_itself(
    listeners: Switchboard, listening: ListenProcess, channel: BlockingChannel
) -> None:
    listener = listeners(on_failure="drop")
    listener.wait_until_heard()
    channel.exchange_delete(listener.exchange)
    listener.notify("lost")
    listener.wait_until("the loss", lambda status: status["dropped"] == 1)
    channel.exchange_declare(listener.exchange, "topic", durable=True)
    channel.queue_bind(listener.inbox.queue, listener.exchange, "#")
    listener.wait_for_gap("dropped")
    assert not listener.received


def test_a_block_that_is_over_is_seen_while_nothing_is_published(database: str) -> None:
    with RabbitMQ() as node, switchboard(database, VHost(node, "/")) as make:
        listener = make(on_failure="drop")
        with ListenProcess(database) as listening:
            listener.wait_until_heard()
            with node.short_of_memory():
                listener.notify("first")
                listening.wait_for_event("broker blocked")
                listener.wait_until("the loss", lambda status: status["dropped"] == 1)
            listener.wait_for_gap("dropped")


def test_a_refusal_is_logged_once_whatever_others_publish(
    listeners: Switchboard, listening: ListenProcess, channel: BlockingChannel
) -> None:
    missing, other = listeners(on_failure="drop"), listeners()
    for listener in (missing, other):
        listener.wait_until_heard()
    channel.exchange_delete(missing.exchange)
    for number in range(1, 6):
        missing.notify(str(number))
        missing.wait_for_count("dropped", number)
        other.notify(str(number))
        other.wait_for_count("published", number)
    assert len(listening.events("notifications refused")) == 1
    # What nobody listens for any more is nobody's trouble.
    missing.change(enabled=False)
    listening.wait_for_event("channels", 2)
    other.notify("6")
    other.wait_until("the message", lambda status: status["published"] == 6)


def test_a_queue_that_does_not_confirm_keeps_no_other_row(
    listeners: Switchboard, listening: ListenProcess, broker: VHost, channel: BlockingChannel
) -> None:
    stuck, other = listeners(on_failure="drop"), listeners(on_failure="drop")
    for listener in (stuck, other):
        listener.wait_until_heard()
    channel.queue_declare("stuck", durable=True)
    channel.queue_bind("stuck", stuck.exchange, "#")
    with suspended(broker, "stuck"):
        stuck.notify("a")
        stuck.wait_until("the loss", lambda status: status["dropped"] == 1)
        other.notify("b")
        stuck.notify("c")
        other.wait_for_texts("b")
        stuck.wait_until("the loss", lambda status: status["dropped"] == 2)
    stuck.wait_for_gap("dropped")
    assert other.status()["dropped"] == 0
