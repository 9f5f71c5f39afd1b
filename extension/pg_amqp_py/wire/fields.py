"""What a message is but for its body: its fields, and the position of each by name.

This is the one list of them. Their order is that of the parameters of amqp.publish() and of the
columns of amqp.outbox: what a message is goes as a plain tuple from the SQL call to the encoder,
because anything with named fields would cost as much as encoding. message.Envelope gives types,
units and limits. CONTRIBUTING.md says where a new field goes; tests/wire/test_fields.py finds
where it was forgotten.
"""

from __future__ import annotations

FIELDS = (
    "exchange",
    "routing_key",
    "delivery_mode",
    "content_type",
    "reply_to",
    "correlation_id",
    "mandatory",
    "headers",
    "content_encoding",
    "priority",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
)
EXCHANGE = FIELDS.index("exchange")
ROUTING_KEY = FIELDS.index("routing_key")
DELIVERY_MODE = FIELDS.index("delivery_mode")
MANDATORY = FIELDS.index("mandatory")
HEADERS = FIELDS.index("headers")
CORRELATION_ID = FIELDS.index("correlation_id")
MESSAGE_ID = FIELDS.index("message_id")
TIMESTAMP = FIELDS.index("timestamp")
PLACE = slice(EXCHANGE, ROUTING_KEY + 1)
"""Exchange and routing key, which are neighbours."""
_BEHIND_PLACE = slice(PLACE.stop, None)


def with_field(fields: tuple[object, ...], position: int, value: object) -> tuple[object, ...]:
    """The same fields, but for one of them."""
    changed = list(fields)
    changed[position] = value
    return tuple(changed)


def other_fields(**given: object) -> tuple[object, ...]:
    """All fields behind exchange and routing key, in order; None for what is not given."""
    return tuple(given.get(name) for name in FIELDS[_BEHIND_PLACE])
