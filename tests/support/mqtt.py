"""MQTT clients, as devices and browsers have them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties

from servers.processes import wait_for
from support.fix_servers import VHost
from support.patience import LIMIT

_numbers = count(1)


class Seen(NamedTuple):
    """A message as a subscriber gets it."""

    topic: str
    text: str
    retained: bool
    """Whether it was kept before there was the subscription."""
    qos: int
    properties: Any
    """Of MQTT 5."""


class MqttClient:
    """A client, connected in its own thread; in a context it is disconnected at the end.

    `will` is topic, text and QoS of what RabbitMQ is to publish when it dies.
    """

    def __init__(
        self,
        broker: VHost,
        *,
        port: int | None = None,
        will: tuple[str, str, int] | None = None,
        version: MQTTProtocolVersion | None = None,
        name: str | None = None,
        clean: bool = True,
    ) -> None:
        self.seen: list[Seen] = []
        self._acknowledged: set[int] = set()
        self._subscribed = threading.Event()
        self._connected = threading.Event()
        self._client = client = Client(
            CallbackAPIVersion.VERSION2,
            name or f"test-{next(_numbers)}",
            protocol=version or version_of(broker),
            clean_session=None if version_of(broker) == MQTTProtocolVersion.MQTTv5 else clean,
        )
        client.username_pw_set(f"{broker.vhost}:guest", "guest")
        if will is not None:
            topic, text, qos = will
            client.will_set(topic, text, qos)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_subscribe = lambda *_: self._subscribed.set()
        client.on_publish = self._on_publish
        client.reconnect_delay_set(1, 1)
        self.port = port or broker.rabbitmq.mqtt_port
        client.connect("127.0.0.1", self.port, 30)
        client.loop_start()
        assert self._connected.wait(LIMIT), "not connected by MQTT"

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """See what comes from now on, and what is kept."""
        self._subscribed.clear()
        self._client.subscribe(topic_filter, qos)
        assert self._subscribed.wait(LIMIT), "not subscribed"

    def publish(
        self,
        topic: str,
        body: str | bytes,
        qos: int = 1,
        *,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int:
        """Publish as a device does; with QoS 1, until it is acknowledged. Its number."""
        return self._client.publish(topic, body, qos, retain, properties).mid

    def wait_for_acknowledged(self, *numbers: int) -> None:
        """Wait until RabbitMQ has these."""
        wait_for(lambda: self._acknowledged.issuperset(numbers), LIMIT, "PUBACK")

    def wait_for_seen(self, messages: int) -> list[Seen]:
        """Wait until it has seen so many messages, and return them."""
        try:
            wait_for(lambda: len(self.seen) >= messages, LIMIT, f"{messages} messages by MQTT")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.seen}") from None
        return self.seen

    def die(self) -> None:
        """Cut the connection without a word, as a device does whose battery is empty."""
        self._client.on_connect = None
        self._end()

    def close(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        self._end()

    def _end(self) -> None:
        """Have the thread end, which does not connect again, and close what is open."""
        self._client.loop_stop()
        # paho leaves this to the collector of garbage, which may come to a socket first.
        self._client._reset_sockets()

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, reason: Any, _p: Any) -> None:
        assert not reason.is_failure, reason
        self._connected.set()

    def _on_publish(self, _client: Client, _data: Any, number: int, _reason: Any, _p: Any) -> None:
        self._acknowledged.add(number)

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self.seen.append(
            Seen(
                message.topic,
                message.payload.decode(),
                message.retain,
                message.qos,
                message.properties,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_versions: dict[int, MQTTProtocolVersion] = {}


def version_of(broker: VHost) -> MQTTProtocolVersion:
    """What the node speaks: RabbitMQ knows MQTT 5 from 3.13 on."""
    node = broker.rabbitmq
    if node.mqtt_port not in _versions:
        release = node.rabbitmqctl("version").strip().split(".")
        is_new = (int(release[0]), int(release[1])) >= (3, 13)
        _versions[node.mqtt_port] = (
            MQTTProtocolVersion.MQTTv5 if is_new else MQTTProtocolVersion.MQTTv311
        )
    return _versions[node.mqtt_port]


@contextmanager
def subscriber(broker: VHost, topic_filter: str, qos: int = 1) -> Iterator[MqttClient]:
    """A client that sees what comes to a topic."""
    with MqttClient(broker) as client:
        client.subscribe(topic_filter, qos)
        yield client


def retained(broker: VHost, topic: str) -> str | None:
    """What RabbitMQ keeps for a topic; None is nothing."""
    with subscriber(broker, topic) as client:
        # What is kept comes before what is published behind the subscription.
        client.publish(topic, "the end")
        client.wait_for_seen(1)
        found = client.seen[0]
        return found.text if found.retained else None
