"""A STOMP client's question, answered by a SQL function."""

from __future__ import annotations

import json

import pytest

from servers.relay import DaemonProcess
from support.consumers import desk
from support.fix_servers import VHost
from support.fix_stomp import Stompers

ANSWER = """
CREATE FUNCTION price(m amqp.message) RETURNS jsonb LANGUAGE sql
RETURN jsonb_build_object('sku', amqp.body_json(m)->'sku', 'price', 19.90,
                          'asked by', m.headers->>'tenant')
"""


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_a_question_with_a_temporary_queue_is_answered(
    database: str, broker: VHost, stompers: Stompers, version: str
) -> None:
    with desk(database, broker) as make, DaemonProcess(database):
        probe = make(enabled=False)
        probe.session.run(ANSWER)
        queue = make(target_function="price").queue
        clients = [stompers(version), stompers(version)]
        for number in range(20):
            for who, client in enumerate(clients):
                headers = {
                    "reply-to": "/temp-queue/prices",
                    "correlation-id": f"{who}-{number}",
                    "tenant": str(who),
                }
                client.send(f"/amq/queue/{queue}", json.dumps({"sku": number}), headers)
        for who, client in enumerate(clients):
            found = [client.take() for _ in range(20)]
            # Each gets its own answers, to the subscription that nobody had to make.
            assert {m.headers["subscription"] for m in found} == {"/temp-queue/prices"}
            assert {m.headers["content-type"] for m in found} == {"application/json"}
            assert [m.headers["correlation-id"] for m in found] == [f"{who}-{n}" for n in range(20)]
            assert [json.loads(m.body) for m in found] == [
                {"sku": n, "price": 19.90, "asked by": str(who)} for n in range(20)
            ]


def test_an_answer_to_a_durable_queue(database: str, broker: VHost, stompers: Stompers) -> None:
    with desk(database, broker) as make, DaemonProcess(database):
        probe = make(enabled=False)
        probe.session.run(ANSWER)
        queue = make(target_function="price").queue
        client = stompers()
        client.subscribe("/queue/answers")
        # AMQP's reply_to is the name of a queue: not a destination.
        client.send(f"/amq/queue/{queue}", '{"sku": 1}', {"reply-to": "answers"})
        assert json.loads(client.take().body)["sku"] == 1
