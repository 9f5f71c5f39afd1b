"""AMQP URIs, without a server."""

from __future__ import annotations

import pytest

from pg_amqp_py.wire.uri import Host, InvalidURIError, parse_uri


@pytest.mark.parametrize(
    ("uri", "hosts"),
    [
        ("amqp://host", [Host("host", 5672, None, None, None, False)]),
        ("amqps://host", [Host("host", 5671, None, None, None, True)]),
        ("AMQP://host:1/", [Host("host", 1, None, None, None, False)]),
        ("amqp://u:p@host/v", [Host("host", 5672, "v", "u", "p", False)]),
        ("amqp://u@host/%2F", [Host("host", 5672, "/", "u", None, False)]),
        # An empty password is one.
        ("amqp://u:@host", [Host("host", 5672, None, "u", "", False)]),
        (
            "amqp://us%40er:p%3A%2F%40%25w@ho%61st:10000/v%2fhost",
            [Host("hoast", 10000, "v/host", "us@er", "p:/@%w", False)],
        ),
        (
            "amqps://u:p@one,two:5,[::1]:6,[fe80::1]/v",
            [
                Host("one", 5671, "v", "u", "p", True),
                Host("two", 5, "v", "u", "p", True),
                Host("::1", 6, "v", "u", "p", True),
                Host("fe80::1", 5671, "v", "u", "p", True),
            ],
        ),
    ],
)
def test_valid(uri: str, hosts: list[Host]) -> None:
    assert parse_uri(uri) == hosts


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "host",
        "http://host",
        "amqp:",
        "amqp://",
        "amqp://u:secret@",
        "amqp://u:secret@/v",
        "amqp://u:secret@host:",
        "amqp://u:secret@host:0",
        "amqp://u:secret@host:65536",
        "amqp://u:secret@host:x",
        "amqp://u:secret@host:-1",
        "amqp://u:secret@host:²",
        "amqp://u:secret@one,,two",
        "amqp://u:secret@one,two,one:5672",
        "amqp://u:secret@host/" + "x" * 256,
        "amqp://u:secret@[::1",
        "amqp://u:secret@[::1]5672",
        "amqp://u:secret@host/a/b",
        "amqp://u:secret@host/v?heartbeat=1",
        "amqp://u:secret@host/v#x",
        "amqp://u:secret%FF@host",
        "amqp://u:secret%4@host",
        "amqp://u:secret%@host",
        "amqp://u:secret%00@host",
    ],
)
def test_invalid_and_no_secret_shown(uri: str) -> None:
    with pytest.raises(InvalidURIError) as caught:
        parse_uri(uri)
    assert "secret" not in str(caught.value)
