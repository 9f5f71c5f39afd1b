"""A message as a line of InfluxDB's line protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import orjson

from pg_amqp_daemon.consume.influxdb.message import Fault, Source
from pg_amqp_daemon.consume.influxdb.protocol import (
    escape_measurement,
    escape_name,
    escape_tag_value,
    given_points,
    quote,
)
from pg_amqp_daemon.consume.influxdb.template import (
    Template,
    compile_template,
    compile_text,
    flatten,
    to_text,
)
from pg_amqp_daemon.consume.influxdb.timestamp import MessageTime, compile_time, path_of_time

_REMEMBERED = 10_000
"""How many texts of messages are kept as they are written, for each purpose."""
_FORMS = "json", "line"


class LineWriter:
    """Writes messages as a row of amqp.consumer says.

    `measurement` is a template. Each of `tags` is a path in the body, or `NAME=TEMPLATE`; a message
    that lacks it has no such tag. `fields` says of paths in the body what they are: integer, float,
    string, or none to leave them out; of the others, numbers are floats. `time` is where the time
    is, such as `body.at:ms`; without it, it is the message's own (MessageTime). `content_types` are
    those of bodies that are JSON objects, and `TYPE=line` of those that are line protocol; all
    other messages are none of ours. An empty TYPE is that of messages without one.

    Used by one thread. Raises ValueError with a text for whoever wrote the row.
    """

    def __init__(
        self,
        measurement: str,
        tags: Sequence[str] = (),
        fields: Mapping[str, str] | None = None,
        time: str | None = None,
        content_types: Sequence[str] = ("application/json",),
    ) -> None:
        if not measurement:
            raise ValueError("measurement: it is empty")
        self._measurement = _say("measurement", lambda: compile_template(measurement))
        self._measurements = _Written(escape_measurement)
        self._message_time = MessageTime()
        self._time = (
            self._message_time if time is None else _say("time", lambda: compile_time(time))
        )
        self._forms = _parse_content_types(content_types)
        self._names = _Written(_field_name)
        self._tags = _compile_tags(tags)
        self._typed: list[tuple[str, str, Callable[[str, Any], str]]] = []
        # What is a tag or the time is no field as well.
        elsewhere = [tag for tag in tags if "=" not in tag]
        path = path_of_time(time)
        if path is not None:
            elsewhere.append(path)
        self._names.update(dict.fromkeys(elsewhere, ""))
        self._add_types(fields or {})

    def _add_types(self, fields: Mapping[str, str]) -> None:
        for path, kind in fields.items():
            if kind not in _TYPES:
                raise ValueError(f'fields: "{path}" must be {", ".join(_TYPES)}, not "{kind}"')
            if path in self._names:
                raise ValueError(f'fields: "{path}" is a tag or the time')
            convert = _TYPES[kind]
            if convert is not None:
                self._typed.append((path, _say("fields", partial(_field_name, path)), convert))
        self._names.update(dict.fromkeys(fields, ""))

    def line(self, source: Source) -> bytes | None:
        """The message as a line, without a line break at its end; its body may be several lines.

        None if its content type is none of the row's. Raises Fault.
        """
        content_type = source.properties.get("content_type")
        try:
            form = self._forms[content_type]
        except KeyError:
            form = self._form(content_type)
        if form is None:
            return None
        if form == "line":
            return given_points(source.body, lambda line: self._message_time(source, {}, line))
        body = _object(source.body)
        fields = self._fields(body)
        text = f"{self._key(source, body)} {fields} {self._time(source, body)}"
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise Fault("22021", "a text of the message is not Unicode") from None

    def _form(self, content_type: object) -> str | None:
        """The form of a body whose content type is not written as in the row."""
        form = self._forms.get(_bare(str(content_type or "")))
        if len(self._forms) < _REMEMBERED:
            self._forms[content_type] = form
        return form

    def _fields(self, body: Mapping[str, Any]) -> str:
        fields = []
        names = self._names
        for path, value in body.items():
            if value is None:
                continue
            name = names[path]
            if not name:
                continue
            kind = type(value)
            if kind is str:
                # Most need no escape, and cost no call.
                plain = '"' not in value and "\\" not in value
                fields.append(f'{name}"{value}"' if plain else name + quote(value))
            elif kind is bool:
                fields.append(f"{name}true" if value else f"{name}false")
            else:
                fields.append(f"{name}{value!r}")
        for path, typed_name, convert in self._typed:
            value = body.get(path)
            if value is not None:
                fields.append(typed_name + convert(path, value))
        if not fields:
            raise Fault("22023", "the body has no field, and InfluxDB no point without one")
        return ",".join(fields)

    def _key(self, source: Source, body: Mapping[str, Any]) -> str:
        measurement = self._measurement(source, body)
        if measurement is None:
            raise Fault("22004", "the message lacks what its measurement is named by")
        key = self._measurements[measurement]
        for template, written in self._tags:
            value = template(source, body)
            if value:
                key += written[value]
        return key


class _Written(dict[str, str]):
    """Texts as they are written, most of which come again; empty for what is not written."""

    def __init__(self, write: Callable[[str], str]) -> None:
        super().__init__()
        self._write = write

    def __missing__(self, text: str) -> str:
        written = self._write(text)
        if len(self) < _REMEMBERED:
            self[text] = written
        return written


def _object(text: bytes) -> dict[str, Any]:
    """The values of a JSON object by their paths. Raises Fault."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Fault("22P02", f"the body is no JSON: {error}") from None
    if type(found) is not dict:
        raise Fault("22023", "the body is no JSON object")
    for value in found.values():
        if type(value) is dict or type(value) is list:
            return flatten(found)
    return found


def _field_name(path: str) -> str:
    return escape_name("field", path) + "="


def _compile_tags(tags: Sequence[str]) -> list[tuple[Template, _Written]]:
    """What finds each tag's value, and how it is written with its name before it."""
    found: dict[str, Template] = {}
    for tag in tags:
        name, equals, template = tag.partition("=")
        if name in found:
            raise ValueError(f'tags: "{name}" is there twice')
        where = f'tags, "{tag}"'
        if equals:
            found[name] = _say(where, partial(compile_template, template))
        else:
            found[name] = _say(where, partial(compile_text, f"body.{tag}"))
    # In their order: else InfluxDB has to sort them.
    return [
        (found[name], _Written(_tag(name, _say("tags", partial(escape_name, "tag", name)))))
        for name in sorted(found)
    ]


def _tag(name: str, written_name: str) -> Callable[[str], str]:
    return lambda value: f",{written_name}={escape_tag_value(name, value)}"


def _parse_content_types(content_types: Sequence[str]) -> dict[object, str | None]:
    """The form of the bodies of each type."""
    forms: dict[object, str | None] = {}
    for entry in content_types:
        content_type, _, form = entry.rpartition("=")
        if form not in _FORMS:
            content_type, form = entry, _FORMS[0]
        bare = _bare(content_type)
        if "/" not in bare and (bare or "=" not in entry):
            raise ValueError(
                f'content_types: "{entry}" is no content type, such as application/json, or '
                "text/plain=line for line protocol"
            )
        forms[bare] = form
    if not forms:
        raise ValueError("content_types: there is none, so no message would be written")
    return forms


def _bare(content_type: str) -> str:
    """A content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def _integer(path: str, value: object) -> str:
    # JavaScript and others write the same number as 5 and as 5.0.
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    if type(number) is not int:
        raise Fault("22023", f'the field "{path}" is no integer')
    if not -(2**63) <= number < 2**63:
        raise Fault("22003", f'the field "{path}" does not fit into 64 bits')
    return f"{number}i"


def _float(path: str, value: object) -> str:
    if type(value) is not int and type(value) is not float:
        raise Fault("22023", f'the field "{path}" is no number')
    return repr(value)


def _string(path: str, value: object) -> str:
    return quote(to_text(value) or "")


_TYPES: dict[str, Callable[[str, Any], str] | None] = {
    "integer": _integer,
    "float": _float,
    "string": _string,
    "none": None,
}


_T = TypeVar("_T")


def _say(where: str, compile_part: Callable[[], _T]) -> _T:
    """Compile a part of the row, and say where it is if that cannot be done."""
    try:
        return compile_part()
    except (ValueError, Fault) as error:
        raise ValueError(f"{where}: {error}") from None
