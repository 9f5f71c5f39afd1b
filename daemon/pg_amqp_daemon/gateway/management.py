"""A message as an object of JSON, in the form of RabbitMQ's management."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any

import orjson

from pg_amqp_daemon.gateway.message import Message
from pg_amqp_daemon.gateway.paths import exchange_of
from pg_amqp_daemon.gateway.problem import Problem
from pg_amqp_daemon.gateway.properties import Values, fields_of, from_json


def one(exchange: str, body: bytes) -> Message:
    """What management's path is posted: always mandatory, as it answers whether it was routed."""
    posted = _object(body)
    values = from_json(posted.get("properties"))
    values["mandatory"] = True
    return _message(exchange, posted, values)


def line(text: bytes) -> Message:
    """One of many: the object names its exchange, too, and may be mandatory."""
    posted = _object(text)
    exchange = posted.get("exchange")
    if not isinstance(exchange, str):
        raise Problem(400, "exchange is missing, or no text", field="exchange")
    values = from_json(posted.get("properties"))
    mandatory = posted.get("mandatory", False)
    if not isinstance(mandatory, bool):
        raise Problem(400, "mandatory is neither true nor false", field="mandatory")
    values["mandatory"] = mandatory
    return _message(exchange_of(exchange), posted, values)


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Problem(400, "not JSON") from None
    if not isinstance(found, dict):
        raise Problem(400, "not a JSON object")
    return found


def _message(exchange: str, posted: dict[str, Any], values: Values) -> Message:
    routing_key = posted.get("routing_key")
    if not isinstance(routing_key, str):
        raise Problem(400, "routing_key is missing, or no text", field="routing_key")
    return Message(fields_of(exchange, routing_key, values), _payload(posted))


def _payload(posted: dict[str, Any]) -> bytes:
    payload, encoding = posted.get("payload"), posted.get("payload_encoding", "string")
    if not isinstance(payload, str):
        raise Problem(400, "payload is missing, or no text", field="payload")
    if encoding == "string":
        return payload.encode()
    if encoding != "base64":
        raise Problem(400, "payload_encoding is not string or base64", field="payload_encoding")
    try:
        return b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, "payload is not base64", field="payload") from None
