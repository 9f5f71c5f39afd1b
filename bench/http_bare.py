"""The least that can take POSTs and publish: httptools without uvicorn, the gateway's publishing.

As a program: python -m bench.http_bare PORT AMQP_PORT.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import httptools
import uvloop

from pg_amqp_daemon.gateway.lane import Opener
from pg_amqp_daemon.gateway.login import Login
from pg_amqp_daemon.gateway.logins import Logins
from pg_amqp_daemon.gateway.paths import place_of
from pg_amqp_daemon.gateway.posted import Posted
from pg_amqp_daemon.gateway.request import Head, message_of
from pg_amqp_daemon.gateway.tally import Tally
from pg_amqp_py.wire.address import Address

_ANSWER = b"HTTP/1.1 204 No Content\r\nx-message-id: %b\r\n\r\n"
_FORM = Head(content_type=b"application/x-www-form-urlencoded")


class _Protocol(asyncio.Protocol):
    """Believes that every request is a good one of guest's."""

    def __init__(self, logins: Logins) -> None:
        self._logins = logins
        self._parser = httptools.HttpRequestParser(self)
        self._url = self._body = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is no subclass of it.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        place = place_of(self._url)
        assert place is not None
        message = message_of(place, b"", _FORM, self._body)
        publisher = self._logins.publisher(Login(place.vhost, "guest", "guest"), None)
        publisher.post(message, self._told)

    def _told(self, posted: Posted) -> None:
        assert posted.answer is None, posted.answer
        if not self._transport.is_closing():
            self._transport.write(_ANSWER % posted.message.id.encode())


async def _serve(port: int, amqp_port: int) -> None:
    def addresses(login: Login) -> list[Address]:
        return [Address("127.0.0.1", amqp_port, login.vhost, login.user, login.password)]

    logins = Logins(Opener("bench"), addresses, Tally())
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: _Protocol(logins), "127.0.0.1", port)
    while True:
        await asyncio.sleep(0.25)
        logins.tick(time.monotonic())


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
