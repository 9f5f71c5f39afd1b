"""What the publisher's thread tells the worker's."""

from __future__ import annotations

from typing import NamedTuple

from pg_amqp_py.wire.waves import Undelivered


class Outcome(NamedTuple):
    """What became of messages, as far as it is known now."""

    delivered: list[int]
    undelivered: list[Undelivered]
    message_ids: dict[int, object]
    """Of all these."""
    done: bool = False
    """Whether it is the last one of a run."""
    freed: tuple[str, ...] = ()
    """The texts with which messages were put off that can go now."""
