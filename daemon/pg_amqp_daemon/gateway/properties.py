"""A message's properties from text, or from JSON, to what wire takes: pure functions."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from pg_amqp_daemon.gateway.problem import Problem, invalid
from pg_amqp_py.wire.fields import FIELDS

_NUMBERS = {"delivery_mode", "priority", "timestamp"}
_ALIASES = {"expire": "expiration"}
"""What statelessd called it."""
_TRUE = {"true", "1", "t", "yes", "on"}
_FALSE = {"false", "0", "f", "no", "off"}
_NUMBER = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_VERSION_4 = 0x4 << 76 | 0x2 << 62
"""Version and variant."""
_RANDOM = (1 << 128) - 1 & ~(0xF << 76) & ~(0x3 << 62)
_PLACE = {"exchange", "routing_key"}

Values = dict[str, Any]
"""Fields of a message by name, of the types that wire takes."""


def fields_of(exchange: str, routing_key: str, values: Values) -> tuple[object, ...]:
    """The fields of an Envelope; a message without an id gets one."""
    values["exchange"], values["routing_key"] = exchange, routing_key
    if not values.get("message_id"):
        values["message_id"] = _uuid()
    values.setdefault("mandatory", False)
    return tuple(map(values.get, FIELDS))


def _uuid() -> str:
    """A random UUID (RFC 9562, version 4), at a third of what the uuid module takes."""
    number = secrets.randbits(128) & _RANDOM | _VERSION_4
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def from_pairs(pairs: Iterable[tuple[bytes, bytes]]) -> tuple[Values, bytes | None]:
    """The properties in the fields of a form, or of a query, and its `body`.

    Of what is given twice, the last counts; what is no property is passed over. Raises Problem.
    """
    texts: dict[str, bytes] = {}
    body = None
    for name, value in pairs:
        if name == b"body":
            body = value
            continue
        known = _canonical(name)
        if known in _FROM_TEXT:
            texts[known] = value
    return {name: _FROM_TEXT[name](name, _text(name, value)) for name, value in texts.items()}, body


@lru_cache(maxsize=256)
def _canonical(name: bytes) -> str:
    """The name of a property, whether it is written with dashes or underscores."""
    text = name.decode("latin-1").replace("-", "_")
    return _ALIASES.get(text, text)


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid(name, "not UTF-8") from None


def _as_it_is(_name: str, text: str) -> str:
    return text


def _number(name: str, text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise invalid(name, "not a whole number")
    return int(text)


def truth(name: str, text: str) -> bool:
    """Whether a flag is set."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise invalid(name, "neither true nor false")


def _headers(name: str, text: str) -> str:
    try:
        table = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise invalid(name, "not JSON") from None
    return _table(name, table)


def _no_constant(_text: str) -> object:
    raise ValueError


def _table(name: str, table: object) -> str:
    if not isinstance(table, dict):
        raise invalid(name, "not a JSON object")
    try:
        return json.dumps(table, ensure_ascii=False)
    except RecursionError:
        raise invalid(name, "nested too deeply") from None


_FROM_TEXT: dict[str, Callable[[str, str], Any]] = {
    name: _number if name in _NUMBERS else _as_it_is for name in FIELDS if name not in _PLACE
} | {"headers": _headers, "mandatory": truth}


def from_json(properties: object) -> Values:
    """The properties in an object of JSON, as management has it. Raises Problem."""
    if not properties:
        # Management takes an empty list, too.
        return {}
    if not isinstance(properties, Mapping):
        raise Problem(400, "properties is not a JSON object", field="properties")
    values: Values = {}
    for name, value in properties.items():
        known = _ALIASES.get(name.replace("-", "_"), name.replace("-", "_"))
        if known in _FROM_TEXT and known != "mandatory" and value is not None:
            values[known] = _typed(known, value)
    return values


def _typed(name: str, value: object) -> Any:
    if name == "headers":
        return _table(name, value)
    if isinstance(value, str):
        return _FROM_TEXT[name](name, value)
    if isinstance(value, int) and not isinstance(value, bool):
        # RabbitMQ has the time to live as text; people write a number.
        if name in _NUMBERS:
            return value
        if name == "expiration":
            return str(value)
    raise invalid(name, "a value of another type")
