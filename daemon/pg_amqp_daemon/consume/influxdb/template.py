"""Templates such as `cpu.{routing_key}`, and the names that may stand in them.

    {routing_key} {exchange} {queue}
    {headers.NAME}   a header; in a table or an array by path: {headers.x-death.0.queue}
    {body.PATH}      a value of the JSON body by path: {body.room.sensors.0}
    {type}           a property, by AMQP's name

A brace itself is written twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pg_amqp_daemon.consume.influxdb.message import Fault, Source
from pg_amqp_py.wire.properties import PROPERTIES

Body = Mapping[str, Any]
"""The values of a JSON object by their paths: {"a": {"b": [7]}} has 7 at a.b.0."""
Value = Callable[[Source, Body], object]
Template = Callable[[Source, Body], str | None]

_PROPERTIES = tuple(name for name in PROPERTIES if name != "headers")
_PLACES = "routing_key", "exchange", "queue"
_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def compile_template(text: str) -> Template:
    """What gives the template's text for a message; None where the message lacks a part of it.

    Raises ValueError.
    """
    parts: list[str | Template] = []
    literal, end = "", 0
    for found in _PART.finditer(text):
        literal += text[end : found.start()]
        end = found.end()
        if found[1] is not None:
            parts += [literal, compile_text(found[1])]
            literal = ""
        elif found[0] in ("{{", "}}"):
            literal += found[0][0]
        else:
            raise ValueError(
                f'in "{text}", a "{found[0]}" stands alone: the character itself is written twice'
            )
    parts.append(literal + text[end:])
    parts = [part for part in parts if part != ""]
    if len(parts) == 1 and callable(parts[0]):
        return parts[0]
    return _joined(parts)


def _joined(parts: list[str | Template]) -> Template:
    def render(source: Source, body: Body) -> str | None:
        text = ""
        for part in parts:
            piece = part if isinstance(part, str) else part(source, body)
            if piece is None:
                return None
            text += piece
        return text

    return render


def compile_text(name: str) -> Template:
    """What gives the value of this name as text. Raises ValueError."""
    value = compile_value(name)
    kind, _, path = name.partition(".")
    if kind == "body":
        # Most tags are texts of the body, and cost one call.
        def render(source: Source, body: Body) -> str | None:
            found = body.get(path)
            return found if type(found) is str else to_text(found)

        return render
    if name in _PLACES:
        position = Source._fields.index(name)
        return lambda source, body: source[position]  # type: ignore[return-value]
    return lambda source, body: to_text(value(source, body))


def compile_value(name: str) -> Value:
    """What finds the value of this name in a message; None where there is none.

    Raises ValueError.
    """
    kind, _, path = name.partition(".")
    if kind == "body" and path:
        return lambda source, body: body.get(path)
    if kind == "headers" and path:
        return lambda source, body: _at(source.headers(), path)
    if name in _PLACES:
        position = Source._fields.index(name)
        return lambda source, body: source[position]
    if name in _PROPERTIES:
        return lambda source, body: source.properties.get(name)
    raise ValueError(
        f'a message has no "{name}": it has {", ".join(_PLACES)}, headers.NAME, body.PATH '
        f"and the properties {', '.join(_PROPERTIES)}"
    )


def to_text(value: object) -> str | None:
    """A value as text; None for null, and for what has parts."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, (Mapping, list)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Fault("22021", "a header is no text: it is not UTF-8") from None
    return str(value)


def flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a JSON object by their paths. Raises Fault."""
    flat: dict[str, Any] = {}
    try:
        _flatten(value, "", flat)
    except RecursionError:
        raise Fault("54001", "the body is nested too deeply") from None
    return flat


def _flatten(value: Mapping[str, Any], prefix: str, flat: dict[str, Any]) -> None:
    for name, item in value.items():
        path = prefix + name
        if type(item) is list:
            item = dict(zip(map(str, range(len(item))), item, strict=True))
        if type(item) is dict:
            _flatten(item, path + ".", flat)
        elif path in flat:
            raise Fault("22023", f'the body has two values at "{path[:100]}"')
        else:
            flat[path] = item


def _at(value: Any, path: str) -> object:
    """The value at a path; a name may have dots itself."""
    if isinstance(value, list):
        value = dict(zip(map(str, range(len(value))), value, strict=True))
    if not isinstance(value, Mapping):
        return None
    if path in value:
        found: object = value[path]
        return found
    name, _, rest = path.partition(".")
    return _at(value.get(name), rest) if rest else None
