"""Why a broker would not take messages, and which ones: it names no delivery tag."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pg_amqp_py.wire.message import Message

    Matcher = Callable[[Message], bool]


class Cause:
    """Why a message was refused or returned, and where it was going. Equal ones can be counted."""

    def __init__(
        self, exchange: str, routing_key: str | None, text: str, *, nacked: bool = False
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        """None where the cause concerns the exchange rather than one routing key."""
        self.text = text
        """The broker's words."""
        self.nacked = nacked
        """Basic.Nack: the broker could not take it just then; else it will not have it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cause) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.exchange, self.routing_key, self.text))

    @property
    def place(self) -> str:
        """Exchange and routing key, for an error message."""
        key = "" if self.routing_key is None else f' with routing key "{self.routing_key}"'
        return (f'exchange "{self.exchange}"' if self.exchange else "the default exchange") + key


def blamed_by(text: str) -> tuple[Matcher, bool]:
    """Which messages the broker's text speaks of, and whether it names their routing key.

    The texts are those of RabbitMQ 3.10 to 4.x; no message matches any other text.
    """
    # Here, because a session's first publish() shall not wait for it.
    import re

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
