"""From a request to its message: no server."""

from __future__ import annotations

import json
import os
import random
from typing import Any
from urllib.parse import quote_from_bytes, urlencode

import pytest

from pg_amqp_daemon.gateway import form
from pg_amqp_daemon.gateway.login import Login, login_of
from pg_amqp_daemon.gateway.message import Message
from pg_amqp_daemon.gateway.paths import Place, place_of
from pg_amqp_daemon.gateway.problem import Problem
from pg_amqp_daemon.gateway.request import Head, message_of
from pg_amqp_py.wire.fields import FIELDS

FORM = Head(content_type=form.URLENCODED)
PLACE = Place("one", "/", "x", "k")
MANAGEMENT = Place("management", "/", "x")


def fields(message: Message) -> dict[str, Any]:
    """What is set of a message, but for its place."""
    named = dict(zip(FIELDS, message.fields, strict=True))
    return {
        name: value
        for name, value in named.items()
        if value is not None and name not in ("exchange", "routing_key")
    }


def posted(body: bytes, head: Head = FORM, query: bytes = b"") -> Message:
    return message_of(PLACE, query, head, body)


def problem(body: bytes, head: Head = FORM, query: bytes = b"") -> Problem:
    with pytest.raises(Problem) as caught:
        posted(body, head, query)
    return caught.value


# ---- Paths ----


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (b"/%2F/test/foo", Place("one", "/", "test", "foo")),
        (b"/%2f/amq.default/a%2Fb", Place("one", "/", "", "a/b")),
        (b"/v/x/", Place("one", "v", "x", "")),
        (b"/v/x/a+b%20c%25", Place("one", "v", "x", "a+b c%")),
        ("/ü/x/%C3%A4".encode().replace("ü".encode(), b"%C3%BC"), Place("one", "ü", "x", "ä")),
        (b"/api/exchanges/%2F/amq.default/publish", Place("management", "/", "")),
        (b"/api/exchanges/k", Place("one", "api", "exchanges", "k")),
        (b"/%2F", Place("many", "/")),
        (b"/api/exchanges/v/x/get", None),
        (b"/", None),
        (b"/v/", None),
        (b"/v/x", None),
        (b"//x/k", None),
        (b"/v//k", None),
        (b"/v/x/k/more", None),
    ],
)
def test_a_path_names_what_its_percent_encoded_parts_say(path: bytes, place: Place | None) -> None:
    assert place_of(path) == place


@pytest.mark.parametrize("path", [b"/%/x/k", b"/v/%zz/k", b"/v/x/%C3", b"/v/x/" + b"k" * 256])
def test_a_path_that_names_nothing_is_a_bad_request(path: bytes) -> None:
    with pytest.raises(Problem) as caught:
        place_of(path)
    assert caught.value.status == 400
    assert caught.value.field in ("vhost", "exchange", "routing_key")


# ---- Forms ----


def test_a_form_has_every_property_with_dashes_or_underscores() -> None:
    given = {
        "app-id": "a",
        "content_encoding": "gzip",
        "content-type": "text/plain",
        "correlation_id": "c",
        "delivery-mode": "2",
        "expire": "60000",
        "headers": '{"a": [1, 2.5, null, {"b": true}]}',
        "message-id": "m",
        "priority": "3",
        "reply_to": "r",
        "timestamp": "1397597512",
        "type": "t",
        "user-id": "guest",
        "mandatory": "true",
        "body": "hi",
    }
    message = posted(urlencode(given).encode())
    assert message.body == b"hi"
    assert fields(message) == {
        "app_id": "a",
        "content_encoding": "gzip",
        "content_type": "text/plain",
        "correlation_id": "c",
        "delivery_mode": 2,
        "expiration": "60000",
        "headers": '{"a": [1, 2.5, null, {"b": true}]}',
        "message_id": "m",
        "priority": 3,
        "reply_to": "r",
        "timestamp": 1397597512,
        "type": "t",
        "user_id": "guest",
        "mandatory": True,
    }


def test_what_is_no_property_is_passed_over_and_of_what_is_given_twice_the_last_counts() -> None:
    message = posted(b"type=1&body=a&colour=red&type=2&body=b", query=b"type=0&priority=7")
    assert message.body == b"b"
    assert {name: fields(message)[name] for name in ("type", "priority")} == {
        "type": "2",
        "priority": 7,
    }


def test_a_message_without_an_id_gets_one_and_nothing_else_is_added() -> None:
    first, second = posted(b"body=a"), posted(b"body=a&message_id=")
    assert len(first.id) == len(second.id) == 36
    assert first.id != second.id
    assert fields(first) == {"message_id": first.id, "mandatory": False}


def test_any_bytes_are_a_body_of_a_form() -> None:
    seed = int(os.environ.get("PG_AMQP_PY_SEED") or random.randrange(1 << 32))
    print(f"PG_AMQP_PY_SEED={seed}")
    chance = random.Random(seed)
    for _ in range(500):
        body = chance.randbytes(chance.randrange(40)) + chance.choice([b"", b" ", b"\r\n", b"\0"])
        safe = "".join(chance.sample("abc /+é\x00", 3)).replace("+", "")
        encoded = b"body=" + quote_from_bytes(body, safe=safe).encode()
        assert posted(encoded).body == body
        boundary = b"x" * 20
        parts = (
            b'--%b\r\nContent-Disposition: form-data; name="body"\r\n\r\n%b\r\n'
            b'--%b\r\nContent-Disposition: form-data; name="type"\r\n\r\nt\r\n--%b--\r\n'
        ) % (boundary, body, boundary, boundary)
        head = Head(content_type=b"multipart/form-data; boundary=" + boundary)
        message = posted(parts, head)
        assert (message.body, fields(message)["type"]) == (body, "t")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delivery_mode", "3"),
        ("delivery_mode", ""),
        ("priority", "256"),
        ("priority", "-1"),
        ("priority", "1_0"),
        ("priority", "٣"),
        ("timestamp", "yesterday"),
        ("timestamp", "99999999999999999999"),
        ("expiration", "1.5"),
        ("expiration", "4294967296"),
        ("mandatory", "perhaps"),
        ("headers", "{"),
        ("headers", "[1]"),
        ("headers", '{"a": NaN}'),
        ("headers", '{"a": 123456789012345678901}'),
        ("headers", json.dumps({"k" * 256: 1})),
        ("headers", "{" + '"a":{' * 300 + "}" * 301),
        ("headers", "[" * 100_000),
        ("headers", '{"CC": "one"}'),
        ("type", "t" * 256),
        ("reply_to", "amq.rabbitmq.reply-to"),
    ],
)
def test_a_field_that_is_no_value_of_its_property_is_named(name: str, value: str) -> None:
    found = problem(urlencode({"body": "x", name: value}).encode())
    assert (found.status, found.field) == (400, name)


def test_a_property_that_is_not_utf_8_is_named_and_a_body_may_be_anything() -> None:
    assert problem(b"body=x&type=%FF").field == "type"
    assert posted(b"body=%FF").body == b"\xff"


def test_a_surrogate_is_refused() -> None:
    assert problem(b'body=x&headers={"a":"\\ud800"}').status == 400


def test_a_form_without_a_body_or_with_too_many_fields_is_a_bad_request() -> None:
    assert (problem(b"type=t").status, problem(b"type=t").field) == (400, "body")
    assert problem(b"&".join([b"body=x"] * 101)).status == 400


def test_a_compressed_form_is_not_taken() -> None:
    assert problem(b"body=x", FORM._replace(content_encoding=b"gzip")).status == 415


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"--x\r\n\r\n",
        b'--x\r\nContent-Disposition: form-data; name="body"\r\n\r\nhi',
        b'--x\r\nContent-Disposition: form-data; name="body"\r\n\r\nhi\r\n--x\r\n',
        b"--x\r\nContent-Disposition\0: y\r\n\r\nhi\r\n--x--\r\n",
    ],
)
def test_what_is_no_multipart_is_a_bad_request(body: bytes) -> None:
    head = Head(content_type=b"multipart/form-data; boundary=x")
    assert problem(body, head).status == 400
    assert problem(body, Head(content_type=b"multipart/form-data")).status == 400


def test_all_fields_may_stand_in_the_query() -> None:
    message = posted(b"", Head(), b"body=hi&type=t")
    assert (message.body, fields(message)["type"]) == (b"hi", "t")


# ---- Any other body ----


def test_any_other_body_is_taken_as_it_is() -> None:
    head = Head(content_type=b"application/json; charset=utf-8", content_encoding=b"gzip")
    message = posted(b" {\0\xff+%20 ", head, b"delivery_mode=2&message-id=%2F%C3%BC+1&body=no")
    assert message.body == b" {\0\xff+%20 "
    assert fields(message) == {
        "content_type": "application/json; charset=utf-8",
        "content_encoding": "gzip",
        "delivery_mode": 2,
        "message_id": "/ü 1",
        "mandatory": False,
    }


def test_the_query_says_better_what_the_content_type_is() -> None:
    message = posted(b"x", Head(content_type=b"text/plain"), b"content_type=text/html")
    assert fields(message)["content_type"] == "text/html"
    assert "content_type" not in fields(posted(b"x", Head()))


# ---- Management's form ----


def managed(**members: object) -> Message:
    given = {"properties": {}, "routing_key": "k", "payload": "p", "payload_encoding": "string"}
    body = json.dumps({**given, **members}).encode()
    return message_of(MANAGEMENT, b"", Head(), body)


def test_management_s_properties_are_typed() -> None:
    properties = {
        "delivery_mode": 2,
        "priority": "4",
        "expiration": 1000,
        "headers": {"a": 1, "b": "ü"},
        "timestamp": 5,
        "colour": "red",
        "type": None,
    }
    message = managed(properties=properties, payload="ü")
    assert message.body == "ü".encode()
    assert {k: v for k, v in fields(message).items() if k != "message_id"} == {
        "delivery_mode": 2,
        "priority": 4,
        "expiration": "1000",
        "headers": '{"a": 1, "b": "ü"}',
        "timestamp": 5,
        "mandatory": True,
    }
    assert managed(properties=[], payload="/wA=", payload_encoding="base64").body == b"\xff\0"


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"routing_key": None}, "routing_key"),
        ({"payload": 1}, "payload"),
        ({"payload_encoding": "hex"}, "payload_encoding"),
        ({"payload": "?", "payload_encoding": "base64"}, "payload"),
        ({"properties": "text"}, "properties"),
        ({"properties": {"priority": True}}, "priority"),
        ({"properties": {"type": 1}}, "type"),
        ({"properties": {"headers": []}}, "headers"),
    ],
)
def test_what_management_would_not_take_is_named(members: dict[str, object], field: str) -> None:
    with pytest.raises(Problem) as caught:
        managed(**members)
    assert (caught.value.status, caught.value.field) == (400, field)


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b'{"payload": "\\ud800"}', b"[" * 9999])
def test_what_is_no_object_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        message_of(MANAGEMENT, b"", Head(), body)
    assert caught.value.status == 400


# ---- Logins ----


def test_a_password_may_hold_colons_and_any_character() -> None:
    # Base64 of "me:pa:ß".
    assert login_of("/", b"basic bWU6cGE6w58=") == Login("/", "me", "pa:ß")


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer x", b"Basic", b"Basic ?", b"Basic bWU=", b"Basic /w==", b"Basic YTpiAGM="],
)
def test_what_is_no_login_is_asked_for(header: bytes | None) -> None:
    with pytest.raises(Problem) as caught:
        login_of("/", header)
    assert caught.value.status == 401
    assert caught.value.headers[0][0] == b"www-authenticate"


def test_no_text_of_a_login_shows_its_password_and_no_two_are_taken_for_one() -> None:
    login = Login("/", "me", "secret-word")
    assert "secret-word" not in f"{login} {login!r}"
    assert Login("v", "a", "bc").digest != Login("v", "ab", "c").digest
    assert Login("v", "a", "b").digest != Login("va", "", "b").digest
