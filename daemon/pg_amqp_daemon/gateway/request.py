"""From a request to the message it posts: pure functions, no socket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pg_amqp_daemon.gateway import form, management
from pg_amqp_daemon.gateway.message import Message
from pg_amqp_daemon.gateway.paths import Place
from pg_amqp_daemon.gateway.problem import Problem, invalid
from pg_amqp_daemon.gateway.properties import fields_of, from_pairs

NDJSON = b"application/x-ndjson"


class Head(NamedTuple):
    """What is looked at of a request's headers."""

    authorization: bytes | None = None
    content_type: bytes | None = None
    content_encoding: bytes | None = None
    content_length: bytes | None = None
    transfer_encoding: bytes | None = None
    origin: bytes | None = None

    @property
    def media_type(self) -> bytes:
        """The content type without its parameters."""
        return (self.content_type or b"").partition(b";")[0].strip().lower()

    @property
    def length(self) -> int | None:
        """How many bytes of body are announced; None if they come in chunks, or none do."""
        return None if self.content_length is None else int(self.content_length)


_LOOKED_AT = {field.replace("_", "-").encode(): field for field in Head._fields}


def head_of(headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Read the headers of a request, whose names are in lower case."""
    return Head(**{_LOOKED_AT[name]: value for name, value in headers if name in _LOOKED_AT})


def message_of(place: Place, query: bytes, head: Head, body: bytes) -> Message:
    """The one message that is posted. Raises Problem."""
    if place.kind == "management":
        return management.one(place.exchange, body)
    media_type = head.media_type
    if media_type == form.URLENCODED:
        return _of_form(place, query, head, form.urlencoded(body))
    if media_type == form.MULTIPART:
        return _of_form(place, query, head, form.multipart(head.content_type or b"", body))
    pairs = form.urlencoded(query)
    if not body and not media_type and any(name == b"body" for name, _ in pairs):
        # statelessd read all fields from the query, too.
        return _of_form(place, query, head, [])
    values, _ = from_pairs(pairs)
    if head.content_type is not None:
        values.setdefault("content_type", _header_text("content_type", head.content_type))
    if head.content_encoding is not None:
        values.setdefault(
            "content_encoding", _header_text("content_encoding", head.content_encoding)
        )
    return Message(fields_of(place.exchange, place.routing_key, values), body)


def _of_form(place: Place, query: bytes, head: Head, pairs: form.Pairs) -> Message:
    if head.content_encoding is not None and head.content_encoding.lower() != b"identity":
        raise Problem(415, "a form is not taken with a Content-Encoding")
    values, body = from_pairs([*form.urlencoded(query), *pairs])
    if body is None:
        raise Problem(400, "the field body is missing", field="body")
    return Message(fields_of(place.exchange, place.routing_key, values), body)


def _header_text(field: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid(field, "not UTF-8") from None
