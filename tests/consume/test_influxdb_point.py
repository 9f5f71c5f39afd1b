"""Lines beside those of InfluxData's own client."""

from __future__ import annotations

import random

from influxdb_client import Point

from pg_amqp_daemon.consume.influxdb.line import LineWriter
from support.points import ALPHABET, seeded, source, time_of

# What the client changes instead of refusing it: backslashes and line breaks in names.
NAMES = [character for character in ALPHABET if character != "\\"]

# In a row, an equals sign ends the name of a tag.
PATHS = [character for character in NAMES if character != "="]


def text(chance: random.Random, alphabet: list[str]) -> str:
    return "x" + "".join(chance.choices(alphabet, k=chance.randrange(6)))


def value(chance: random.Random) -> object:
    kind = chance.randrange(3)
    if kind == 0:
        # It writes whole floats in another way.
        return chance.choice([-1, 1]) * (chance.random() + 0.5) * 10.0 ** chance.randrange(-20, 3)
    if kind == 1:
        return chance.random() < 0.5
    return text(chance, [*ALPHABET, "\n", "\t"])


def test_a_line_is_the_one_that_influxdatas_client_writes() -> None:
    chance = seeded()
    for number in range(2000):
        measurement = text(chance, NAMES)
        tags = {"t" + text(chance, PATHS): text(chance, NAMES) for _ in range(chance.randrange(3))}
        # It sorts fields; ours writes those that have a type in the row after all others.
        fields = {"f" + text(chance, NAMES): value(chance) for _ in range(chance.randrange(1, 5))}
        integers = {
            "i" + text(chance, NAMES): chance.randrange(-(2**63), 2**63)
            for _ in range(chance.randrange(2))
        }
        fields = dict(sorted(fields.items()))
        writer = LineWriter("{routing_key}", list(tags), dict.fromkeys(integers, "integer"))
        message = source(
            {**tags, **fields, **integers}, routing_key=measurement, message_id=str(number)
        )
        point = Point(measurement).time(time_of(writer, message))
        for name, tag in tags.items():
            point.tag(name, tag)
        for name, field in {**fields, **integers}.items():
            point.field(name, field)
        written = writer.line(message)
        assert written is not None
        assert written.decode() == point.to_line_protocol()
