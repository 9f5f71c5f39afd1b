"""What a broker that speaks MQTT 5 may answer; RabbitMQ does from 3.13 on, so a peer stands in."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pg_amqp_daemon.relay.mqtt_connection import (
    MQTT_3,
    MQTT_5,
    Answer,
    MqttConnection,
    MqttError,
    _properties,
)
from pg_amqp_daemon.relay.retained_message import RetainedMessage
from pg_amqp_py.wire.address import Address
from support.patience import LIMIT

MESSAGE = RetainedMessage(1, True, "dev.7", None, None, None, None, "id", b"x")
WELCOME = bytes([0x20, 3, 0, 0, 0])


def puback(reason: int) -> Callable[[bytes], bytes]:
    """Answers a message with this reason."""
    return lambda number: bytes([0x40, 4, *number, reason, 0])


@contextmanager
def peer(welcome: bytes, *answers: Callable[[bytes], bytes]) -> Iterator[Address]:
    """Somebody who answers CONNECT and then each message so, and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(server, welcome, answers), daemon=True)
        thread.start()
        yield Address("127.0.0.1", server.getsockname()[1], "/", "guest", "guest")
        thread.join(LIMIT)


def _serve(
    server: socket.socket, welcome: bytes, answers: tuple[Callable[[bytes], bytes], ...]
) -> None:
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as stream:
        _packet(stream.read)
        connection.sendall(welcome)
        for answer in answers:
            packet = _packet(stream.read)
            (length,) = struct.unpack("!H", packet[:2])
            connection.sendall(answer(packet[2 + length : 4 + length]))


def _packet(read: Callable[[int], bytes]) -> bytes:
    """The next one, without its head; all are short."""
    return read(read(2)[1])


def connect(address: Address) -> MqttConnection:
    return MqttConnection(address, MQTT_5, "test", lambda: None)


def ask(connection: MqttConnection, message: RetainedMessage = MESSAGE) -> Answer:
    """Publish a message, and wait for the answer."""
    number = connection.publish(message)
    while True:
        for answer in connection.look(0.1):
            assert answer.number == number
            return answer


def test_what_is_taken_and_what_is_not() -> None:
    answers = [puback(reason) for reason in (0x00, 0x10, 0x87, 0x97, 0x83)]
    with peer(WELCOME, *answers) as address:
        connection = connect(address)
        found = [ask(connection)[1:] for _ in answers]
        connection.drop()
    assert found == [
        (None, False),
        # Nobody has subscribed: it is taken all the same.
        (None, False),
        ("the broker says: Not authorized", False),
        ("the broker says: Quota exceeded", True),
        ("the broker says: Implementation specific error", False),
    ]


def test_a_goodbye_says_why() -> None:
    with peer(WELCOME, lambda _: bytes([0xE0, 2, 0x95, 0])) as address:
        connection = connect(address)
        with pytest.raises(MqttError) as caught:
            ask(connection)
        connection.drop()
    assert str(caught.value) == "the broker closed the connection: Packet too large"
    assert caught.value.closed


def test_what_is_larger_than_the_broker_takes_is_not_written() -> None:
    welcome = bytes([0x20, 8, 0, 0, 5, 0x27, *struct.pack("!I", 2024)])
    with peer(welcome, puback(0)) as address:
        connection = connect(address)
        with pytest.raises(ValueError, match="the broker takes 1000 bytes at most"):
            connection.publish(MESSAGE._replace(body=b"x" * 1001))
        assert ask(connection).refusal is None
        connection.drop()


@pytest.mark.parametrize(
    ("welcome", "words", "answered"),
    [
        (bytes([0x20, 3, 0, 0x86, 0]), "refuses the login: Bad user name or password", True),
        (bytes([0x20, 3, 0, 0x87, 0]), "refuses the login: Not authorized", True),
        # These may speak the version before.
        (bytes([0x20, 3, 0, 0x84, 0]), "Unsupported protocol version", False),
        (bytes([0x20, 2, 0, 1]), "Unsupported protocol version", False),
        (b"", "the broker closed the connection", False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "", False),
    ],
)
def test_what_connect_is_answered(welcome: bytes, words: str, answered: bool) -> None:
    with peer(welcome) as address, pytest.raises(MqttError) as caught:
        connect(address)
    assert words in str(caught.value)
    assert caught.value.answered == answered


def test_the_version_before_has_no_properties() -> None:
    with peer(bytes([0x20, 2, 0, 0]), lambda number: bytes([0x40, 2, *number])) as address:
        connection = MqttConnection(address, MQTT_3, "test", lambda: None)
        assert ask(connection, MESSAGE._replace(headers='{"a": "b"}')).refusal is None
        connection.drop()


def test_who_waits_may_be_told_to_stop() -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1], "/", "guest", "guest")
        with pytest.raises(StopError):
            MqttConnection(address, MQTT_5, "test", stop)


# ---- Properties ----


def test_what_a_message_has_in_mqtt_5() -> None:
    found = _properties(
        MESSAGE._replace(
            content_type="text/plain",
            correlation_id="c",
            expiration="1500",
            headers='{"x-reply-to-topic": "answers.7", "a": 1, "b": "ü"}',
        )
    )
    assert found.json() == {  # type: ignore[no-untyped-call]
        "ContentType": "text/plain",
        "CorrelationData": "63",
        "MessageExpiryInterval": 2,
        "ResponseTopic": "answers/7",
        "UserProperty": [("a", "1"), ("b", "ü")],
    }
    assert _properties(MESSAGE).json() == {}  # type: ignore[no-untyped-call]


def test_what_mqtt_cannot_have_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"."):
        _properties(MESSAGE._replace(headers='{"a": "%s"}' % ("x" * 70_000)))
    with pytest.raises(ValueError, match=r"."):
        _properties(MESSAGE._replace(content_type="\udcff"))
