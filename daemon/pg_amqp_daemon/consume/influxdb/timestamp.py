"""The time of a point, in nanoseconds since the epoch."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import isfinite
from zlib import crc32

from pg_amqp_daemon.consume.influxdb.message import Fault, Source
from pg_amqp_daemon.consume.influxdb.template import Body, compile_value

Time = Callable[[Source, Body], int]

_UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
# InfluxDB keeps two numbers at each end for itself.
_LATEST = 2**63 - 2
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?")
# datetime knows microseconds.
_FRACTION = re.compile(r"(?<=:[0-9]{2})[.,]([0-9]+)")


class MessageTime:
    """The time that a message has by itself.

    Its timestamp has seconds, so the rest is made of a hash of what tells it from others: a
    redelivered message has the same time again, and two of one second have two. Without a
    timestamp it is when it arrived, never the same twice.
    """

    def __init__(self) -> None:
        self._latest = 0

    def __call__(self, source: Source, body: Body, line: int = 0) -> int:
        """The time of a message, or of one of several lines in it. Raises Fault."""
        properties = source.properties
        seconds = properties.get("timestamp")
        if isinstance(seconds, int):
            message_id = properties.get("message_id")
            distinct = str(message_id).encode() if message_id else source.body
            fraction = (crc32(distinct) * 10**9 >> 32) + line
            return _in_range(seconds * 10**9 + fraction, "timestamp")
        self._latest = max(int(source.received_at * 10**9), self._latest + 1)
        return self._latest


def compile_time(text: str) -> Time:
    """What finds the time at `NAME[:UNIT]`: a name as in templates; s, ms, us or ns.

    A number is one of seconds without a unit, a text is ISO 8601, and UTC if it does not say.
    Raises ValueError.
    """
    name, unit = _split(text)
    try:
        value = compile_value(name)
    except ValueError as error:
        raise ValueError(f"{error}; behind it, a unit may be :{', :'.join(_UNITS)}") from None

    def time(source: Source, body: Body) -> int:
        return _in_range(_nanoseconds(value(source, body), name, unit), name)

    return time


def path_of_time(text: str | None) -> str | None:
    """The path in the body of the time at `text`; None if it is not in the body."""
    kind, _, path = _split(text or "")[0].partition(".")
    return path if kind == "body" else None


def _split(text: str) -> tuple[str, str]:
    """The name and the unit."""
    name, _, unit = text.rpartition(":")
    return (name, unit) if unit in _UNITS else (text, "")


def _nanoseconds(value: object, name: str, unit: str) -> int:
    if isinstance(value, str):
        if unit and _NUMBER.fullmatch(value):
            return int(Decimal(value) * _UNITS[unit])
        if not unit:
            return _from_iso(value, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        return value * _UNITS[unit or "s"]
    elif isinstance(value, float) and isfinite(value):
        # By its digits: a product of doubles is off by hundreds of nanoseconds.
        return int(Decimal(repr(value)) * _UNITS[unit or "s"])
    elif isinstance(value, datetime):
        return _since_epoch(value)
    elif value is None:
        raise Fault("22004", f"the time is missing: {name} is")
    raise Fault("22007", f"the time is none: {name} is {str(value)[:40]!r}")


def _from_iso(text: str, name: str) -> int:
    fraction = _FRACTION.search(text)
    try:
        if fraction is None:
            return _since_epoch(datetime.fromisoformat(text))
        whole = datetime.fromisoformat(text[: fraction.start()] + text[fraction.end() :])
    except (ValueError, OverflowError):
        raise Fault("22007", f"the time is not in ISO 8601: {name} is {text[:40]!r}") from None
    return _since_epoch(whole) + int(fraction[1].ljust(9, "0")[:9])


def _since_epoch(value: datetime) -> int:
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return (value - _EPOCH) // _MICROSECOND * 1000


def _in_range(nanoseconds: int, name: str) -> int:
    if -_LATEST <= nanoseconds <= _LATEST:
        return nanoseconds
    raise Fault("22008", f"InfluxDB knows times from 1677 to 2262: {name} is none of them")
