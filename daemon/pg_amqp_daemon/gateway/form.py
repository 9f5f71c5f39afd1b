"""The fields of a form: bytes, exactly as they were sent."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from pg_amqp_daemon.gateway.problem import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

URLENCODED = b"application/x-www-form-urlencoded"
MULTIPART = b"multipart/form-data"
_MOST_FIELDS = 100

Pairs = list[tuple[bytes, bytes]]


def urlencoded(data: bytes) -> Pairs:
    """The fields of a query or of a form, in order. Raises Problem."""
    if not data:
        return []
    if data.count(b"&") >= _MOST_FIELDS:
        raise _too_many()
    pairs = []
    for part in data.split(b"&"):
        name, _, value = part.partition(b"=")
        pairs.append((_decoded(name), _decoded(value) if value else value))
    return pairs


def _decoded(text: bytes) -> bytes:
    if b"+" in text:
        text = text.replace(b"+", b" ")
    return unquote_to_bytes(text) if b"%" in text else text


def multipart(content_type: bytes, data: bytes) -> Pairs:
    """The fields of a form that was sent as multipart/form-data, files like others."""
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise Problem(400, "multipart/form-data without a boundary")
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(data)
        parser.finalize()
    except FormParserError:
        raise Problem(400, "the body is no multipart/form-data") from None
    if not parts.ended:
        raise Problem(400, "the body ends within a part of the form")
    return parts.pairs


class _Parts:
    """Collects the parts of a form."""

    def __init__(self) -> None:
        self.pairs: Pairs = []
        self.ended = False
        self._field = b""
        self._value = b""
        self._name = b""
        self._data: list[bytes] = []

    def callbacks(self) -> MultipartCallbacks:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
            "on_end": self._on_end,
        }

    def _begin(self) -> None:
        if len(self.pairs) >= _MOST_FIELDS:
            raise _too_many()
        self._name, self._data = b"", []

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        from python_multipart.multipart import parse_options_header

        if self._field.lower() == b"content-disposition":
            self._name = parse_options_header(self._value)[1].get(b"name", b"")
        self._field = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        self.pairs.append((self._name, b"".join(self._data)))

    def _on_end(self) -> None:
        self.ended = True


def _too_many() -> Problem:
    return Problem(400, f"more than {_MOST_FIELDS} fields")
