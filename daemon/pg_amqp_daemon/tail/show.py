"""How a message is shown: for people, or as JSON."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson

from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.consume.headers import readable_headers_as_json
from pg_amqp_py.wire.consume.properties import split_properties
from pg_amqp_py.wire.errors import MalformedError

Show = Callable[[Delivery], str]

_BOLD, _DIM, _PLAIN = "\033[1m", "\033[2m", "\033[0m"
_MOST = 4000
"""Characters of a body that people are shown."""
_MOST_BYTES = 64
"""Of one that is no text."""
# A terminal does what these say, and they come from whoever has published.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def as_json(delivery: Delivery) -> str:
    """One JSON object, with the whole body: as text, or else as base64."""
    shown: dict[str, Any] = {
        "exchange": _text(delivery.exchange),
        "routing_key": _text(delivery.routing_key),
        "redelivered": delivery.redelivered,
        "properties": _properties(delivery),
    }
    try:
        shown["body"] = delivery.body.decode()
    except UnicodeDecodeError:
        shown["body_base64"] = base64.b64encode(delivery.body).decode()
    return orjson.dumps(shown).decode()


def for_people(*, colours: bool) -> Show:
    """Some lines: when it came, its exchange and routing key, properties, and body."""
    bold, dim, plain = (_BOLD, _DIM, _PLAIN) if colours else ("", "", "")

    def show(delivery: Delivery) -> str:
        now = datetime.now().strftime("%H:%M:%S")
        exchange = _text(delivery.exchange) or "(default exchange)"
        again = "  (redelivered)" if delivery.redelivered else ""
        place = _harmless(f"{exchange} / {_text(delivery.routing_key)}")
        lines = [f"{dim}{now}{plain} {bold}{place}{plain}{again}"]
        for name, value in _properties(delivery).items():
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            lines.append(f"  {dim}{name}:{plain} {_harmless(text)}")
        lines += [f"  {line}" for line in _body(delivery.body).split("\n")]
        return "\n".join(lines)

    return show


def _body(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        more = " ..." if len(body) > _MOST_BYTES else ""
        return f"\\x{body[:_MOST_BYTES].hex()}{more} ({len(body):,} bytes)"
    more = f" ... ({len(text):,} characters)" if len(text) > _MOST else ""
    return _harmless(text[:_MOST]) + more


def _properties(delivery: Delivery) -> dict[str, Any]:
    """Those that were given; of what is no AMQP, that it is none."""
    try:
        given = split_properties(delivery.properties)._asdict()
        found: dict[str, Any] = {}
        for name, value in given.items():
            if name == "headers" and value is not None:
                found[name] = orjson.loads(readable_headers_as_json(value))
            elif value is not None:
                found[name] = _text(value) if isinstance(value, bytes) else value
    except MalformedError as error:
        return {"malformed": str(error)}
    return found


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _harmless(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)
