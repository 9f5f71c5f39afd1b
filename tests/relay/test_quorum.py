"""A quorum queue without a majority confirms nothing; the other queues of its node go on."""

from __future__ import annotations

from collections import Counter

import pika
import pytest

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.rabbitmq import RabbitMQCluster
from support.health import watched
from support.outbox import in_outbox, put, put_many, wait_until_empty
from support.patience import LIMIT
from support.queues import count, take
from support.sessions import open_session


@pytest.mark.slow
def test_a_quorum_queue_without_majority_stops_nobody(postgres: PostgreSQL, database: str) -> None:
    with RabbitMQCluster() as cluster, open_session(database) as session:
        first, *others = cluster.nodes
        session.execute("SELECT amqp.add_broker(%s)", [first.url()])
        connection = pika.BlockingConnection(pika.URLParameters(first.url()))
        channel = connection.channel()
        channel.queue_declare("safe", durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_declare("plain", durable=True)
        channel.queue_bind("plain", "amq.topic", "#")
        with watched(database) as (_, health):
            put(session, "before", exchange="", routing_key="safe")
            wait_until_empty(session)
            for node in others:
                node.kill()
            for n in range(20):
                put(session, n, exchange="", routing_key="safe")
            put_many(session, 20)
            wait_for(lambda: count(channel, "plain") == 20, LIMIT, "the others to go out")
            wait_for(
                lambda: 'to queue "safe"' in str(health(503)["brokers"]), LIMIT, "/health to say so"
            )
            # What has gone out is out of the outbox a little later.
            wait_for(lambda: len(in_outbox(session)) == 20, LIMIT, "the others to be confirmed")
            for node in others:
                node.start()
            wait_until_empty(session)
            health(200)
        copies = Counter(take(channel, "safe"))
        assert copies == Counter(["before", *map(str, range(20))])
        assert len(take(channel, "plain")) == 20
        connection.close()
