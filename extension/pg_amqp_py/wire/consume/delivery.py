"""A message as the broker delivers it, as raw as it came."""

from __future__ import annotations

from typing import NamedTuple


class Delivery(NamedTuple):
    """A message that was delivered, to be acknowledged by its tag.

    `properties` are the flags and list of its content header: nothing of them is lost, whatever
    they hold. See wire.consume.properties.
    """

    tag: int
    """On a channel that was opened again, tags go on: none comes twice from one connection."""
    redelivered: bool
    exchange: bytes
    routing_key: bytes
    properties: bytes
    body: bytes
