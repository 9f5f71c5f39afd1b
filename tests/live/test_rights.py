"""What the page's RabbitMQ user may do: have its own queues, read changes, ask. Nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.relay import DaemonProcess
from support.fix_servers import VHost
from support.patience import LIMIT
from support.sessions import Session
from support.stomp_client import StompClient

pytestmark = pytest.mark.usefixtures("live_session")

CHANGES = "/exchange/live.changes/orders.*"
REFUSED_TO_READ = (
    "/queue/secret",
    "/amq/queue/secret",
    "/queue/of-its-own",
    "/amq/queue/live.snapshot",
    "/topic/#",
    "/exchange/amq.topic/#",
    "/exchange/amq.fanout",
    "/exchange/live.questions/customer",
    "/exchange/live.changes/#",
    "/exchange/live.changes/*.insert",
    "/exchange/live.changes/payments.insert",
)
REFUSED_TO_WRITE = (
    "/queue/secret",
    "/amq/queue/secret",
    "/reply-queue/secret",
    "/queue/of-its-own",
    "/topic/orders.insert",
    "/exchange/amq.fanout",
    "/exchange/live.changes/orders.insert",
)


@pytest.fixture
def channel(live_broker: VHost) -> Iterator[BlockingChannel]:
    """A channel of somebody who may do everything, and a queue with a secret."""
    with pika.BlockingConnection(pika.URLParameters(live_broker.url())) as connection:
        channel = connection.channel()
        channel.queue_declare("secret", durable=True)
        channel.queue_purge("secret")
        channel.basic_publish("", "secret", b"a secret")
        yield channel
        channel.queue_delete("secret")


def visitor(broker: VHost) -> StompClient:
    return StompClient(broker, login="live_page", passcode="live_page")


@pytest.mark.parametrize("destination", REFUSED_TO_READ)
def test_it_reads_nothing_else(
    live_broker: VHost, channel: BlockingChannel, destination: str
) -> None:
    client = visitor(live_broker)
    client.connection.subscribe(destination, id="1")
    assert b"refused" in client.take_error().body
    client.wait_for_end()
    _, _, body = channel.basic_get("secret")
    assert body == b"a secret"


@pytest.mark.parametrize("destination", REFUSED_TO_WRITE)
def test_it_writes_nowhere_else(
    live_broker: VHost, live_session: Session, channel: BlockingChannel, destination: str
) -> None:
    reader = visitor(live_broker)
    reader.subscribe(CHANGES)
    client = visitor(live_broker)
    client.connection.send(destination, "forged")
    assert b"refused" in client.take_error().body
    client.wait_for_end()
    live_session.run("INSERT INTO orders (customer, item, amount) VALUES ('Ada', 'Tea', 1)")
    assert b'"customer": "Ada"' in reader.take().body
    reader.close()
    assert channel.queue_declare("secret", passive=True).method.message_count == 1


@pytest.mark.usefixtures("channel")
@pytest.mark.parametrize("name", ["secret", "live.snapshot", "mine"])
def test_it_takes_no_queue_for_its_own(live_broker: VHost, name: str) -> None:
    client = visitor(live_broker)
    client.connection.subscribe(CHANGES, id="1", headers={"x-queue-name": name})
    assert b"refused" in client.take_error().body
    client.wait_for_end()


def test_a_page_s_queue_is_its_own_even_if_its_name_is_known(
    live_broker: VHost, channel: BlockingChannel
) -> None:
    one, other = visitor(live_broker), visitor(live_broker)
    name = {"x_queue_name": "stomp-subscription-known"}
    one.subscribe(CHANGES, exclusive="true", auto_delete="true", **name)
    other.connection.subscribe(
        CHANGES, id="1", headers={"x-queue-name": "stomp-subscription-known", "exclusive": "true"}
    )
    assert b"exclusive" in other.take_error().body.lower()
    other.wait_for_end()
    one.close()


def test_a_question_is_answered_to_the_asker_s_own_queue_alone(
    live_broker: VHost,
    live_session: Session,
    live_daemon: DaemonProcess,
    channel: BlockingChannel,
) -> None:
    """Whatever reply-to says: the answer is sent with the rights of the database's login."""
    client = visitor(live_broker)
    question = "/exchange/live.questions/customer"
    for reply_to in ("secret", "/queue/secret", "/reply-queue/secret", "live.snapshot", ""):
        client.send(question, "Ada", {"reply-to": reply_to} if reply_to else {})
    # Bytes that are no text cost nobody anything, either.
    client.send(question, b"\xff\0", {"reply-to": "/temp-queue/a", "amqp-message-id": "1"})
    client.send(question, "Ada", {"reply-to": "/temp-queue/a"})
    assert [client.take().body for _ in range(2)] == [b'{"total": 0, "orders": 0}'] * 2
    wait_for(lambda: live_session.run("SELECT FROM amqp.outbox") == [], LIMIT, "empty outbox")
    assert channel.queue_declare("secret", passive=True).method.message_count == 1
    assert live_session.run("SELECT FROM amqp.inbox_dead") == []
    assert live_session.run("SELECT FROM amqp.inbox_seen") == []
    client.close()
