"""A connection to RabbitMQ's MQTT plugin: publishes with QoS 1, and tells what was answered.

paho-mqtt speaks MQTT; the socket is the wire's, so that TLS, its files and its errors are those of
AMQP. Nothing else of the relay imports this, because who retains no message need not have paho.
"""

from __future__ import annotations

import secrets
import select
import struct
import time
from _socket import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from paho.mqtt import MQTTException
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from pg_amqp_daemon.relay.retained_message import RetainedMessage
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.errors import ConnectError
from pg_amqp_py.wire.transport import open_transport

MQTT_5 = MQTTProtocolVersion.MQTTv5
MQTT_3 = MQTTProtocolVersion.MQTTv311
_CONNECT_TIMEOUT = 5.0
_KEEPALIVE = 20
"""Seconds without a word from the broker after which it is asked for one, and then given up."""
_SLICE = 0.1
_QUOTA_EXCEEDED = 0x97
"""Of MQTT 5: a queue is full, for now."""
_UNSUPPORTED_VERSION = 0x84


class MqttError(Exception):
    """There is no connection, or none any more."""

    def __init__(self, text: str, *, answered: bool = True, closed: bool = False) -> None:
        super().__init__(text)
        self.answered = answered
        """Whether the broker has said why; else it may not understand this version of MQTT."""
        self.closed = closed
        """Whether it was the broker that ended it."""


class Answer(NamedTuple):
    """What the broker has said of a message."""

    number: int
    """What publish() has returned."""
    refusal: str | None
    """Why it was not taken; None if it was."""
    busy: bool
    """Whether it may be taken later."""


class MqttConnection:
    """From CONNECT to its end. Used by one thread. `on_wait` is called in waits, and may raise.

    `name` is what the broker shows of it.
    """

    def __init__(
        self,
        address: Address,
        version: MQTTProtocolVersion,
        name: str,
        on_wait: Callable[[], None],
    ) -> None:
        self.address = address
        self._version = version
        self._answers: list[Answer] = []
        self._connected: ReasonCode | None = None
        """What the broker has answered to CONNECT."""
        self._ended: str | None = None
        self._ended_by_broker = False
        self._largest = 1 << 27
        """Bytes that a message may have: RabbitMQ's own limit, unless it says another (MQTT 5)."""
        if ":" in address.username:
            # RabbitMQ takes what is before it for the virtual host.
            raise MqttError(f'user "{address.username}" has a colon, and cannot log in')
        try:
            stream = open_transport(address, _CONNECT_TIMEOUT, on_wait).stream
        except ConnectError as error:
            raise MqttError(str(error)) from None
        self._client = client = _Client(stream, version, name)
        try:
            # RabbitMQ takes the virtual host from there.
            client.username_pw_set(f"{address.vhost}:{address.username}", address.password)
            client.on_connect = self._on_connect
            client.on_publish = self._on_publish
            client.on_disconnect = self._on_disconnect
            client.connect(address.host, address.port, _KEEPALIVE)
            self._await_connack(on_wait)
        except BaseException:
            self.drop()
            raise

    def publish(self, message: RetainedMessage) -> int:
        """Write a message; its number among the answers.

        Raises MqttError; ValueError for one that MQTT cannot have.
        """
        if len(message.body) > self._largest:
            raise ValueError(f"the broker takes {self._largest} bytes at most")
        properties = _properties(message) if self._version == MQTT_5 else None
        info = self._client.publish(
            message.topic, message.body, qos=1, retain=True, properties=properties
        )
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
            self._lose(info.rc)
        return info.mid

    def look(self, timeout: float) -> list[Answer]:
        """Wait so many seconds at most for something to happen; what was answered.

        Raises MqttError.
        """
        stream = self._client.stream
        if self._client.socket() is None:
            self._lose(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        poll = select.poll()
        poll.register(stream, select.POLLIN | (select.POLLOUT * self._client.want_write()))
        # TLS may have read more than it has handed over.
        pending = getattr(stream, "pending", lambda: 0)()
        try:
            happened = poll.poll(0 if pending else timeout * 1000)
            outcome = MQTTErrorCode.MQTT_ERR_SUCCESS
            if pending or any(event & ~select.POLLOUT for _, event in happened):
                outcome = self._client.loop_read()
            if not outcome and self._client.want_write():
                outcome = self._client.loop_write()
            outcome = outcome or self._client.loop_misc()
        except Exception as error:
            # Whatever paho makes of what a peer sends.
            raise MqttError(f"not understood: {type(error).__name__}") from None
        answers, self._answers = self._answers, []
        if outcome and not answers:
            self._lose(outcome)
        return answers

    def close(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        self.drop()

    def drop(self) -> None:
        """End it without a word."""
        self._client.on_disconnect = None
        self._client.stream.close()

    def _await_connack(self, on_wait: Callable[[], None]) -> None:
        deadline = time.monotonic() + _CONNECT_TIMEOUT
        while self._connected is None:
            if time.monotonic() > deadline:
                raise MqttError("no answer to CONNECT in time", answered=False)
            on_wait()
            try:
                self.look(_SLICE)
            except MqttError as error:
                if self._connected is None:
                    raise MqttError(str(error), answered=False) from None
                break
        if self._connected.is_failure:
            raise MqttError(
                f"the broker refuses the login: {self._connected}",
                answered=self._connected.value != _UNSUPPORTED_VERSION,
            )

    def _lose(self, outcome: MQTTErrorCode) -> None:
        text = self._ended or outcome.name.removeprefix("MQTT_ERR_").replace("_", " ").lower()
        raise MqttError(text, closed=self._ended_by_broker)

    def _on_connect(
        self,
        _client: Client,
        _data: Any,
        _flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._connected = reason
        # Room for the topic and the properties.
        largest = getattr(properties, "MaximumPacketSize", None)
        if largest is not None:
            self._largest = max(largest - 1024, 0)

    def _on_publish(
        self,
        _client: Client,
        _data: Any,
        number: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        refusal = f"the broker says: {reason}" if reason.is_failure else None
        self._answers.append(Answer(number, refusal, reason.value == _QUOTA_EXCEEDED))

    def _on_disconnect(
        self,
        _client: Client,
        _data: Any,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        said = flags.is_disconnect_packet_from_server
        silent = str(reason) == "Keep alive timeout"
        self._ended_by_broker = said or not silent
        if said:
            self._ended = f"the broker closed the connection: {reason}"
        else:
            self._ended = "no answer to a ping" if silent else "the broker closed the connection"


class _Client(Client):
    """paho's, on a socket that is connected already."""

    def __init__(self, stream: socket, version: MQTTProtocolVersion, name: str) -> None:
        self.stream = stream
        super().__init__(
            CallbackAPIVersion.VERSION2,
            # Of its own, so that RabbitMQ does not take it for one that it still has. It takes more
            # than the 23 characters that any broker does (MQTT 5, section 3.1.3.1).
            f"{name} {secrets.token_hex(6)}",
            protocol=version,
            reconnect_on_failure=False,
        )
        # The relay has a window of its own.
        self.max_inflight_messages_set(0)

    def _create_socket(self) -> socket:
        return self.stream


def _properties(message: RetainedMessage) -> Properties:
    """Raises ValueError for what MQTT cannot have."""
    found = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    try:
        if message.content_type is not None:
            found.ContentType = message.content_type
        if message.correlation_id is not None:
            found.CorrelationData = message.correlation_id.encode()
        if message.response_topic is not None:
            found.ResponseTopic = message.response_topic
        if message.expiry is not None:
            found.MessageExpiryInterval = message.expiry
        for pair in message.user_properties:
            found.UserProperty = pair
        # What cannot be written is not known before.
        found.pack()  # type: ignore[no-untyped-call]
    except (MQTTException, struct.error) as error:
        raise ValueError(str(error)) from None
    return found
