"""What is answered to requests: an ASGI callable, which routes by the path as it came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
import structlog

from pg_amqp_daemon.gateway.login import Login, login_of
from pg_amqp_daemon.gateway.logins import Logins
from pg_amqp_daemon.gateway.many import GoneError, Many, Receive, Send, Share
from pg_amqp_daemon.gateway.message import Message
from pg_amqp_daemon.gateway.paths import Place, place_of
from pg_amqp_daemon.gateway.posted import Posted
from pg_amqp_daemon.gateway.problem import MEDIA_TYPE, Headers, Problem, retry_after
from pg_amqp_daemon.gateway.request import NDJSON, Head, head_of, message_of
from pg_amqp_daemon.gateway.tally import Tally
from pg_amqp_daemon.runtime.logs import name_of

Scope = MutableMapping[str, Any]
View = Callable[[], Awaitable["Answer"]]

_JSON = b"application/json"
_ERRORS = {400: "bad_request", 401: "not_authorised", 403: "not_authorised"}
"""What management calls them."""
_MOST_REQUESTS = 4096
_MOST_BYTES = 1 << 28
"""Of all bodies that a process holds."""
_MOST_OF_STRANGERS = _MOST_BYTES // 4
"""Of those that are still to come, with logins that RabbitMQ has not let in yet."""
_SAFE = "".join(map(chr, range(33, 127))).replace("%", "")
_PREFLIGHT: Headers = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, Content-Encoding"),
    (b"access-control-max-age", b"600"),
)


class Answer(NamedTuple):
    """What is answered."""

    status: int
    headers: Headers = ()
    body: bytes = b""


class Limits(NamedTuple):
    """What the gateway was told."""

    max_body: int = 16 * 1024 * 1024
    """Bytes of a body, or of a line of many."""
    origins: frozenset[bytes] = frozenset()
    """Whose pages in browsers may use it."""


class App:
    """The requests of a process. `views` are what is read, by path."""

    def __init__(
        self,
        logins: Logins,
        tally: Tally,
        views: dict[bytes, View],
        limits: Limits,
        store: Callable[[Login, Message], Awaitable[Problem | None]],
        *,
        posts: bool = True,
    ) -> None:
        self._place_of = place_of if posts else _nowhere
        self._logins = logins
        self._tally = tally
        self._views = views
        self._limits = limits
        self._store = store
        """Puts a message into the outbox if it may: None if it is there."""
        self._open = 0
        """Requests that are being worked on."""
        self._held = 0
        """Bytes of their bodies."""
        self._held_for_strangers = 0
        self._share = Share()
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = time.monotonic()
        tally = self._tally
        tally.requests[scope["method"]] += 1
        self._open += 1
        try:
            await self._respond(scope, receive, send)
        except GoneError:
            pass
        except RuntimeError as error:
            # uvloop's, where a client has left.
            if "handler is closed" not in str(error):
                self._log.exception("request failed", error=name_of(error))
                raise
        except Exception as error:
            self._log.exception("request failed", error=name_of(error))
            raise
        finally:
            self._open -= 1
            tally.seconds += time.monotonic() - began

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = head_of(scope["headers"])
        try:
            answer = await self._answer(scope, head, receive, send)
        except Problem as problem:
            answer = _of(problem)
        if answer is None:
            return
        status, headers, body = answer
        self._tally.responses[status] += 1
        if head.origin is not None and self._limits.origins:
            headers += self._allowance(head.origin)
        if status != 204:
            headers += ((b"content-length", b"%d" % len(body)),)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(
        self, scope: Scope, head: Head, receive: Receive, send: Send
    ) -> Answer | None:
        """The answer; None if it is sent already."""
        method, path = scope["method"], scope["raw_path"]
        if method == "POST":
            place = self._place_of(path)
            if place is not None:
                try:
                    return await self._post(place, scope, head, receive, send)
                except Problem as problem:
                    return _of(problem, None, place)
        return await self._look(method, path, head)

    # -- what is read ------------------------------------------------------------------------

    async def _look(self, method: str, path: bytes, head: Head) -> Answer:
        view = self._views.get(path)
        place = self._place_of(path)
        if view is not None and method in ("GET", "HEAD"):
            return await view()
        allowed = ["GET", "HEAD"] if view is not None else []
        if place is not None:
            allowed.append("POST")
        if not allowed:
            raise Problem(404, "no such path")
        if method == "OPTIONS" and self._allowance(head.origin):
            return Answer(204, _PREFLIGHT)
        raise Problem(
            405,
            f"{method} is not allowed here",
            headers=((b"allow", ", ".join(allowed).encode()),),
        )

    def _allowance(self, origin: bytes | None) -> Headers:
        """The headers that let a page of this origin read the answer, if it may."""
        origins = self._limits.origins
        if origin is None or not ({origin, b"*"} & origins):
            return ()
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"X-Message-Id, Retry-After"),
            (b"vary", b"Origin"),
        )

    # -- what is posted ----------------------------------------------------------------------

    async def _post(
        self, place: Place, scope: Scope, head: Head, receive: Receive, send: Send
    ) -> Answer | None:
        if self._open > _MOST_REQUESTS or self._held > _MOST_BYTES:
            raise Problem(503, "not published: too many requests", headers=retry_after(1))
        login = login_of(place.vhost, head.authorization)
        if place.kind == "many":
            if head.media_type != NDJSON:
                raise Problem(415, "many messages are application/x-ndjson, one on each line")
            self._check_length(head, None)
            return await self._many(login, scope, receive, send)
        self._check_length(head, self._limits.max_body)
        body = await self._body(login, receive)
        try:
            message = message_of(place, scope["query_string"], head, body)
            answer, posted = await self._publish(login, message, scope["client"])
        finally:
            self._held -= len(body)
        if place.kind == "management" and (answer is None or _is_returned(posted)):
            return _routed(message, not _is_returned(posted))
        if answer is None:
            return Answer(204, (_id_header(message.id),))
        return _of(answer, message.id, place)

    def _check_length(self, head: Head, limit: int | None) -> None:
        if head.content_length is None:
            if head.transfer_encoding is None:
                raise Problem(411, "neither Content-Length nor chunked")
            if head.transfer_encoding.lower() != b"chunked":
                # It would be published as it is, compressed or whatever.
                raise Problem(400, "a Transfer-Encoding other than chunked")
        elif limit is not None and (head.length or 0) > limit:
            raise _too_large(limit)

    async def _body(self, login: Login, receive: Receive) -> bytes:
        """The whole body, counted among those that are held. Raises Problem and GoneError."""
        event = await receive()
        if event["type"] != "http.request":
            raise GoneError
        body: bytes = event["body"]
        if not event["more_body"] and len(body) <= self._limits.max_body:
            self._held += len(body)
            return body
        parts, size = [body], len(body)
        stranger = not self._logins.knows(login)
        self._hold(size, stranger)
        try:
            while event["more_body"]:
                if size > self._limits.max_body or self._holds_too_much(stranger):
                    break
                event = await receive()
                if event["type"] != "http.request":
                    raise GoneError
                parts.append(event["body"])
                size += len(event["body"])
                self._hold(len(event["body"]), stranger)
            if size > self._limits.max_body:
                raise _too_large(self._limits.max_body)
            if event["more_body"]:
                raise Problem(503, "not published: too many requests", headers=retry_after(1))
        except BaseException:
            self._hold(-size, stranger)
            raise
        if stranger:
            # From here on it takes as long as we want, and not as the client does.
            self._held_for_strangers -= size
        return b"".join(parts)

    def _hold(self, size: int, stranger: bool) -> None:
        self._held += size
        if stranger:
            self._held_for_strangers += size

    def _holds_too_much(self, stranger: bool) -> bool:
        return self._held > _MOST_BYTES or (
            stranger and self._held_for_strangers > _MOST_OF_STRANGERS
        )

    async def _publish(
        self, login: Login, message: Message, client: tuple[str, int] | None
    ) -> tuple[Problem | None, Posted | None]:
        """What became of a message: None if the broker has confirmed it."""
        try:
            publisher = self._logins.publisher(login, client and client[0])
        except Problem as problem:
            if problem.status != 503:
                raise
            return await self._stored(login, message, problem), None
        future = asyncio.get_running_loop().create_future()
        posted = publisher.post(message, _telling(future))
        await future
        answer = posted.answer
        if answer is not None and answer.status == 503:
            answer = await self._stored(login, message, answer)
        return answer, posted

    async def _stored(self, login: Login, message: Message, answer: Problem) -> Problem:
        """What is answered to a message that RabbitMQ does not take now."""
        refusal = await self._store(login, message)
        if refusal is not None:
            return answer if refusal.status == 503 else refusal
        self._tally.stored += 1
        return Problem(202, "waits in amqp.outbox")

    async def _many(
        self, login: Login, scope: Scope, receive: Receive, send: Send
    ) -> Answer | None:
        client = scope["client"]

        def accept() -> None:
            # Lines may come whenever there is something to tell, but not from everybody.
            scope["connection"].wait_for_pieces()

        many = Many(
            lambda: self._logins.publisher(login, client and client[0]),
            self._limits.max_body,
            receive,
            send,
            lambda message, answer: self._stored(login, message, answer),
            accept,
            self._share,
        )
        status = await many.answer(collect=scope["http_version"] == "1.0")
        self._tally.responses[status] += 1
        return None


def _nowhere(_path: bytes) -> Place | None:
    """Nothing can be posted."""
    return None


def _telling(future: asyncio.Future[Posted]) -> Callable[[Posted], None]:
    def tell(posted: Posted) -> None:
        if not future.done():
            future.set_result(posted)

    return tell


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body is larger than {limit} bytes")


def _id_header(message_id: str) -> tuple[bytes, bytes]:
    """The id to repeat a message by; what a header cannot hold is percent-encoded."""
    plain = message_id.isascii() and message_id.isprintable()
    if not plain or message_id != message_id.strip():
        message_id = quote(message_id, safe=_SAFE)
    return b"x-message-id", message_id.encode()


def _of(problem: Problem, message_id: str | None = None, place: Place | None = None) -> Answer:
    ids = () if message_id is None else (_id_header(message_id),)
    if problem.status == 202:
        return Answer(202, ids)
    members = problem.members(message_id)
    if place is not None and place.kind == "management":
        members["error"] = _ERRORS.get(problem.status, members["title"])
        members["reason"] = problem.detail
    return Answer(
        problem.status,
        (*problem.headers, (b"content-type", MEDIA_TYPE), *ids),
        orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE),
    )


def _is_returned(posted: Posted | None) -> bool:
    return posted is not None and posted.returned is not None


def _routed(message: Message, routed: bool) -> Answer:
    """As management answers."""
    body = orjson.dumps({"routed": routed})
    return Answer(200, ((b"content-type", _JSON), _id_header(message.id)), body)
