"""What is written is what a query gives back, however hard to write its texts are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing

import pytest

from pg_amqp_daemon.consume.influxdb.client import InfluxDB, Row
from pg_amqp_daemon.consume.influxdb.line import LineWriter
from pg_amqp_daemon.consume.influxdb.message import Fault
from servers.influxdb import InfluxDB as Server
from support.points import ALPHABET, seeded, source

HARDER = [*ALPHABET, "\t", "\r", "\0", "\n", "}", ".", "\x1b", "\ufeff", "ü"]


@pytest.fixture
def client(influxdb: Server, influx_database: str) -> Iterator[InfluxDB]:
    with closing(InfluxDB(Row(influxdb.url, database=influx_database))) as client:
        yield client


def text(chance: random.Random, most: int = 8) -> str:
    return "".join(chance.choices(HARDER, k=chance.randrange(most)))


def name(chance: random.Random) -> str:
    # In a row, an equals sign ends a tag's.
    return "".join(chance.choices(ALPHABET, k=chance.randrange(5))).replace("=", "")


def value(chance: random.Random) -> object:
    kind = chance.randrange(5)
    if kind == 0:
        return chance.choice([0.0, -0.5, 5e-324, 1.7976931348623157e308, 1e16, 123456.789e-7])
    if kind == 1:
        return (chance.random() - 0.5) * 10.0 ** chance.randrange(-300, 300)
    if kind == 2:
        return chance.randrange(-(2**53), 2**53)
    if kind == 3:
        return chance.random() < 0.5
    return text(chance, 30)


def quoted(identifier: str) -> str:
    """The name as InfluxQL has it."""
    escaped = identifier.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def test_points_are_read_back_as_they_were_sent(
    influxdb: Server, influx_database: str, client: InfluxDB
) -> None:
    chance = seeded()
    lines: list[bytes] = []
    sent: list[tuple[str, dict[str, object]]] = []
    for number in range(1500):
        # A measurement of its own: in one, a field has one type.
        measurement = f"{name(chance)}{number}{name(chance)}"
        tags = {f"t{name(chance)}": text(chance) for _ in range(chance.randrange(4))}
        fields = {f"f{name(chance)}": value(chance) for _ in range(chance.randrange(1, 5))}
        integer = chance.choice([2**63 - 1, -(2**63), chance.randrange(-(2**63), 2**63)])
        body: dict[str, object] = {**tags, **fields, "i": integer}
        message = source(body, routing_key=measurement)
        try:
            writer = LineWriter("{routing_key}", list(tags), {"i": "integer"}, "body.at:ns")
            written = writer.line(message._replace(body=source({**body, "at": number}).body))
        except (Fault, ValueError):
            # With a line break, or a backslash in the wrong place.
            continue
        assert written is not None
        lines.append(written)
        sent.append((measurement, {"time": number, **tags, **fields, "i": integer}))
    # One request, in which each line ends where it should.
    assert client.write(lines) == []
    assert len(sent) > 300
    names = influxdb.query("SHOW MEASUREMENTS", influx_database)
    assert {row["name"] for row in names} == {measurement for measurement, _ in sent}
    for measurement, point in sent:
        query = f"SELECT * FROM {quoted(measurement)} GROUP BY *"
        (row,) = influxdb.query(query, influx_database)
        # What is empty is no tag.
        empty = {key for key in point if key.startswith("t") and point[key] == ""}
        # Large doubles come back as integers with zeros at their ends.
        doubles = {key: float(row[key]) for key in point if type(point[key]) is float}
        assert {**row, **doubles} == {key: point[key] for key in point if key not in empty}


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        # A measurement that begins with "#".
        ([b"#m v=1 1"], []),
        # A field that is named "time", and one whose name begins with a tab.
        ([b"m time=5,v=1 1"], [{"time": 1, "v": 1}]),
        ([b"m \tf=1 1"], [{"time": 1, "f": 1}]),
        # A measurement with a backslash before a comma, or a quotation mark: it has another name.
        ([b"m\\\\,b v=1 1"], []),
        ([b'm\\"b v=1 1'], []),
        # A tag that ends with one, or has a line break behind it.
        ([b"m,t=a\\", b"m v=1 1"], [{"time": 1, "t": "a\\\nm", "v": 1}]),
        # A body that is line protocol, with a quotation mark that another one's closes.
        ([b'm v="open', b"m v=1 1", b'm v=" 2'], [{"time": 2, "v": "open\nm v=1 1\nm v="}]),
    ],
)
def test_what_would_be_refused_is_what_influxdb_changes_without_a_word(
    influxdb: Server,
    influx_database: str,
    client: InfluxDB,
    lines: list[bytes],
    found: list[dict[str, object]],
) -> None:
    assert client.write(lines) == []
    assert influxdb.query(r'SELECT * FROM "m\\,b", "m\\\"b", m', influx_database) == found


def test_a_message_never_takes_the_next_one_for_a_part_of_itself(
    influxdb: Server, influx_database: str, client: InfluxDB
) -> None:
    chance = seeded()
    writer = LineWriter("{routing_key}", ["t"], content_types=["text/plain=line", "x/json"])
    tokens = [b"m", b"v", b"1", b" ", b" ", b"=", b"=", b",", b'"', b'"', b"\\", b"\n", b"#", b"\r"]
    lines: list[bytes] = []
    while len(lines) < 1000:
        body = b"m" + b"".join(chance.choices(tokens, k=chance.randrange(12)))
        body += b" v=" + b"".join(chance.choices(tokens, k=chance.randrange(1, 6)))
        messages = [source(body, content_type="text/plain")]
        if b"\n" not in body:
            body_of_json = {"t": body.decode(), "v": body.decode(), body.decode(): 1}
            messages.append(source(body_of_json, content_type="x/json", routing_key=body.decode()))
        for message in messages:
            try:
                written = writer.line(message)
            except Fault:
                continue
            assert written is not None
            lines += [written, b"kept v=1 %d" % len(lines)]
    faults = dict(client.write(lines))
    # InfluxDB itself refuses few of them.
    assert len(faults) < len(lines) / 2
    assert not [position for position in faults if lines[position].startswith(b"kept")]
    kept = influxdb.query("SELECT * FROM kept", influx_database)
    assert len(kept) == len(lines) / 2
