"""The properties of a received message, as pika writes them and as they may be cut short."""

from __future__ import annotations

from typing import Any

import pytest
from pika.spec import BasicProperties

from pg_amqp_py.wire.consume.properties import Properties, split_properties
from pg_amqp_py.wire.errors import MalformedError
from pg_amqp_py.wire.properties import PROPERTIES
from pg_amqp_py.wire.table import encode_table
from support.deliveries import random_properties, seeded

FULL = BasicProperties(
    content_type="text/plain",
    content_encoding="gzip",
    headers={"a": 1, "b": "two"},
    delivery_mode=2,
    priority=7,
    correlation_id="c",
    reply_to="replies",
    expiration="60000",
    message_id="ü",
    timestamp=(1 << 64) - 1,
    type="t",
    user_id="guest",
    app_id="app",
    cluster_id="cluster",
)


def encoded(properties: BasicProperties) -> bytes:
    return b"".join(properties.encode())


def expected(properties: BasicProperties) -> Properties:
    """What pika was given, raw."""

    def raw(value: Any) -> Any:
        if isinstance(value, dict):
            return encode_table(value, "headers")
        return value.encode() if isinstance(value, str) else value

    return Properties(*(raw(getattr(properties, name)) for name in Properties._fields))


def test_the_names_are_those_of_what_is_published_and_one_more() -> None:
    assert Properties._fields == (*PROPERTIES, "cluster_id")


def test_all_of_them() -> None:
    found = split_properties(encoded(FULL))
    assert found == expected(FULL)
    assert type(found) is Properties
    assert (found.message_id, found.timestamp, found.delivery_mode) == ("ü".encode(), 2**64 - 1, 2)


@pytest.mark.parametrize("name", Properties._fields)
def test_one_of_them(name: str) -> None:
    properties = BasicProperties(**{name: getattr(FULL, name)})
    assert split_properties(encoded(properties)) == expected(properties)


def test_none_of_them() -> None:
    assert split_properties(b"\0\0") == Properties()


def test_random_ones() -> None:
    chance = seeded()
    for _ in range(1000):
        properties = random_properties(chance)
        assert split_properties(encoded(properties)) == expected(properties)


def test_what_is_cut_short() -> None:
    whole = encoded(FULL)
    for size in range(len(whole)):
        with pytest.raises(MalformedError):
            split_properties(whole[:size])


def test_what_is_longer_than_it_says() -> None:
    with pytest.raises(MalformedError, match="not as long as they say"):
        split_properties(encoded(FULL) + b"\0")


@pytest.mark.parametrize("flags", [b"\0\1", b"\0\2", b"\x80\3"])
def test_flags_that_amqp_does_not_know(flags: bytes) -> None:
    with pytest.raises(MalformedError, match="the property flags are"):
        split_properties(flags + b"\1x")
