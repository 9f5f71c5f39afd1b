"""A client of MQTT that sees what comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from servers.rabbitmq import RabbitMQ


@contextmanager
def subscriber(rabbitmq: RabbitMQ, topic_filter: str) -> Iterator[list[MQTTMessage]]:
    """Yield what it has seen, the first at the end."""
    seen: list[MQTTMessage] = []
    subscribed = threading.Event()

    def subscribe(client: Client, *_: Any) -> None:
        client.subscribe(topic_filter, 1)

    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    client.username_pw_set("guest", "guest")
    client.on_message = lambda _client, _data, message: seen.insert(0, message)
    client.on_connect = subscribe
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", rabbitmq.mqtt_port)
    client.loop_start()
    try:
        subscribed.wait(60)
        yield seen
    finally:
        client.disconnect()
        client.loop_stop()
