"""Many messages in one request, one on each line: posted as they come, answered in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pg_amqp_daemon.gateway import management
from pg_amqp_daemon.gateway.message import Message
from pg_amqp_daemon.gateway.posted import Posted
from pg_amqp_daemon.gateway.problem import MEDIA_TYPE, Problem
from pg_amqp_daemon.gateway.publisher import Publisher
from pg_amqp_daemon.gateway.request import NDJSON

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_MOST_LINES = 2000
"""Of one request, under way at a time."""
_MOST_BYTES = 1 << 22
_PUBLISHED = b'{"status":204}\n'
_STORED = b'{"status":202}\n'


class GoneError(Exception):
    """The client has left."""


class Share:
    """What all such requests of a process have under way together."""

    most_lines = 10_000
    most_bytes = 1 << 26

    def __init__(self) -> None:
        self.lines = 0
        self.bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether there is room for one line of each request alone."""
        return self.lines >= self.most_lines or self.bytes >= self.most_bytes

    def add(self, lines: int, size: int) -> None:
        """So much more is under way, or less."""
        self.lines += lines
        self.bytes += size


class _Line:
    """A line, and what became of its message."""

    __slots__ = ("answer", "message", "settled", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.message: Message | None = None
        self.answer: Problem | None = None
        self.settled = False

    def settle(self, answer: Problem | None) -> None:
        self.answer, self.settled = answer, True

    def text(self) -> bytes:
        if self.answer is None:
            return _PUBLISHED
        if self.answer.status == 202:
            return _STORED
        return self.answer.body(None if self.message is None else self.message.id)


class Many:
    """One request with many messages."""

    def __init__(
        self,
        publisher: Callable[[], Publisher],
        longest: int,
        receive: Receive,
        send: Send,
        store: Callable[[Message, Problem], Awaitable[Problem]],
        accepted: Callable[[], object],
        share: Share,
    ) -> None:
        self._current = publisher
        """Who publishes for the login now. Raises Problem."""
        self._publisher = publisher()
        self._accepted = accepted
        """Called when it is known that RabbitMQ lets the login in."""
        self._share = share
        self._longest = longest
        """Bytes of a line, at most."""
        self._store = store
        """Says what is answered to a message that RabbitMQ does not take now."""
        self._receive = receive
        self._send = send
        self._lines: deque[_Line] = deque()
        """Those that are not answered yet, in order."""
        self._bytes = 0
        """Of all these."""
        self._ended = False
        """Whether no more lines will come."""
        self._gone = False
        self._told = asyncio.Event()
        self._room = asyncio.Event()

    async def answer(self, *, collect: bool) -> int:
        """Answer, with all at once if the client cannot take it in pieces; the status."""
        if self._publisher.accepted:
            self._accepted()
        reading = asyncio.create_task(self._read())
        try:
            first = await self._first()
            if first is not None and first.answer is not None and first.answer.whole:
                return await self._refuse(first.answer)
            await self._tell(collect=collect)
            return 200
        finally:
            reading.cancel()
            self._share.add(-len(self._lines), -self._bytes)

    async def _first(self) -> _Line | None:
        """The first line, when it is answered; None if there are none."""
        while not (self._lines and self._lines[0].settled):
            if self._ended and not self._lines:
                if self._gone:
                    raise GoneError
                return None
            self._told.clear()
            await self._told.wait()
        return self._lines[0]

    async def _tell(self, *, collect: bool) -> None:
        headers = [(b"content-type", NDJSON)]
        if not collect:
            await self._begin(headers)
        parts = []
        while True:
            text = await self._answered()
            if collect:
                parts.append(text)
            elif text:
                await self._send({"type": "http.response.body", "body": text, "more_body": True})
            if self._ended and not self._lines:
                break
            if not text:
                self._told.clear()
                await self._told.wait()
        whole = b"".join(parts)
        if collect:
            await self._begin([*headers, (b"content-length", b"%d" % len(whole))])
        await self._send({"type": "http.response.body", "body": whole})

    async def _begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _refuse(self, problem: Problem) -> int:
        body = problem.body()
        headers = [
            *problem.headers,
            (b"content-type", MEDIA_TYPE),
            (b"content-length", b"%d" % len(body)),
        ]
        await self._send(
            {"type": "http.response.start", "status": problem.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": body})
        return problem.status

    async def _answered(self) -> bytes:
        """The answers to the first lines, as far as they are known."""
        parts = []
        while self._lines and self._lines[0].settled:
            line = self._lines.popleft()
            self._bytes -= line.size
            self._share.add(-1, -line.size)
            answer, message = line.answer, line.message
            if answer is not None and answer.status == 503 and message is not None:
                line.answer = await self._store(message, answer)
            parts.append(line.text())
        if parts:
            self._room.set()
        return b"".join(parts)

    # -- reading -----------------------------------------------------------------------------

    async def _read(self) -> None:
        rest = bytearray()
        more = True
        try:
            while more:
                event = await self._receive()
                if event["type"] != "http.request":
                    self._gone = True
                    return
                more = event["more_body"]
                rest += event["body"]
                if b"\n" in event["body"] or not more:
                    rest = await self._post_lines(rest, last=not more)
                if len(rest) > self._longest:
                    # Where the next one would begin is not known.
                    self._post(bytes(rest))
                    return
        finally:
            self._ended = True
            self._told.set()

    async def _post_lines(self, data: bytearray, *, last: bool) -> bytearray:
        """Post all whole lines; what is left of the data."""
        lines = bytes(data).split(b"\n")
        rest = b"" if last else lines.pop()
        for text in lines:
            while self._is_full:
                self._told.set()
                self._room.clear()
                await self._room.wait()
            if text.strip():
                self._post(text)
        return bytearray(rest)

    @property
    def _is_full(self) -> bool:
        """Whether the next line has to wait for an answer to an earlier one."""
        if len(self._lines) >= _MOST_LINES or self._bytes > _MOST_BYTES:
            return True
        return bool(self._lines) and self._share.is_full

    def _post(self, text: bytes) -> None:
        line = _Line(len(text))
        self._lines.append(line)
        self._bytes += line.size
        self._share.add(1, line.size)
        try:
            if len(text) > self._longest:
                raise Problem(413, f"the line is longer than {self._longest} bytes")
            line.message = message = management.line(text)
            if self._publisher.closed:
                # Nobody has needed it for a while, or its password is no longer the right one.
                self._publisher = self._current()
        except Problem as problem:
            line.settle(problem)
            self._told.set()
            return
        publisher = self._publisher

        def told(posted: Posted) -> None:
            if publisher.accepted:
                self._accepted()
            line.settle(posted.answer)
            self._told.set()

        publisher.post(message, told)
