"""Bodies that are line protocol already."""

from __future__ import annotations

import pytest

from pg_amqp_daemon.consume.influxdb.line import LineWriter
from support.points import SECONDS, fault, source


def lines(body: bytes, message_id: str | None = None) -> bytes | None:
    writer = LineWriter("m", content_types=["text/plain=line"])
    return writer.line(source(body, content_type="text/plain", message_id=message_id))


def refusal(body: bytes) -> tuple[str, str]:
    writer = LineWriter("m", content_types=["text/plain=line"])
    return fault(writer, source(body, content_type="text/plain"))


@pytest.mark.parametrize(
    "body",
    [
        b"m v=1 1",
        b"m,t=a,u=b v=1,w=2i,x=t 1",
        b'm v="text, with = and \\" and \\\\",w=1 1',
        b'm v="two\nlines" 1',
        b'm v="" -5',
        b'm\\ x\\,y,t\\=u=a\\ b f\\ g=1,"q"=2 1',
        b'm,t="x v=1 1',
        b"m v=1 1\nm v=2 2",
    ],
)
def test_they_are_taken_as_they_are(body: bytes) -> None:
    assert lines(body) == body


def test_what_is_no_point_is_left_out() -> None:
    assert lines(b"# comment\r\n\r\nm v=1 1\r\n  \n  m v=2  2  \n\n#") == b"m v=1 1\nm v=2 2"


def test_a_line_without_a_time_gets_the_messages() -> None:
    found = lines(b"m v=1\nm v=2 7\nm v=3 \n", message_id="a")
    assert found is not None
    first, second, third = (int(line.rpartition(b" ")[2]) for line in found.splitlines())
    assert first // 10**9 == SECONDS
    assert (second, third) == (7, first + 1)
    # A redelivered message writes the same points.
    assert lines(b"m v=1\nm v=2 7\nm v=3 \n", message_id="a") == found


def test_lines_of_messages_that_arrive_together_have_times_of_their_own() -> None:
    writer = LineWriter("m", content_types=["text/plain=line"])
    message = source(b"m v=1\nm v=2\nm v=3", content_type="text/plain", timestamp=None)
    found = b"\n".join(writer.line(message) or b"" for _ in range(5)).splitlines()
    assert len({line.rpartition(b" ")[2] for line in found}) == 15


@pytest.mark.parametrize("body", [b"", b"\n", b"# nothing", b" \r\n"])
def test_a_body_without_a_point_is_a_fault(body: bytes) -> None:
    assert refusal(body) == ("22023", "the body has no point")


@pytest.mark.parametrize(
    "body",
    [
        # What InfluxDB would take the next message for a part of.
        b'm v="open',
        b'm v=1,w="open\\"',
        b"m,t=a\\",
        b"m v=1 1\\",
        b'm v=1 1\nm v="',
        # What cannot be a point.
        b"m",
        b"m 1",
        b"m v=",
        b"m v=1,",
        b"m v=1,, w=2",
        b"m v=1 x",
        b"m v=1 1 1",
        b'm v="a"b 1',
        b'm v=a"b 1',
        b"m v=1=2 1",
        b"m =1 1",
        b'{"v": 1}',
    ],
)
def test_what_is_no_line_protocol_is_a_fault(body: bytes) -> None:
    assert refusal(body)[0] == "22P02"
    # It stays with its message: the line that it is in is named.
    assert "line 3" in refusal(b'm v="a\nb"\n' + body)[1] or b"\n" in body


def test_what_is_long_is_looked_through_in_no_time() -> None:
    assert refusal(b'm v="' + b"\\a" * 500_000)[0] == "22P02"
    assert refusal(b"m " + b"v=1," * 200_000)[0] == "22P02"
    assert refusal(b"m" * 1_000_000)[0] == "22P02"
    assert lines(b'm v="' + b"a" * 1_000_000 + b'" 1') is not None
