"""Lines to an InfluxDB, over HTTP."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import re
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

from pg_amqp_daemon.consume.influxdb.message import Fault

_TIMEOUT = 10.0
"""Seconds for it to accept a connection, and for each part of its answer."""
_LARGEST_PLAIN = 2048
"""Bytes; what is larger is compressed."""
_LARGEST_ANSWER = 1 << 16
_LONGEST_WAIT = 3600.0
"""Seconds, whatever it asks for."""
_COMMENT = b"# a check\n"

_WRITTEN = 204
_REFUSED = 400, 422
_TOO_LARGE = 413


@dataclass(frozen=True)
class Row:
    """A row of amqp.influxdb."""

    url: str = field(repr=False)
    """http or https; it may have a login."""
    api: str = "v1"
    """v1 has a database, retention_policy, username and password, v2 org, bucket and token."""
    database: str | None = None
    retention_policy: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    org: str | None = None
    bucket: str | None = None
    token: str | None = field(default=None, repr=False)


class Unavailable(Exception):  # noqa: N818 - says how InfluxDB is
    """InfluxDB takes nothing now, and no line is at fault; all may be written again.

    `retry_after` is how many seconds it wants to be left alone; None if it does not say.
    """

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class _Answer(NamedTuple):
    status: int
    words: str
    retry_after: float | None


class InfluxDB:
    """A kept connection to where a row says. Used by one thread.

    Raises ValueError with a text for whoever wrote the row. No text has a password or token.
    """

    def __init__(self, row: Row) -> None:
        address = _parse(row.url)
        self._secure = address.secure
        self._host, self._port = address.host, address.port
        self._where = f"InfluxDB at {address.host}:{address.port}"
        self._headers = {"Content-Type": "text/plain; charset=utf-8"}
        username, password = row.username, row.password
        if username is None:
            username, password = address.username, address.password
        if row.api == "v1":
            path, parameters = "/write", {"db": _needed(row, "database")}
            if row.retention_policy:
                parameters["rp"] = row.retention_policy
            authorization = _basic(username, password)
        elif row.api == "v2":
            path = "/api/v2/write"
            parameters = {"org": _needed(row, "org"), "bucket": _needed(row, "bucket")}
            authorization = _token(_needed(row, "token"))
        else:
            raise ValueError(f'api: "v1" or "v2", not "{row.api}"')
        if authorization is not None:
            self._headers["Authorization"] = authorization
        self._secret = (authorization or "").rpartition(" ")[2]
        self._target = f"{address.path}{path}?{urlencode({**parameters, 'precision': 'ns'})}"
        self._connection: http.client.HTTPConnection | None = None

    def check(self) -> None:
        """Return if lines could be written now; nothing is. Raises Unavailable."""
        answer = self._post(_COMMENT)
        if answer.status != _WRITTEN:
            raise self._unavailable(answer)

    def write(self, lines: Sequence[bytes]) -> list[tuple[int, Fault]]:
        """Write the lines; the positions of those at fault, and why. All others are written.

        InfluxDB writes a part of what it refuses, and does not say which. So what it refuses is
        written again in halves: that changes nothing where each line has its time.

        Raises Unavailable.
        """
        if not lines:
            return []
        fault = self._refusal(lines)
        if fault is None:
            return []
        # Where nothing can be written at all, it is not because of the lines.
        self.check()
        return self._bisect(lines, 0, fault)

    def close(self) -> None:
        """Close the connection; the next write opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _bisect(self, lines: Sequence[bytes], first: int, fault: Fault) -> list[tuple[int, Fault]]:
        """The faults among lines that were refused together, the first of which is `first`."""
        if len(lines) == 1:
            return [(first, fault)]
        middle = len(lines) // 2
        faults = []
        for part, at in ((lines[:middle], first), (lines[middle:], first + middle)):
            found = self._refusal(part)
            if found is not None:
                faults += self._bisect(part, at, found)
        return faults

    def _refusal(self, lines: Sequence[bytes]) -> Fault | None:
        """Write the lines; None if all are written, else why not. Raises Unavailable."""
        answer = self._post(b"\n".join(lines))
        if answer.status == _WRITTEN:
            return None
        if answer.status == _TOO_LARGE:
            return Fault("54000", f"InfluxDB takes no line that large: {answer.words}")
        # A conflict of types is an error of the server's to some versions.
        if answer.status in _REFUSED or "field type conflict" in answer.words:
            return Fault("22000", f"InfluxDB: {answer.words}")
        raise self._unavailable(answer)

    def _post(self, body: bytes) -> _Answer:
        kept = self._connection is not None
        try:
            try:
                return self._ask(body)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                # One that it had closed, most likely, since nobody used it for a time.
                if not kept:
                    raise
                self.close()
                return self._ask(body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            words = self._without_secrets(_words(error))
            raise Unavailable(f"{self._where}: {words}") from None

    def _ask(self, body: bytes) -> _Answer:
        headers = self._headers
        if len(body) > _LARGEST_PLAIN:
            headers = {**headers, "Content-Encoding": "gzip"}
            body = gzip.compress(body, 1, mtime=0)
        if self._connection is None:
            self._connection = self._open()
        # It answers what is too large, and closes, before it has read all: the answer counts.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._connection.request("POST", self._target, body, headers)
        response = self._connection.getresponse()
        text = response.read(_LARGEST_ANSWER)
        if not response.isclosed():
            self.close()
        return _Answer(
            response.status,
            self._without_secrets(_said(text, response.reason)),
            _seconds(response.headers.get("Retry-After")),
        )

    def _open(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT)
        if self._secure:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=_TIMEOUT, context=ssl.create_default_context()
            )
        connection.connect()
        return connection

    def _unavailable(self, answer: _Answer) -> Unavailable:
        return Unavailable(
            f"{self._where} answers {answer.status}: {answer.words}", answer.retry_after
        )

    def _without_secrets(self, text: str) -> str:
        """What a peer says, should it repeat what it was sent."""
        return text.replace(self._secret, "***") if self._secret else text


class _Address(NamedTuple):
    secure: bool
    host: str
    port: int
    path: str
    username: str | None
    password: str | None


def _parse(url: str) -> _Address:
    """Raises ValueError, which never repeats the URL: it may have a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("url: it is none; in a login, percent-encode what is no letter") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError('url: it must be like "http://influx.example:8086"')
    if parts.query or parts.fragment:
        raise ValueError("url: it must have no query and no fragment")
    if not re.fullmatch(r"[!-~]*", parts.path + parts.hostname):
        raise ValueError("url: percent-encode what is not ASCII, and spaces")
    secure = parts.scheme == "https"
    return _Address(
        secure,
        parts.hostname,
        port or (443 if secure else 80),
        parts.path.rstrip("/"),
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
    )


def _needed(row: Row, column: str) -> str:
    value: str | None = getattr(row, column)
    if not value:
        raise ValueError(f'{column}: api "{row.api}" needs it')
    return value


def _basic(username: str | None, password: str | None) -> str | None:
    if username is None:
        return None
    if ":" in username:
        raise ValueError('username: it cannot have a ":"')
    return "Basic " + base64.b64encode(f"{username}:{password or ''}".encode()).decode()


def _token(token: str) -> str:
    # http.client would repeat it in its error.
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("token: it must be of ASCII, without spaces")
    return f"Token {token}"


def _said(answer: bytes, reason: str) -> str:
    """What an answer says: {"error": ...} of v1, {"code": ..., "message": ...} of v2, or a page."""
    text = answer.decode(errors="replace").strip()
    with suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, Mapping):
            text = str(found.get("error") or found.get("message") or text)
    return text[:1000] or reason


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_TIMEOUT:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After, which is a number of seconds or a date."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST_WAIT)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    seconds = (until - datetime.now(UTC)).total_seconds() if until.tzinfo else 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)
