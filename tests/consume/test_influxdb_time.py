"""The time of a point."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pg_amqp_daemon.consume.influxdb.line import LineWriter
from support.points import SECONDS, fault, line, source, time_of

SECOND = 10**9


def test_a_message_has_the_second_of_its_timestamp() -> None:
    for number in range(100):
        time = time_of(LineWriter("m"), source({"v": number}))
        assert time // SECOND == SECONDS


def test_a_redelivered_message_has_the_same_time() -> None:
    first = source({"v": 1}, message_id="a", received_at=1.0)
    again = source({"v": 1}, message_id="a", received_at=99.0)
    # Another process's writer, too.
    assert time_of(LineWriter("m"), first) == time_of(LineWriter("m"), again)
    # And another version's: CRC-32, of which "a" has 0xe8b7be43, as a part of a second.
    assert time_of(LineWriter("m"), first) == SECONDS * SECOND + 0xE8B7BE43 * SECOND // 2**32


def test_messages_of_one_second_have_times_of_their_own() -> None:
    writer = LineWriter("m")
    by_id = {time_of(writer, source({"v": 1}, message_id=f"m{i}")) for i in range(1000)}
    assert len(by_id) == 1000
    by_body = {time_of(writer, source({"v": i})) for i in range(1000)}
    assert len(by_body) == 1000
    # Whatever is below a second is used.
    assert max(by_id) - min(by_id) > 0.9 * SECOND


def test_equal_bodies_are_told_apart_by_their_message_ids() -> None:
    writer = LineWriter("m")
    assert time_of(writer, source({"v": 1})) == time_of(writer, source({"v": 1}))
    assert time_of(writer, source({"v": 1}, message_id="a")) != time_of(
        writer, source({"v": 1}, message_id="b")
    )


def test_without_a_timestamp_it_is_the_arrival_and_never_the_same() -> None:
    writer = LineWriter("m")
    times = [
        time_of(writer, source({"v": 1}, timestamp=None, received_at=1.7e9)) for _ in range(100)
    ]
    assert times == list(range(int(1.7e9) * SECOND, int(1.7e9) * SECOND + 100))
    assert time_of(writer, source({"v": 1}, timestamp=None, received_at=1.8e9)) == 18 * 10**17


@pytest.mark.parametrize(
    ("spec", "value", "nanoseconds"),
    [
        ("body.at", 5, 5 * SECOND),
        ("body.at", 1397597512.123456, 1397597512123456000),
        ("body.at:s", 5, 5 * SECOND),
        ("body.at:ms", 1397597512123, 1397597512123000000),
        ("body.at:ms", 1.5, 1500000),
        ("body.at:us", 7, 7000),
        ("body.at:ns", 1397597512123456789, 1397597512123456789),
        ("body.at:ns", "1397597512123456789", 1397597512123456789),
        ("body.at:s", "1397597512.123456789", 1397597512123456789),
        ("body.at:ms", "-5", -5000000),
        ("body.at", "1970-01-01T00:00:01Z", SECOND),
        ("body.at", "1970-01-01T00:00:01.5Z", 1500000000),
        ("body.at", "1970-01-01T02:00:01.123456789+02:00", 1123456789),
        ("body.at", "1970-01-01 00:00:01,25", 1250000000),
        ("body.at", "1970-01-01T12:00", 43200 * SECOND),
        ("body.at", "1970-01-02", 86400 * SECOND),
        ("body.at", "1969-12-31T23:59:59.9Z", -100000000),
        ("body.at", "2024-02-29T12:00:00.0000000019Z", 1709208000000000001),
    ],
)
def test_a_time_in_the_body(spec: str, value: object, nanoseconds: int) -> None:
    writer = LineWriter("m", time=spec)
    written = writer.line(source({"at": value, "v": 1}))
    # It is no field as well.
    assert written == b"m v=1 %d" % nanoseconds


def test_a_time_elsewhere() -> None:
    writer = LineWriter("m", time="headers.timestamp_in_ms:ms")
    assert time_of(writer, source({"v": 1}, headers={"timestamp_in_ms": 1500})) == 1500 * 10**6
    assert time_of(LineWriter("m", time="timestamp"), source({"v": 1})) == SECONDS * SECOND
    writer = LineWriter("m", time="headers.at")
    moment = datetime(1970, 1, 1, 2, 0, 1, 5, timezone(timedelta(hours=2)))
    assert time_of(writer, source({"v": 1}, headers={"at": moment})) == SECOND + 5000
    moment = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert time_of(writer, source({"v": 1}, headers={"at": moment})) == SECOND


def test_a_name_with_a_colon_needs_no_unit() -> None:
    writer = LineWriter("m", time="body.a:b")
    assert time_of(writer, source({"a:b": 3, "v": 1})) == 3 * SECOND
    assert line(writer, source({"a:b": 3, "v": 1})) == "m v=1"


@pytest.mark.parametrize("value", ["yesterday", "", True, "12", "24:00"])
def test_what_is_no_time_is_a_fault(value: object) -> None:
    sqlstate, text = fault(LineWriter("m", time="body.at"), source({"at": value, "v": 1}))
    assert sqlstate == "22007"
    assert "body.at" in text


def test_a_text_that_is_no_number_is_a_fault_where_there_is_a_unit() -> None:
    writer = LineWriter("m", time="body.at:ms")
    assert fault(writer, source({"at": "2024-01-01", "v": 1}))[0] == "22007"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_a_fault(value: float) -> None:
    writer = LineWriter("m", time="headers.at")
    assert fault(writer, source({"v": 1}, headers={"at": value}))[0] == "22007"


def test_a_missing_time_is_a_fault() -> None:
    for body in ({"v": 1}, {"v": 1, "at": None}):
        sqlstate, text = fault(LineWriter("m", time="body.at"), source(body))
        assert (sqlstate, text) == ("22004", "the time is missing: body.at is")


def test_a_time_that_influxdb_does_not_know_is_a_fault() -> None:
    # Milliseconds, where AMQP has seconds.
    sqlstate, text = fault(LineWriter("m"), source({"v": 1}, timestamp=SECONDS * 1000))
    assert sqlstate == "22008"
    assert "timestamp" in text
    writer = LineWriter("m", time="body.at:ns")
    assert time_of(writer, source({"at": 2**63 - 2, "v": 1})) == 2**63 - 2
    assert fault(writer, source({"at": 2**63 - 1, "v": 1}))[0] == "22008"
    assert fault(writer, source({"at": -(2**63) + 1, "v": 1}))[0] == "22008"
    writer = LineWriter("m", time="body.at")
    assert fault(writer, source({"at": "1500-01-01", "v": 1}))[0] == "22008"
    assert fault(writer, source({"at": 1e300, "v": 1}))[0] == "22008"
