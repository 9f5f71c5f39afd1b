"""A message that was received, as PL/Python makes an amqp.message of it: sql/inbox/types."""

from __future__ import annotations

import time
from typing import Any

from pg_amqp_py.backend.errors import (
    BAD_CHARACTER,
    PROTOCOL_VIOLATION,
    TIME_OUT_OF_RANGE,
    AMQPError,
)
from pg_amqp_py.wire.errors import MalformedError
from pg_amqp_py.wire.properties import DIRECT_REPLY_TO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pg_amqp_py.wire.request.requests import Reply

_QUEUE = str(DIRECT_REPLY_TO)


def as_message(broker_id: int, reply: Reply) -> tuple[Any, ...]:
    """The attributes of the type, in order. Raises AMQPError for what PostgreSQL cannot hold."""
    delivery, given = reply
    return (
        broker_id,
        _QUEUE,
        _text("exchange", delivery.exchange),
        _text("routing_key", delivery.routing_key),
        delivery.redelivered,
        *[
            value if value is None else _ATTRIBUTES.get(name, _text)(name, value)
            for name, value in zip(given._fields, given, strict=True)
        ],
        delivery.body,
        _now(),
        None,
    )


def _text(name: str, raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise AMQPError(
            f"{name} of the reply is no text",
            sqlstate=BAD_CHARACTER,
            detail="It is not UTF-8, or holds a NUL.",
        )
    return text


def _headers(_name: str, raw: bytes) -> str:
    # Here, because few replies have any.
    from pg_amqp_py.wire.consume.headers import headers_as_json

    try:
        text = headers_as_json(raw).decode()
    except MalformedError as error:
        raise AMQPError(
            "the headers of the reply are no AMQP",
            sqlstate=PROTOCOL_VIOLATION,
            detail=f"Reason: {error}.",
        ) from None
    if "\\udc" in text and _has_surrogates(text):
        raise AMQPError(
            "headers of the reply are no text",
            sqlstate=BAD_CHARACTER,
            detail="They are not UTF-8.",
        )
    return text


def _has_surrogates(json_text: str) -> bool:
    """Whether there are some, of which jsonb would say no more than that it is invalid JSON.

    What a header has of a backslash before `udc` is written with two.
    """
    import re

    return re.search(r"(?<!\\)(?:\\\\)*\\udc[89a-f]", json_text) is not None


def _timestamp(_name: str, seconds: int) -> str:
    try:
        return f"{_second(seconds)}+00"
    except (OverflowError, ValueError, OSError):
        raise AMQPError(
            "timestamp of the reply is out of range",
            sqlstate=TIME_OUT_OF_RANGE,
            detail=f"It is {seconds} seconds.",
        ) from None


def _now() -> str:
    now = time.time()
    return f"{_second(int(now))}.{int(now % 1 * 1e6):06d}+00"


def _second(seconds: int) -> str:
    # A form that every DateStyle reads.
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def _number(_name: str, value: int) -> int:
    return value


_ATTRIBUTES: dict[str, Callable[[str, Any], Any]] = {
    "headers": _headers,
    "delivery_mode": _number,
    "priority": _number,
    "timestamp": _timestamp,
}
"""What becomes of properties that are no text."""
