"""RabbitMQ away, blocked, silent, restarted and killed: what was confirmed has arrived, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.gateway import GatewayProcess
from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction, Welcome
from servers.rabbitmq import RabbitMQ
from support.fix_servers import VHost
from support.load import assert_honest, ids, load
from support.messages import Inbox
from support.patience import LIMIT
from support.posting import Client, path_of
from support.stuck import suspended


@pytest.fixture
def topic(broker: VHost) -> str:
    """The path of a routing key."""
    return path_of(broker.vhost, "amq.topic", "foo")


def warm_up(client: Client, path: str) -> None:
    """Have both connections of the login opened."""

    def opened() -> bool:
        assert client.form(path, message_id="warm").status == 204
        connections = client.get("/stats").json["connections"].values()
        return any(one["connections"]["opened"] == 2 for one in connections)

    wait_for(opened, LIMIT, "two connections")


# ---- Away ----


def test_while_rabbitmq_is_away_it_says_so_at_once(
    far_gateway: GatewayProcess,
    far_client: Client,
    topic: str,
    proxy: CuttingProxy,
    channel: BlockingChannel,
) -> None:
    inbox = Inbox(channel)
    assert far_client.form(topic).status == 204
    assert far_client.get("/ready").status == 200
    proxy.refuse()
    proxy.reset()
    answer = far_client.form(topic)
    while answer.status != 503:
        answer = far_client.form(topic)
    assert "not published" in answer.json["detail"]
    assert answer.headers["retry-after"]
    wait_for(lambda: far_client.get("/ready").status == 503, LIMIT, "/ready to say so")
    assert far_client.get("/live").status == 200
    proxy.pass_all()
    wait_for(lambda: far_client.form(topic).status == 204, LIMIT, "RabbitMQ to be found again")
    assert far_client.get("/ready").status == 200
    inbox.drain()
    # Once each, however many requests there were.
    told = [entry["event"] for entry in far_gateway.entries() if "user" in entry]
    assert told == ["connection to broker lost", "broker not reachable", "connected to broker"]


def test_no_rabbitmq_at_the_start(broker: VHost, topic: str) -> None:
    with GatewayProcess("--broker", "amqp://127.0.0.1:1/") as gateway:
        assert isinstance(gateway, GatewayProcess)
        client = Client(gateway.port)
        assert client.form(topic).status == 503
        assert client.get("/ready").status == 503
        client.close()


@pytest.mark.slow
def test_what_is_not_confirmed_in_time_may_have_been_published(
    far_client: Client, topic: str, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    warm_up(far_client, topic)
    proxy.stall(Direction.TO_CLIENT)
    answer = far_client.form(topic, message_id="second")
    assert answer.status == 504
    assert "may have been published" in answer.json["detail"]
    assert answer.headers["x-message-id"] == "second"
    proxy.pass_all()
    wait_for(lambda: far_client.form(topic).status == 204, LIMIT, "it to go on")
    # It was not written again.
    assert ids(inbox)["second"] == 1


def test_what_was_written_when_the_connection_broke_may_have_been_published(
    far_client: Client, topic: str, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    warm_up(far_client, topic)
    proxy.stall(Direction.TO_CLIENT)
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(far_client.form, topic, message_id="second")
        wait_for(lambda: "second" in ids(inbox), LIMIT, "it to arrive")
        proxy.reset()
        answer = asked.result(LIMIT)
    assert answer.status == 504
    assert "connection to RabbitMQ was lost" in answer.json["detail"]


def test_half_a_message_is_surely_not_published(
    far_gateway: GatewayProcess, topic: str, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    client, other = Client(far_gateway.port), Client(far_gateway.port)
    warm_up(client, topic)
    proxy.stall(Direction.TO_SERVER)
    with ThreadPoolExecutor(1) as thread:
        path = f"{topic}?message_id=large"
        asked = thread.submit(client.request, "POST", path, b"x" * 15_000_000)

        def under_way() -> bool:
            connections = other.get("/stats").json["connections"].values()
            return any(one["queue_size"] for one in connections)

        wait_for(under_way, LIMIT, "it to be written")
        proxy.refuse()
        proxy.reset()
        assert asked.result(LIMIT).status == 503
    proxy.pass_all()
    wait_for(lambda: client.form(topic).status == 204, LIMIT, "it to go on")
    assert ids(inbox)["large"] == 0
    client.close()
    other.close()


@pytest.mark.slow
def test_what_is_surely_not_published_is_told_from_what_may_be(
    far_gateway: GatewayProcess, topic: str, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    """A connection that takes nothing: what is not written whole is surely not published."""
    inbox = Inbox(channel)
    client = Client(far_gateway.port)
    warm_up(client, topic)
    with ThreadPoolExecutor(4) as threads:
        proxy.stall(Direction.TO_SERVER)
        large = b"x" * 15_000_000

        def post(number: int) -> int:
            one = Client(far_gateway.port)
            answer = one.request("POST", f"{topic}?message_id={number}", large)
            one.close()
            return answer.status

        found = sorted(threads.map(post, range(4)))
    assert set(found) <= {503, 504}
    assert 503 in found
    proxy.reset()
    proxy.pass_all()
    wait_for(lambda: client.form(topic).status == 204, LIMIT, "it to go on")
    assert sum(ids(inbox)[str(number)] for number in range(4)) == 0
    client.close()


# ---- Blocked ----


@pytest.mark.slow
def test_while_rabbitmq_is_short_of_memory_it_says_so(
    client: Client, topic: str, rabbitmq: RabbitMQ, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    warm_up(client, topic)
    with rabbitmq.short_of_memory():
        # RabbitMQ says so to whoever publishes.
        assert client.form(topic, message_id="second").status == 504
        answer = client.form(topic, message_id="third")
        assert answer.status == 503
        assert "blocks" in answer.json["detail"]
    wait_for(lambda: client.form(topic).status == 204, LIMIT, "it to go on")
    arrived = ids(inbox)
    assert (arrived["second"], arrived["third"]) == (1, 0)


# ---- Under load ----


def test_connections_that_break_under_load(
    far_gateway: GatewayProcess, topic: str, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    with load(far_gateway, topic) as running:
        for _ in range(10):
            running.wait_for(204)
            proxy.reset()
        running.wait_for(204)
    assert_honest(running.answers, ids(inbox))


def test_connections_that_are_cut_after_any_byte(
    far_gateway: GatewayProcess, topic: str, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    with load(far_gateway, topic) as running:
        for count in range(1, 4000, 371):
            for direction in Direction.TO_SERVER, Direction.TO_CLIENT:
                running.wait_for(204, 5)
                proxy.cut_after(count, direction, then=Welcome.PASS)
        running.wait_for(204)
    assert_honest(running.answers, ids(inbox))


def test_an_exchange_that_is_deleted_and_made_again_under_load(
    gateway: GatewayProcess, broker: VHost, channel: BlockingChannel
) -> None:
    channel.queue_declare("kept", durable=True)

    def make() -> None:
        channel.exchange_declare("now-and-then", "fanout")
        channel.queue_bind("kept", "now-and-then")

    make()
    inbox = Inbox(channel, "amq.direct", "other")
    path = path_of(broker.vhost, "now-and-then", "k")
    with (
        load(gateway, path, 4, mandatory=1) as disturbed,
        load(gateway, path_of(broker.vhost, "amq.direct", "other"), 4) as other,
    ):
        for _ in range(5):
            disturbed.wait_for(204)
            channel.exchange_delete("now-and-then")
            disturbed.wait_for(404)
            make()
        disturbed.wait_for(204)
    arrived: Counter[str] = Counter()
    while True:
        method, properties, _ = channel.basic_get("kept", auto_ack=True)
        if method is None:
            break
        arrived[properties.message_id] += 1
    refused = {key for key, status in disturbed.answers.items() if status == 404}
    assert not refused & arrived.keys()
    those = {key: status for key, status in disturbed.answers.items() if status != 404}
    assert_honest(those, arrived)
    assert_honest(other.answers, ids(inbox))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_broker_that_ends_under_load(how: str) -> None:
    with RabbitMQ() as node:
        queue = "kept"

        def on_channel(what: Callable[[BlockingChannel], None]) -> None:
            with pika.BlockingConnection(pika.URLParameters(node.url())) as connection:
                what(connection.channel())

        def declare(channel: BlockingChannel) -> None:
            channel.queue_declare(queue, durable=True)

        on_channel(declare)
        node.write_down()
        url = f"amqp://127.0.0.1:{node.amqp_port}/"
        arrived: Counter[str] = Counter()

        def take(channel: BlockingChannel) -> None:
            for method, properties, _ in channel.consume(queue, inactivity_timeout=2):
                if method is None:
                    break
                arrived[properties.message_id] += 1
                channel.basic_ack(method.delivery_tag)

        with (
            GatewayProcess("--broker", url) as gateway,
            load(gateway, path_of("/", "amq.default", queue)) as running,
        ):
            running.wait_for(204)
            end = node.kill if how == "kill" else node.stop
            end()
            running.wait_for(503)
            node.start()
            running.wait_for(204)
        on_channel(take)
    assert_honest(running.answers, arrived)
    assert running.count(204) > 0


# ---- Queues that do not confirm ----


@pytest.mark.slow
def test_a_queue_that_does_not_confirm_keeps_no_others_waiting(
    gateway: GatewayProcess, broker: VHost, topic: str, channel: BlockingChannel
) -> None:
    """Of the same login: its messages are under way side by side."""
    inbox = Inbox(channel)
    channel.queue_declare("slow", durable=True)
    path = path_of(broker.vhost, "amq.default", "slow")
    slow, client = Client(gateway.port), Client(gateway.port)
    assert slow.form(path).status == 204
    with suspended(broker, "slow"), ThreadPoolExecutor(1) as thread:
        asked = thread.submit(slow.form, path)
        assert {client.form(topic).status for _ in range(50)} == {204}
        assert not asked.done()
        assert asked.result(LIMIT).status == 504
    assert len(inbox.drain()) == 50
    slow.close()
    client.close()
