"""What of a row of the outbox MQTT has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pg_amqp_daemon.relay.retained_message import RetainedMessage


def message(**given: Any) -> RetainedMessage:
    found = RetainedMessage(1, True, "dev.7.temp", None, None, None, None, "id", b"")
    return found._replace(**given)


def test_levels_are_those_of_the_key() -> None:
    assert message().topic == "dev/7/temp"
    assert message().response_topic is None
    assert message().user_properties == []
    assert message().expiry is None


def test_headers_become_text() -> None:
    headers = {
        "text": "ü",
        "number": 7,
        "float": 2.5,
        "bool": True,
        "null": None,
        "array": [1, "é"],
        "x-reply-to-topic": "answers.7",
    }
    found = message(headers=json.dumps(headers))
    assert found.response_topic == "answers/7"
    assert found.user_properties == [
        ("text", "ü"),
        ("number", "7"),
        ("float", "2.5"),
        ("bool", "true"),
        ("null", ""),
        ("array", '[1, "é"]'),
    ]


@pytest.mark.parametrize(
    ("expiration", "seconds"), [("0", 0), ("1", 1), ("1000", 1), ("1001", 2), ("60000", 60)]
)
def test_a_part_of_a_second_is_one(expiration: str, seconds: int) -> None:
    assert message(expiration=expiration).expiry == seconds
