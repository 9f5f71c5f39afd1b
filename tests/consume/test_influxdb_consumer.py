"""A queue into a real InfluxDB, by the daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pg_amqp_daemon.consume.influxdb.line import LineWriter
from servers.influxdb import InfluxDB
from servers.processes import wait_for
from servers.relay import ConsumeProcess
from support.consumers import Consumer, Desk, desk
from support.fix_servers import VHost
from support.patience import LIMIT

PAGE = {"duration": 4.52, "uri": "/example", "user_id": "arthurdent"}


@pytest.fixture
def consumers(
    database: str, broker: VHost, influxdb: InfluxDB, influx_database: str
) -> Iterator[Desk]:
    """Makes consumers that write to an InfluxDB database of this test's own."""
    with desk(database, broker) as make:

        def to_influxdb(**columns: Any) -> Consumer:
            return make(influxdb="metrics", **{"measurement": "{routing_key}", **columns})

        make(enabled=False).session.run(
            "INSERT INTO amqp.influxdb (name, url, database) VALUES ('metrics', %s, %s)",
            influxdb.url,
            influx_database,
        )
        yield to_influxdb


def say(consumer: Consumer, body: object, **properties: Any) -> None:
    """Publish JSON."""
    consumer.publish(json.dumps(body), content_type="application/json", **properties)


def points(influxdb: InfluxDB, database: str, consumer: Consumer) -> list[dict[str, Any]]:
    """The points of its measurement."""
    return influxdb.query(f'SELECT * FROM "{consumer.queue}"', database)


def test_a_message_becomes_the_point_that_the_storage_exchange_made(
    daemon: ConsumeProcess, consumers: Desk, influxdb: InfluxDB, influx_database: str
) -> None:
    consumer = consumers(tags=["uri"])
    say(consumer, PAGE, timestamp=1397597512, message_id="one")
    consumer.wait_for_stored(1)
    (point,) = points(influxdb, influx_database, consumer)
    assert {name: point[name] for name in PAGE} == PAGE
    assert point["time"] // 1_000_000_000 == 1397597512


def test_what_cannot_be_written_is_set_aside_with_the_words_of_influxdb_and_the_rest_is_written(
    daemon: ConsumeProcess, consumers: Desk, influxdb: InfluxDB, influx_database: str
) -> None:
    consumer = consumers(other_content="dead")
    say(consumer, {"value": 1.5})
    consumer.wait_for_stored(1)
    for number in range(50):
        say(consumer, {"value": float(number)} if number % 10 else {"value": "text"})
    consumer.publish("{", content_type="application/json")
    consumer.publish("text", content_type="text/plain")
    consumer.wait_until("the dead ones", lambda status: status["dead"] == 7)
    consumer.wait_for_stored(46)
    assert len(points(influxdb, influx_database, consumer)) == 46
    errors = consumer.dead()
    assert sum("field type conflict" in error for _, error in errors) == 5
    wait_for(lambda: consumer.ready() == 0, LIMIT, "all to be received")
    # Mended, they are written.
    influxdb.query(f'DROP MEASUREMENT "{consumer.queue}"', influx_database)
    say(consumer, {"value": "text"})
    consumer.wait_for_stored(47)
    again = "SELECT amqp.retry_dead_messages(%s)"
    assert consumer.session.value(again, consumer.name) == 7
    consumer.wait_until("those that can be", lambda status: status["dead"] == 2)
    assert len(points(influxdb, influx_database, consumer)) == 6


def test_other_content_is_acknowledged_and_counted(
    daemon: ConsumeProcess, consumers: Desk, influxdb: InfluxDB, influx_database: str
) -> None:
    consumer = consumers()
    consumer.publish("text", content_type="text/plain")
    say(consumer, {"value": 1})
    consumer.wait_for_stored(1)
    consumer.wait_until("the skipped one", lambda status: status["skipped"] == 1)
    assert consumer.dead() == []


@pytest.mark.slow
def test_while_influxdb_is_away_nothing_is_lost_and_nothing_is_written_twice(
    daemon: ConsumeProcess, consumers: Desk, influxdb: InfluxDB, influx_database: str
) -> None:
    consumer = consumers()
    say(consumer, {"number": 0})
    consumer.wait_for_stored(1)
    influxdb.kill()
    try:
        for number in range(1, 3000):
            say(consumer, {"number": number})
        consumer.wait_for_trouble("InfluxDB")
    finally:
        influxdb.start()
    consumer.wait_for_stored(3000)
    wait_for(lambda: consumer.ready() == 0, LIMIT, "all to be received")
    found = points(influxdb, influx_database, consumer)
    assert sorted(point["number"] for point in found) == list(range(3000))
    assert consumer.status()["dead"] == 0


@pytest.mark.slow
def test_a_database_that_is_missing_is_told_and_awaited(
    daemon: ConsumeProcess, consumers: Desk, influxdb: InfluxDB, influx_database: str
) -> None:
    consumer = consumers()
    say(consumer, {"number": 0})
    consumer.wait_for_stored(1)
    influxdb.query(f'DROP DATABASE "{influx_database}"')
    say(consumer, {"number": 1})
    consumer.wait_for_trouble("database not found")
    influxdb.query(f'CREATE DATABASE "{influx_database}"')
    consumer.wait_for_stored(2)
    assert len(points(influxdb, influx_database, consumer)) == 1


def test_a_changed_row_of_influxdb_counts(
    daemon: ConsumeProcess, consumers: Desk, influxdb: InfluxDB, influx_database: str
) -> None:
    consumer = consumers()
    url = influxdb.url
    consumer.session.run("UPDATE amqp.influxdb SET url = 'http://127.0.0.1:1'")
    consumer.wait_for_trouble("127.0.0.1:1")
    say(consumer, {"number": 0})
    consumer.session.run("UPDATE amqp.influxdb SET url = %s", url)
    consumer.wait_for_stored(1)
    consumer.wait_until("no trouble", lambda status: status["trouble"] is None)


WRONG = [
    ({"measurement": None}, "measurement"),
    ({"measurement": "{nothing}"}, "measurement"),
    ({"measurement": "a{"}, "measurement"),
    ({"tags": [""]}, "tags"),
    ({"tags": ["a={b}"]}, "tags"),
    ({"tags": ["a", "a={routing_key}"]}, "twice"),
    ({"fields": '{"a": "number"}'}, "fields"),
    ({"fields": "[]"}, "fields"),
    ({"fields": '{"a": 1}'}, "fields"),
    ({"fields": '{"a": "integer"}', "tags": ["a"]}, "must not name a tag"),
    ({"time": "now"}, "time"),
    ({"content_types": ["json"]}, "content_types"),
    ({"deduplicate_by": "message_id"}, "deduplicate_by"),
]
RIGHT: list[dict[str, Any]] = [
    {"measurement": "a {{b}} {headers.x-site} {body.a.b} {type}"},
    {"tags": ["a.b", "site={headers.site}", "fixed=yes"]},
    {"fields": '{"a": "integer", "b": "none"}'},
    {"time": "body.at:ms"},
    {"time": "timestamp"},
    {"time": "headers.timestamp_in_ms:ms"},
    {"content_types": ["application/json", "text/plain=line", "=json"]},
]


@pytest.mark.parametrize(("columns", "words"), WRONG)
def test_a_row_that_cannot_make_points_is_refused(
    consumers: Desk, columns: dict[str, Any], words: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=words):
        consumers(**columns)
    # The daemon would not take it either.
    row: dict[str, Any] = {"measurement": "m", **columns}
    if words != "deduplicate_by" and columns != {"fields": "[]"}:
        with pytest.raises((ValueError, TypeError, AttributeError)):
            writer(row)


@pytest.mark.parametrize("columns", RIGHT)
def test_a_row_that_can_is_taken(consumers: Desk, columns: dict[str, Any]) -> None:
    consumers(**columns)
    assert writer({"measurement": "m", **columns})


def writer(row: dict[str, Any]) -> LineWriter:
    """What the daemon makes of a row."""
    return LineWriter(
        row["measurement"],
        row.get("tags") or (),
        json.loads(row.get("fields", "{}")),
        row.get("time"),
        row.get("content_types") or ("application/json",),
    )
