"""The account of requests that are under way: written in pieces, answered in any order."""

from __future__ import annotations

import re

import pytest
from pika.spec import BasicProperties

from pg_amqp_py.wire.encode import Series, decode_messages
from pg_amqp_py.wire.errors import RepliesTooLargeError
from pg_amqp_py.wire.fields import CORRELATION_ID, FIELDS
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.methods import FRAME_MAX
from pg_amqp_py.wire.properties import DIRECT_REPLY_TO
from pg_amqp_py.wire.request import requests as module
from pg_amqp_py.wire.request.requests import SAMPLE, Requests
from support.deliveries import Sent

ENVELOPE = Envelope("", "pricing", reply_to=DIRECT_REPLY_TO, mandatory=True, expiration="5000")


def make(*bodies: bytes) -> Requests:
    return Requests(bodies, Series(tuple(ENVELOPE), SAMPLE, FRAME_MAX, CORRELATION_ID))


def written(requests: Requests, most: int = 1 << 30) -> bytes:
    """All that it writes, taken in pieces of so many bytes."""
    stream = bytearray()

    def send_some(data: bytes | bytearray | memoryview) -> int:
        taken = bytes(data[:most])
        stream.extend(taken)
        return len(taken)

    while requests.unwritten:
        requests.write_some(send_some)
    return bytes(stream)


def ids(requests: Requests) -> list[str]:
    return [one.envelope.correlation_id or "" for one in decode_messages(written(requests))]


def answer(requests: Requests, correlation_id: str | None, body: bytes = b"x") -> None:
    requests.take(Sent(body, BasicProperties(correlation_id=correlation_id)).delivery(1))


@pytest.mark.parametrize("most", [1 << 30, 1000, 7])
def test_requests_differ_in_id_and_body(most: int) -> None:
    bodies = [b"", b"one", b"x" * 10_000]
    found = [*decode_messages(written(make(*bodies), most))]
    assert [one.body for one in found] == bodies
    given = [one.envelope.correlation_id or "" for one in found]
    assert len({*given}) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in given)
    assert {one.envelope._replace(correlation_id=None) for one in found} == {ENVELOPE}
    assert FIELDS[CORRELATION_ID] == "correlation_id"


def test_many_are_not_encoded_all_at_once() -> None:
    requests = make(*[b"x" * 1000] * 2000)
    sizes: list[int] = []

    def send_some(data: bytes | bytearray | memoryview) -> int:
        sizes.append(len(data))
        return len(data)

    while requests.unwritten:
        requests.write_some(send_some)
    assert max(sizes) < module._PIECE + 2000
    assert requests.written == 2000


def test_what_is_written_whole_is_known() -> None:
    requests = make(b"x" * 100, b"x" * 100)
    whole = len(written(make(b"x" * 100)))
    for taken, expected in ((whole - 1, 0), (1, 1), (whole - 1, 1), (1, 2)):
        assert requests.unwritten
        requests.write_some(lambda data, taken=taken: min(taken, len(data)))  # type: ignore[misc]
        assert requests.written == expected
    assert not requests.unwritten


def test_replies_are_in_the_order_of_the_requests() -> None:
    requests = make(b"0", b"1", b"2")
    first, second, third = ids(requests)
    for one in (third, first, second):
        assert not requests.over
        answer(requests, one, one.encode())
    assert requests.over
    assert [reply.delivery.body.decode() for reply in requests.replies()] == [first, second, third]


def test_only_an_open_request_is_answered() -> None:
    requests = make(b"0", b"1")
    first, second = ids(requests)
    for other in (None, "", SAMPLE, first.upper(), first[:-1], f"{first}0"):
        answer(requests, other)
    requests.take(Sent(b"x").delivery(1)._replace(properties=b"\xff"))
    assert requests.answered == 0
    answer(requests, first, b"the answer")
    answer(requests, first, b"a copy")
    assert requests.answered == 1
    assert not requests.over
    answer(requests, second)
    assert requests.replies()[0].delivery.body == b"the answer"


def test_one_that_came_back_ends_all() -> None:
    requests = make(b"0", b"1")
    requests.returned = "NO_ROUTE (312)"
    assert requests.over


def test_replies_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    requests = make(b"0", b"1", b"2")
    first, second, _ = ids(requests)
    answer(requests, first, b"x" * 600)
    with pytest.raises(RepliesTooLargeError, match="more than 1000 bytes"):
        answer(requests, second, b"x" * 600)
    assert requests.answered == 0
