"""A client's connection: uvicorn's, with the limits that it does not have."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop, Transport
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from pg_amqp_daemon.gateway.problem import MEDIA_TYPE, Problem
from pg_amqp_daemon.gateway.tally import Tally

_SLOWEST = 30.0
"""Seconds for the headers, and for each megabyte of a body."""
_MEGABYTE = 1 << 20
_LARGEST_HEAD = 1 << 16
"""Bytes of all headers, and of what chunks bring beside the body."""
_MOST_HEADERS = 100
_LONGEST_URL = 1 << 14
_MOST_PIPELINED = 100
"""Requests that wait for the answers to those before them."""
MOST_CONNECTIONS = 4096


class Protocol(HttpToolsProtocol):
    """One connection. `check` is to be called about once a second."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
        *,
        tally: Tally,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._patient = False
        """Whether the time that a body may take begins again with each piece of it."""
        self._tally = tally
        self._in_head = True
        """Whether headers are waited for; not between two requests."""
        self._in_message = False
        self._head_size = 0
        self._header_count = 0
        self._body_size = 0
        self._since = time.monotonic()
        """When what is waited for began."""
        self._stuck_since: float | None = None
        """When the client was last seen to take nothing of an answer."""
        self._closing_since: float | None = None
        self._last = False
        """Whether no request is answered after the one that comes."""
        self._running: RequestResponseCycle | None = None
        self._deaf = False
        """Whether nothing more is read."""

    # -- what the loop calls -----------------------------------------------------------------

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._refuse(Problem(503, "not published: too many connections"))

    def data_received(self, data: bytes) -> None:
        """Take in what the client has sent."""
        self._unset_keepalive_if_required()
        if self._closing_since is not None or self._deaf:
            return
        if not self._in_message:
            self._begin()
        if self._patient:
            self._since = time.monotonic()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # We speak nothing else, and httptools reads no further.
            self._finish()
        except httptools.HttpParserError as error:
            problem = getattr(error, "__context__", None)
            self._stop(problem if isinstance(problem, Problem) else Problem(400, "no valid HTTP"))
        else:
            if self._in_head and self._in_message:
                self._head_size += len(data)
                if self._head_size > _LARGEST_HEAD:
                    self._stop(_head_too_large())

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more: perhaps it waits for the answer."""
        if self.scheme == "https":
            return None
        if self._in_message:
            self._stop(Problem(400, "the request is cut short"))
        else:
            self._finish()
        return True

    def shutdown(self) -> None:
        """Answer what is under way, and no more."""
        latest = self._latest()
        if self._in_message:
            # on_headers_complete() looks, if it was not there yet.
            self._last = True
            if not self._in_head:
                self.cycle.keep_alive = False
        elif latest is not None:
            latest.keep_alive = False
        else:
            self._close()

    # -- what httptools calls ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.pipeline) >= _MOST_PIPELINED:
            # A piece of what is read may hold thousands, each a hundred times as large in memory.
            self._in_head = True
            raise Problem(503, "not published: too many requests on one connection")
        super().on_message_begin()
        self._begin()
        self._in_message = True

    def on_url(self, url: bytes) -> None:
        """A piece of the path with its query."""
        super().on_url(url)
        if len(self.url) > _LONGEST_URL:
            raise Problem(431, f"the path is longer than {_LONGEST_URL} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or what a chunked body has as such behind it."""
        self._header_count += 1
        self._head_size += len(name) + len(value)
        if self._header_count > _MOST_HEADERS or self._head_size > _LARGEST_HEAD:
            raise _head_too_large()
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        if self.parser.should_upgrade() and _has_body(self.headers):
            # httptools would pass over the body.
            raise Problem(400, "a request with a body is not taken with Upgrade")
        super().on_headers_complete()
        self._in_head = False
        self._since = time.monotonic()
        self.scope["connection"] = self  # type: ignore[typeddict-unknown-key]
        if self._last:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_size += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self._in_message = False
        super().on_message_complete()

    # -- limits ------------------------------------------------------------------------------

    def wait_for_pieces(self) -> None:
        """Let the body that comes take any time, as long as pieces of it come."""
        if not self._patient:
            self._patient, self._since = True, time.monotonic()

    def check(self, now: float) -> None:
        """End what takes too long."""
        if self._closing_since is not None:
            if now - self._closing_since > _SLOWEST:
                self.transport.abort()
        elif self.flow.write_paused:
            self._stuck_since = self._stuck_since or now
            if now - self._stuck_since > _SLOWEST:
                self.transport.abort()
        elif self.flow.read_paused:
            # It is us who take nothing.
            self._stuck_since, self._since = None, now
        else:
            self._stuck_since = None
            if (self._in_message or self._in_head) and now - self._since > self._allowed():
                self._stop(Problem(408, f"no whole request within {_SLOWEST:g} seconds"))

    def _allowed(self) -> float:
        return _SLOWEST * (1 + (0 if self._patient else self._body_size / _MEGABYTE))

    def _begin(self) -> None:
        self._in_head, self._patient = True, False
        self._head_size = self._header_count = self._body_size = 0
        self._since = time.monotonic()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _latest(self) -> RequestResponseCycle | None:
        """The last request that is still to be answered."""
        if self.pipeline:
            return self.pipeline[0][0]
        running = self._running
        return None if running is None or running.response_complete else running

    def _finish(self) -> None:
        """Read no more, and close when all that is there is answered."""
        self._deaf = True
        latest = self._latest()
        if latest is None:
            self._close()
        else:
            self.flow.pause_reading()
            latest.keep_alive = False

    def _stop(self, problem: Problem) -> None:
        """Answer that what comes is no request, or comes too slowly."""
        cycle = self.cycle
        if self._in_head or cycle is None:
            # An answer to what came before must come before this one, which is left out then.
            if self._latest() is None:
                self._refuse(problem)
            else:
                self._finish()
        elif self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
            self._finish()
        elif cycle.response_started:
            self.transport.abort()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self._refuse(problem)

    def _refuse(self, problem: Problem) -> None:
        self._tally.responses[problem.status] += 1
        body = problem.body()
        head: Iterable[bytes] = (
            b"HTTP/1.1 %d %b" % (problem.status, HTTPStatus(problem.status).phrase.encode()),
            b"content-type: " + MEDIA_TYPE,
            b"content-length: %d" % len(body),
            b"connection: close",
            b"",
            body,
        )
        self.transport.write(b"\r\n".join(head))
        self._close()

    def _close(self) -> None:
        self._closing_since = time.monotonic()
        self.transport.close()


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 "))
        for name, value in headers
    )


def _head_too_large() -> Problem:
    return Problem(431, f"more than {_MOST_HEADERS} headers, or {_LARGEST_HEAD} bytes of them")
