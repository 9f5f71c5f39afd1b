"""Requests to a gateway, and what it answers."""

from __future__ import annotations

import http.client
import json
import re
import socket
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from support.patience import LIMIT

FORM = "application/x-www-form-urlencoded"
NDJSON = "application/x-ndjson"
GUEST = ("guest", "guest")

Login = tuple[str, str] | None


class Reply(NamedTuple):
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """The body as a line of JSON each."""
        return [json.loads(line) for line in self.body.splitlines()]


def basic(login: tuple[str, str]) -> str:
    """The value of Authorization."""
    return "Basic " + b64encode(":".join(login).encode()).decode()


def path_of(*names: str) -> str:
    """A path of these names, each percent-encoded."""
    return "/" + "/".join(quote(name, safe="") for name in names)


@dataclass
class Client:
    """Requests over one connection."""

    port: int
    login: Login = GUEST

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        login: Login = None,
    ) -> Reply:
        """Send a request as it is; a body in pieces goes out chunked."""
        login = login or self.login
        sent = {} if login is None else {"Authorization": basic(login)}
        self._connection.request(method, path, body, {**sent, **(headers or {})})
        with self._connection.getresponse() as answer:
            return Reply(answer.status, dict(answer.getheaders()), answer.read())

    def get(self, path: str) -> Reply:
        """GET."""
        return self.request("GET", path)

    def form(self, path: str, *, login: Login = None, **fields: Any) -> Reply:
        """POST a form."""
        body = urlencode({"body": "hi", **fields}).encode()
        return self.request("POST", path, body, {"Content-Type": FORM}, login=login)

    def lines(self, path: str, *lines: object, login: Login = None) -> Reply:
        """POST a line each; what is no text is written as JSON."""
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        body = "\n".join(texts).encode()
        return self.request("POST", path, body, {"Content-Type": NDJSON}, login=login)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def raw(port: int) -> Iterator[socket.socket]:
    """A connection to write anything to."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def statuses(received: bytes) -> list[int]:
    """The statuses of the answers in what was received."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", received)]


def request_text(
    path: str, body: bytes = b"body=hi", *headers: str, login: Login = GUEST, version: str = "1.1"
) -> bytes:
    """A POST of a form as it goes over the wire; headers that are given replace those it has."""
    given = {header.partition(":")[0].lower() for header in headers}
    usual = [f"Host: localhost\r\nContent-Type: {FORM}"]
    if not given & {"content-length", "transfer-encoding"}:
        usual.append(f"Content-Length: {len(body)}")
    if login is not None:
        usual.append(f"Authorization: {basic(login)}")
    head = "\r\n".join([f"POST {path} HTTP/{version}", *usual, *headers])
    return head.encode() + b"\r\n\r\n" + body
