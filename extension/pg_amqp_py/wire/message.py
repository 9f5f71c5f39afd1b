"""A message and its AMQP properties, before any encoding."""

from __future__ import annotations

from typing import NamedTuple


class Envelope(NamedTuple):
    """All of a message but its body, as wire.fields lists it: Basic.Publish and the content header.

    None means that the property is not sent at all. Types, units and limits are those of
    AMQP 0-9-1, class basic (section 1.8 of the reference): short strings hold at most 255
    bytes of UTF-8.
    """

    exchange: str
    routing_key: str
    delivery_mode: int | None = None
    content_type: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    mandatory: bool = False
    headers: str | None = None
    """The header table as JSON text: text, because it must be hashable."""
    content_encoding: str | None = None
    priority: int | None = None
    expiration: str | None = None
    """Time to live in milliseconds, as a decimal string."""
    message_id: str | None = None
    timestamp: int | None = None
    """Seconds since 1970-01-01 UTC."""
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


class Message(NamedTuple):
    """A decoded message: what `amqp.pending()` shows."""

    envelope: Envelope
    body: bytes
