"""Every property of a message, with a value to give and what arrives."""

from __future__ import annotations

PROPERTIES = [
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
]

# Every property with a value as amqp.publish() takes it, and as it arrives if that differs.
GIVEN: dict[str, object] = {
    "content_type": "text/plain; charset=utf-8",
    "content_encoding": "gzip",
    "headers": {"key": "value"},
    "delivery_mode": 2,
    "priority": 200,
    "correlation_id": "corrélation",
    "reply_to": "reply.to",
    "expiration": "600000",
    "message_id": "id-1",
    "timestamp": "2024-02-29 12:34:56.999+00",
    "type": "a.type",
    "user_id": "guest",
    "app_id": "ünïcode 😀",
}
ARRIVED = {**GIVEN, "timestamp": 1709210096}
