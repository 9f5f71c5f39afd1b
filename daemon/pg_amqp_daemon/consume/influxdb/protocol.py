"""InfluxDB's line protocol: how names and texts are written, and lines that are there already.

    measurement,tag=value,tag=value field=1.5,field="text" 1397597512000000000

A backslash escapes what would end a name, and stands for itself before anything else. So a name
cannot end with one, nor have one before what InfluxDB 1.6 takes for escaped: it would read another
name, or the following lines as a part of this one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pg_amqp_daemon.consume.influxdb.message import Fault

_BAD_IN_NAME = re.compile(r'\\(?:[,= "]|\Z)')
_BAD_IN_VALUE = re.compile(r"\\(?:[,= ]|\Z)")
# InfluxDB skips some of them where a name begins.
_CONTROL = re.compile(r"[\0-\x1f]")


def escape_measurement(text: str) -> str:
    """The name of a measurement as it is written. Raises Fault."""
    _check("measurement", text)
    if text.startswith("#"):
        # InfluxDB would take the line for a comment, and say that all was written.
        raise _impossible("measurement", text, "begins with a #")
    return text.replace(",", "\\,").replace(" ", "\\ ")


def escape_name(kind: str, text: str) -> str:
    """The name of a tag or field as it is written. Raises Fault."""
    _check(kind, text)
    if text == "time":
        # InfluxDB would leave it out, and say that all was written.
        raise _impossible(kind, text, "is what it calls the time of every point")
    return _escape(text)


def escape_tag_value(name: str, text: str) -> str:
    """The value of the tag `name` as it is written. Raises Fault."""
    if "\n" in text:
        raise _impossible(f"value of the tag {name},", text, "has a line break")
    if _BAD_IN_VALUE.search(text):
        raise _impossible(f"value of the tag {name},", text, _BACKSLASH)
    return _escape(text)


def quote(text: str) -> str:
    """A text as the value of a field."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_BACKSLASH = "has a backslash at its end, or before a character that InfluxDB takes for escaped"


def _escape(text: str) -> str:
    return text.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def _check(kind: str, text: str) -> None:
    if not text:
        raise Fault("22023", f"InfluxDB cannot hold a {kind} without a name")
    if _CONTROL.search(text):
        raise _impossible(kind, text, "has a control character")
    if _BAD_IN_NAME.search(text):
        raise _impossible(kind, text, _BACKSLASH)


def _impossible(what: str, text: str, why: str) -> Fault:
    return Fault("22023", f"InfluxDB cannot hold the {what} {text[:100]!r}: it {why}")


# As InfluxDB 1.6 splits lines, only stricter: what this matches ends where InfluxDB sees its end,
# whatever follows. An open quotation mark would have it swallow the next message.
# Without possessive quantifiers: those of Python 3.11.2 match what they should not.
_FIELD = rb"""
    (?=[^=]) [^\\,=\ \n]* (?: \\[^\n] [^\\,=\ \n]* )* =
    (?: "[^"\\]* (?: \\. [^"\\]* )*" | [^",=\\\s]+ )
"""
_LINE = re.compile(
    rb"""[ \t]*
    (?: \#[^\n]*
      | (?P<point> (?=[^\s]) [^\\\ \n]* (?: \\[^\n] [^\\\ \n]* )* \ + %b (?: ,%b )* )
        (?: \ + (?P<time> -?[0-9]+ ) )? [ ]*
    )?
    \r? (?: \n | \Z )"""
    % (_FIELD, _FIELD),
    re.VERBOSE | re.DOTALL,
)


def given_points(body: bytes, time: Callable[[int], int]) -> bytes:
    """The lines of a body that is line protocol, each with a time; without comments.

    The lines without a time get `time(0)`, `time(1)` and so on, in nanoseconds. Raises Fault.
    """
    points: list[bytes] = []
    at = untimed = 0
    while at < len(body):
        found = _LINE.match(body, at)
        if found is None:
            line = body.count(b"\n", 0, at) + 1
            raise Fault("22P02", f"what begins in line {line} of the body is no line protocol")
        at = found.end()
        point = found["point"]
        if point is None:
            continue
        when = found["time"]
        if when is None:
            when = b"%d" % time(untimed)
            untimed += 1
        points.append(b"%b %b" % (point, when))
    if not points:
        raise Fault("22023", "the body has no point")
    return b"\n".join(points)
