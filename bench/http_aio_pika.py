"""What people write: uvicorn and aio-pika with confirms.

As a program: python -m bench.http_aio_pika PORT AMQP_PORT.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, unquote

import aio_pika
import uvicorn

Scope = MutableMapping[str, Any]


class App:
    """Publishes the form's body on one channel, and waits for the confirm."""

    def __init__(self, amqp_port: int) -> None:
        self._amqp_port = amqp_port
        self._exchanges: dict[str, aio_pika.abc.AbstractExchange] = {}
        self._channel: aio_pika.abc.AbstractChannel | None = None

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer a request."""
        if self._channel is None:
            connection = await aio_pika.connect(host="127.0.0.1", port=self._amqp_port)
            self._channel = await connection.channel(publisher_confirms=True)
        body, more = b"", True
        while more:
            event = await receive()
            body += event["body"]
            more = event["more_body"]
        fields = {name: values[-1] for name, values in parse_qs(body.decode()).items()}
        _, _, name, key = (unquote(part) for part in scope["raw_path"].decode().split("/"))
        if name not in self._exchanges:
            self._exchanges[name] = await self._channel.get_exchange(name, ensure=False)
        message = aio_pika.Message(
            fields["body"].encode(),
            content_type=fields["content_type"],
            delivery_mode=aio_pika.DeliveryMode(int(fields["delivery_mode"])),
            app_id=fields["app_id"],
        )
        await self._exchanges[name].publish(message, key)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    uvicorn.run(
        App(int(sys.argv[2])),
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
