"""A login as a request brings it: RabbitMQ's own, by HTTP Basic (RFC 7617)."""

from __future__ import annotations

import binascii
import hashlib
import secrets
from base64 import b64decode
from typing import NamedTuple

from pg_amqp_daemon.gateway.problem import Problem

_CHALLENGE = ((b"www-authenticate", b'Basic realm="pg-amqp", charset="UTF-8"'),)
_LONGEST = 3500
"""Bytes of user and password. A frame has 4096 at most before more is agreed upon (AMQP 0-9-1,
section 4.2.3), and RabbitMQ lets whoever sends a larger one wait for seconds."""
_KEY = secrets.token_bytes(32)
"""Of this process: what is looked up by says nothing to anybody else."""


class Login(NamedTuple):
    """Who wants to publish, and where."""

    vhost: str
    user: str
    password: str

    @property
    def digest(self) -> bytes:
        """What it is known by, without its password."""
        text = f"{len(self.vhost)}:{len(self.user)}:{self.vhost}{self.user}{self.password}"
        return hashlib.blake2b(text.encode(), key=_KEY, digest_size=32).digest()

    def __repr__(self) -> str:
        # No message, and no traceback, shall show the password.
        return f"Login({self.user!r} at {self.vhost!r})"


def login_of(vhost: str, authorization: bytes | None) -> Login:
    """The login in an Authorization header. Raises Problem."""
    scheme, _, credentials = (authorization or b"").partition(b" ")
    if scheme.lower() != b"basic":
        raise unauthorized("a RabbitMQ login is needed, as HTTP Basic")
    try:
        text = b64decode(credentials.strip(), validate=True)
        user, colon, password = text.decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise unauthorized("the login is no Base64 of UTF-8") from None
    if not colon or "\0" in user or "\0" in password:
        # A NUL ends a field in SASL PLAIN.
        raise unauthorized("the login is not user:password")
    if len(text) > _LONGEST:
        raise unauthorized(f"the login is longer than {_LONGEST} bytes")
    return Login(vhost, user, password)


def unauthorized(why: str) -> Problem:
    """No such login."""
    return Problem(401, why, headers=_CHALLENGE, whole=True)
