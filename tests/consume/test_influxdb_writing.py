"""Lines to a real InfluxDB: what is written, what it refuses, and what it cannot take now."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from pg_amqp_daemon.consume.influxdb import client as client_module
from pg_amqp_daemon.consume.influxdb.client import InfluxDB, Row, Unavailable
from pg_amqp_daemon.consume.influxdb.line import LineWriter
from servers.influxdb import InfluxDB as Server
from support.points import SECONDS, seeded, source

CONFLICT = 'input field "v" on measurement "m" is type string, already exists as type float'


@pytest.fixture
def client(influxdb: Server, influx_database: str) -> Iterator[InfluxDB]:
    with closing(InfluxDB(Row(influxdb.url, database=influx_database))) as client:
        yield client


def numbers(count: int) -> list[bytes]:
    """Lines whose times tell them apart."""
    return [b"m v=%d %d" % (i, i) for i in range(count)]


def times(server: Server, database: str, measurement: str = "m") -> list[int]:
    """The times of the points that are there."""
    return [row["time"] for row in server.query(f'SELECT * FROM "{measurement}"', database)]


def test_the_storage_exchanges_example_is_a_point(
    influxdb: Server, influx_database: str, client: InfluxDB
) -> None:
    body = {
        "duration": 4.52,
        "uri": "/example",
        "user_agent": "Google Chrome",
        "user_id": "arthurdent",
    }
    writer = LineWriter("{routing_key}", ["uri"])
    written = writer.line(source(body, routing_key="pageview"))
    assert written is not None
    # A redelivered message is the same point.
    for _ in range(2):
        assert client.write([written]) == []
    (row,) = influxdb.query("SELECT * FROM pageview", influx_database)
    assert row.pop("time") // 10**9 == SECONDS
    assert row == body


def test_many_lines_are_written(influxdb: Server, influx_database: str, client: InfluxDB) -> None:
    assert client.write(numbers(5000)) == []
    assert times(influxdb, influx_database) == list(range(5000))


def test_points_whose_type_conflicts_are_at_fault_and_all_others_written(
    influxdb: Server, influx_database: str, client: InfluxDB
) -> None:
    client.write([b"m v=0 5000"])
    chance = seeded()
    lines = numbers(1000)
    bad = sorted(chance.sample(range(1000), 7))
    for position in bad:
        lines[position] = b'm v="text" %d' % position
    faults = client.write(lines)
    assert [position for position, _ in faults] == bad
    for _, fault in faults:
        assert CONFLICT in str(fault)
        assert fault.sqlstate == "22000"
    assert times(influxdb, influx_database) == [*sorted({*range(1000)} - {*bad}), 5000]


def test_a_field_whose_first_points_conflict_is_what_the_first_of_them_says(
    influxdb: Server, influx_database: str, client: InfluxDB
) -> None:
    # It refuses such a batch, writes nothing of it, and names no point.
    ((position, fault),) = client.write([b"m v=1 1", b'm v="text" 2', b"m v=3 3"])
    assert position == 1
    assert CONFLICT in str(fault)
    assert times(influxdb, influx_database) == [1, 3]


def test_all_lines_may_be_at_fault(
    influxdb: Server, influx_database: str, client: InfluxDB
) -> None:
    client.write([b"m v=0 5000"])
    faults = client.write([b"m v=t %d" % i for i in range(50)])
    assert [position for position, _ in faults] == [*range(50)]
    assert times(influxdb, influx_database) == [5000]


@pytest.mark.parametrize(
    "bad", [b"m v= 1", b"m v", b"m v=1 x", b"m v=1e400 1", b"m,t= v=1 1", b"m,time=x v=1 1"]
)
def test_lines_that_it_cannot_parse_are_at_fault_and_all_others_written(
    influxdb: Server, influx_database: str, client: InfluxDB, bad: bytes
) -> None:
    lines = numbers(20)
    lines[0] = lines[7] = lines[19] = bad
    faults = client.write(lines)
    assert [position for position, _ in faults] == [0, 7, 19]
    assert str(faults[0][1]).startswith("InfluxDB: ")
    assert times(influxdb, influx_database) == [i for i in range(20) if i not in (0, 7, 19)]


def test_points_that_are_older_than_it_keeps_are_at_fault(
    influxdb: Server, influx_database: str
) -> None:
    influxdb.query(f"CREATE RETENTION POLICY hour ON {influx_database} DURATION 1h REPLICATION 1")
    row = Row(influxdb.url, database=influx_database, retention_policy="hour")
    with closing(InfluxDB(row)) as client:
        ((position, fault),) = client.write([b"m v=1 %d" % time.time_ns(), b"m v=1 1"])
    assert position == 1
    assert "retention policy" in str(fault)
    assert len(influxdb.query("SELECT * FROM hour.m", influx_database)) == 1


def test_messages_that_arrive_in_one_second_are_all_kept(
    influxdb: Server, influx_database: str, client: InfluxDB
) -> None:
    writer = LineWriter("m")
    lines = [writer.line(source({"v": 1}, message_id=f"id {i}")) or b"" for i in range(2000)]
    lines += [
        writer.line(source({"v": 1}, timestamp=None, received_at=SECONDS + 1)) or b""
        for _ in range(2000)
    ]
    assert client.write(lines) == []
    assert len(times(influxdb, influx_database)) == 4000


def test_lines_of_one_body_are_written_but_for_what_is_at_fault(
    influxdb: Server, influx_database: str, client: InfluxDB
) -> None:
    writer = LineWriter("m", content_types=["text/plain=line"])
    body = b"m v=1 1\nm v=zzz 2\nm v=3 3"
    several = writer.line(source(body, content_type="text/plain"))
    assert several is not None
    ((position, fault),) = client.write([b"m v=0 0", several, b"m v=4 4"])
    assert position == 1
    assert "m v=zzz 2" in str(fault)
    assert times(influxdb, influx_database) == [0, 1, 3, 4]


def test_a_check_writes_nothing(influxdb: Server, influx_database: str, client: InfluxDB) -> None:
    client.check()
    assert influxdb.query("SHOW MEASUREMENTS", influx_database) == []


def test_a_missing_database_is_nobodys_fault(influxdb: Server, influx_database: str) -> None:
    with closing(InfluxDB(Row(influxdb.url, database="missing"))) as client:
        for call in (client.check, lambda: client.write(numbers(3))):
            with pytest.raises(Unavailable, match='answers 404: database not found: "missing"'):
                call()
        influxdb.query("CREATE DATABASE missing")
        client.check()
        assert client.write(numbers(3)) == []
        assert times(influxdb, "missing") == [0, 1, 2]
        influxdb.query("DROP DATABASE missing")
        with pytest.raises(Unavailable):
            client.write(numbers(3))
    row = Row(influxdb.url, database=influx_database, retention_policy="missing")
    with closing(InfluxDB(row)) as client:
        for call in (client.check, lambda: client.write(numbers(3))):
            with pytest.raises(Unavailable, match="retention policy not found: missing"):
                call()


def test_while_it_is_stopped_nothing_is_taken_and_afterwards_all(
    influxdb: Server, influx_database: str, client: InfluxDB
) -> None:
    assert client.write(numbers(10)) == []
    influxdb.stop()
    try:
        for call in (client.check, lambda: client.write(numbers(20))):
            with pytest.raises(Unavailable, match=r"InfluxDB at 127.0.0.1:\d+: Connection refused"):
                call()
    finally:
        influxdb.start()
    assert client.write(numbers(20)) == []
    assert times(influxdb, influx_database) == [*range(20)]


def test_a_restart_between_two_writes_is_not_seen(
    influxdb: Server, influx_database: str, client: InfluxDB
) -> None:
    assert client.write(numbers(10)) == []
    influxdb.restart()
    assert client.write(numbers(20)) == []
    assert times(influxdb, influx_database) == [*range(20)]


def test_what_is_written_outlives_a_crash(
    influxdb: Server, influx_database: str, client: InfluxDB
) -> None:
    assert client.write(numbers(1000)) == []
    influxdb.kill()
    influxdb.start()
    assert times(influxdb, influx_database) == [*range(1000)]


def test_one_that_stands_still_is_not_waited_for_for_ever(
    influxdb: Server, influx_database: str, client: InfluxDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_TIMEOUT", 0.3)
    client.check()
    influxdb.pause()
    try:
        with pytest.raises(Unavailable, match=r"no answer within 0.3 s"):
            client.write(numbers(3))
    finally:
        influxdb.resume()
    assert client.write(numbers(3)) == []
    assert times(influxdb, influx_database) == [0, 1, 2]


@pytest.mark.server
def test_who_may_not_write_waits() -> None:
    with Server(config={"http": {"auth-enabled": True}}) as server:
        admin = "admin", "s3cret"
        server.query("CREATE USER admin WITH PASSWORD 's3cret' WITH ALL PRIVILEGES")
        for statement in (
            "CREATE DATABASE d",
            "CREATE USER writer WITH PASSWORD 's3cret:w'",
            "CREATE USER reader WITH PASSWORD 's3cret'",
            "GRANT WRITE ON d TO writer",
            "GRANT READ ON d TO reader",
        ):
            server.query(statement, login=admin)
        for login, words in (
            ((None, None), "answers 401"),
            (("writer", "wrong"), "answers 401: authorization failed"),
            (("reader", "s3cret"), 'answers 403: "reader" user is not authorized to write'),
        ):
            row = Row(server.url, database="d", username=login[0], password=login[1])
            with closing(InfluxDB(row)) as client:
                for call in (client.check, lambda client=client: client.write(numbers(3))):
                    with pytest.raises(Unavailable, match=words) as raised:
                        call()
                    assert "s3cret" not in str(raised.value)
        row = Row(server.url, database="d", username="writer", password="s3cret:w")
        with closing(InfluxDB(row)) as client:
            client.check()
            assert client.write(numbers(3)) == []
        assert len(server.query("SELECT * FROM m", "d", login=admin)) == 3
        assert "s3cret" not in server.log_text()


@pytest.mark.server
@pytest.mark.parametrize("most", [3_000, 300_000])
def test_what_is_too_large_is_written_in_parts_and_one_line_that_is_at_fault(most: int) -> None:
    with Server(config={"http": {"max-body-size": most}}) as server:
        server.query("CREATE DATABASE d")
        chance = random.Random(5)
        # What does not get smaller by compressing: it is the size of the request that counts.
        lines = [
            b'm v="%b" %d' % (chance.randbytes(most // 20).hex().encode(), i) for i in range(99)
        ]
        lines[40] = b'm v="%b" 40' % chance.randbytes(8 * most).hex().encode()
        with closing(InfluxDB(Row(server.url, database="d"))) as client:
            ((position, fault),) = client.write(lines)
        assert position == 40
        assert fault.sqlstate == "54000"
        assert str(fault) == "InfluxDB takes no line that large: Request Entity Too Large"
        assert times(server, "d") == [i for i in range(99) if i != 40]
