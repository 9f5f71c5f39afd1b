"""What a process counts, in plain numbers: telling others costs more, and happens now and then."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(slots=True)
class LoginCount:
    """Of one login."""

    published: int = 0
    """Messages that RabbitMQ has confirmed."""
    opened: int = 0
    """Connections to RabbitMQ."""
    closed: int = 0


class Tally:
    """The counts since the process began."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        """By method."""
        self.responses: Counter[int] = Counter()
        """By status."""
        self.seconds = 0.0
        """For how long requests were worked on, all in all."""
        self.stored = 0
        """Messages put into amqp.outbox."""
        self.logins: dict[tuple[str, str], LoginCount] = {}
        """By virtual host and user: of those whom RabbitMQ has let in."""

    def login(self, vhost: str, user: str) -> LoginCount:
        """The counts of a login, whatever its password."""
        return self.logins.setdefault((vhost, user), LoginCount())
