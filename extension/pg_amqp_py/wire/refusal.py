"""Which messages a broker speaks of when it closes the channel: it names no delivery tag."""

from __future__ import annotations

import re
from collections.abc import Callable

from pg_amqp_py.wire.message import Message

Matcher = Callable[[Message], bool]


def cause(text: str) -> tuple[Matcher, bool]:
    """Which messages the broker's text speaks of, and whether it names their routing key.

    The texts are those of RabbitMQ 3.10 to 4.x; no message matches any other text.
    """
    size = re.search(r"message size \d+ is larger than (?:configured )?max size (\d+)", text)
    if size:
        limit = int(size[1])
        return (lambda m: len(m.body) > limit), False
    if "user_id property set to '" in text:
        phrase = "user_id property set to '{}' but authenticated"
        return (lambda m: _quotes(text, phrase.format(m.envelope.user_id))), False
    if "topic '" in text:
        phrase = "topic '{}' in exchange '{}' in vhost"
        return (
            lambda m: _quotes(text, phrase.format(m.envelope.routing_key, m.envelope.exchange))
        ), True
    if text.startswith("NOT_FOUND"):
        # Of the default exchange this is never said, and it may be the name of another.
        return (lambda m: _quotes(text, f"exchange '{m.envelope.exchange}' in vhost")), False
    # The default exchange has no name but this one.
    return (
        lambda m: _quotes(text, f"exchange '{m.envelope.exchange or 'amq.default'}' in vhost")
    ), False


def _quotes(text: str, phrase: str) -> bool:
    """Whether the broker says this, as far as it can be seen: it cuts its texts to 255 bytes."""
    if phrase in text:
        return True
    # Dots stand for what is missing, and the cut may be within a character.
    shown = text.removesuffix("...").rstrip("\ufffd")
    begins = shown.find(phrase[: phrase.index("'") + 1])
    return text.endswith("...") and begins >= 0 and phrase.startswith(shown[begins:])
