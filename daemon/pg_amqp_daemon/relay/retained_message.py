"""A message that RabbitMQ is to keep for MQTT clients: a row of the outbox, as MQTT has it."""

from __future__ import annotations

import json
from typing import NamedTuple

_RESPONSE_TOPIC = "x-reply-to-topic"
"""The header in which RabbitMQ keeps a response topic, as a routing key."""


class RetainedMessage(NamedTuple):
    """One message, as amqp_inner.outbox_retained() gives it."""

    id: int
    is_due: bool
    """Whether it may be delivered now; else headers and body are missing."""
    routing_key: str
    content_type: str | None
    correlation_id: str | None
    headers: str | None
    """As JSON."""
    expiration: str | None
    """Milliseconds."""
    message_id: str
    body: bytes

    @property
    def topic(self) -> str:
        """Where it goes."""
        return self.routing_key.replace(".", "/")

    @property
    def response_topic(self) -> str | None:
        """Where an answer is to go."""
        found = self._headers().get(_RESPONSE_TOPIC)
        return found.replace(".", "/") if isinstance(found, str) else None

    @property
    def user_properties(self) -> list[tuple[str, str]]:
        """Headers as RabbitMQ gives them to clients of MQTT 5, and what it would drop as JSON."""
        return [
            (name, _text(value))
            for name, value in self._headers().items()
            if name != _RESPONSE_TOPIC
        ]

    @property
    def expiry(self) -> int | None:
        """After how many seconds it is of no use any more; a part of one counts as one."""
        return None if self.expiration is None else -(-int(self.expiration) // 1000)

    def _headers(self) -> dict[str, object]:
        return {} if self.headers is None else dict(json.loads(self.headers))


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
