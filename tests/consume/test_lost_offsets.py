"""A stream that has dropped what was not read yet."""

from __future__ import annotations

import time

import pika
import pytest

from servers.processes import wait_for
from servers.relay import ConsumeProcess
from support.consumers import Desk
from support.fix_servers import VHost
from support.patience import LIMIT


@pytest.mark.slow
def test_what_a_stream_has_dropped_is_told(database: str, consumers: Desk, broker: VHost) -> None:
    small = {"x-max-length-bytes": 200_000, "x-stream-max-segment-size-bytes": 50_000}
    consumer = consumers(queue_type="stream", arguments=small, stream_offset="first", batch_size=10)
    consumer.publish("first")
    with ConsumeProcess(database) as daemon:
        consumer.wait_for_stored(1)
        daemon.terminate()
        with pika.BlockingConnection(pika.URLParameters(broker.url())) as connection:
            channel = connection.channel()
            channel.confirm_delivery()

            def first_offset() -> int:
                for _ in range(100):
                    channel.basic_publish("", consumer.queue, b"x" * 5000)
                return find_first_offset(broker, consumer.queue)

            first = wait_for(lambda: first_offset() > 1 and first_offset(), LIMIT, "a loss")
            assert first > 1
        daemon.start()
        lost = daemon.wait_for_event("messages are lost")
        assert lost["error"] == f"the stream has messages 1 to {lost['messages']} no more"
        consumer.wait_until(
            "it to be remembered", lambda status: status["last_error"] == lost["error"]
        )
        consumer.wait_until("no trouble", lambda status: status["trouble"] is None)


def find_first_offset(broker: VHost, queue: str) -> int:
    """The offset of the first message that a stream has."""
    with pika.BlockingConnection(pika.URLParameters(broker.url())) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        found: list[int] = []

        def take(_channel: object, method: object, properties: object, _body: bytes) -> None:
            headers = properties.headers  # type: ignore[attr-defined]
            found.append(headers["x-stream-offset"])

        channel.basic_consume(queue, take, arguments={"x-stream-offset": "first"})
        deadline = time.monotonic() + LIMIT
        while not found and time.monotonic() < deadline:
            connection.process_data_events(0.1)
        return found[0]
