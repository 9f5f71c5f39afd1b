"""The gateway as OpenAPI describes it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pg_amqp_daemon.gateway.request import NDJSON

ANSWERS = {
    202: "The message waits in amqp.outbox.",
    204: "RabbitMQ has confirmed the message, and with mandatory it was routed.",
    400: "A field is no value of its property, or there is no such request.",
    401: "RabbitMQ has refused the login, or there is none.",
    403: "The login may not use the virtual host or the exchange, or user_id is not the login.",
    404: "There is no such path, virtual host or exchange.",
    405: "Another method; Allow says which.",
    408: "Headers or body came too slowly.",
    411: "Neither Content-Length nor chunked.",
    413: "The body is too large, for the gateway or for RabbitMQ.",
    415: "A form with a Content-Encoding, or many messages of another content type.",
    422: "No queue took the message, though mandatory; or a queue has rejected it.",
    429: "Too many wrong passwords came from there.",
    431: "Too many or too large headers.",
    503: "Surely not published: RabbitMQ is away or blocks publishers, or there is too much to do.",
    504: "May have been published: RabbitMQ has not confirmed it in time.",
}
"""What each status means."""
_POSTED = (400, 401, 403, 404, 408, 411, 413, 415, 422, 429, 431, 503, 504)
_Schema = dict[str, Any]
_NUMBERS: dict[str, _Schema] = {
    "delivery_mode": {"enum": [1, 2]},
    "priority": {"minimum": 0, "maximum": 255},
    "timestamp": {"minimum": 0, "description": "Seconds since 1970-01-01 UTC."},
}
_TEXTS = {
    "content_type": "",
    "content_encoding": "",
    "correlation_id": "",
    "reply_to": "",
    "expiration": "Time to live in milliseconds; expire means the same.",
    "message_id": "A UUID if none is given.",
    "type": "",
    "user_id": "The login.",
    "app_id": "",
}


def document() -> dict[str, Any]:
    """The document at /openapi.json."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pg-amqp gateway",
            "version": _version(),
            "description": "Publishes to RabbitMQ, with confirms. The login is RabbitMQ's.",
        },
        "security": [{"rabbitmq": []}],
        "components": {
            "securitySchemes": {"rabbitmq": {"type": "http", "scheme": "basic"}},
            "schemas": {"Problem": _problem(), "Message": _message()},
        },
        "paths": {
            "/{vhost}/{exchange}/{routing_key}": {"post": _one()},
            "/{vhost}": {"post": _many()},
            "/api/exchanges/{vhost}/{exchange}/publish": {"post": _management()},
            **{path: {"get": _read(text)} for path, text in _READ.items()},
        },
    }


_READ = {
    "/live": "That the gateway answers.",
    "/ready": "Whether RabbitMQ is there: 503 if not.",
    "/stats": "What was done, in the shape of statelessd's.",
    "/metrics": "The same for Prometheus.",
    "/openapi.json": "This document.",
}


def _version() -> str:
    try:
        return version("pg_amqp_py")
    except PackageNotFoundError:
        return "unknown"


def _properties() -> _Schema:
    numbers = {name: {"type": "integer", **limits} for name, limits in _NUMBERS.items()}
    return {**numbers, **{name: _text(text) for name, text in _TEXTS.items()}}


def _text(description: str) -> _Schema:
    return {"type": "string", **({"description": description} if description else {})}


def _problem() -> _Schema:
    return {
        "type": "object",
        "description": "Problem details (RFC 9457).",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "Mostly RabbitMQ's own words."},
            "field": {"type": "string", "description": "What is at fault."},
            "message_id": {"type": "string", "description": "To repeat the message by."},
        },
    }


def _message() -> _Schema:
    return {
        "type": "object",
        "description": "A message as RabbitMQ's management has it.",
        "required": ["routing_key", "payload"],
        "properties": {
            "properties": {
                "type": "object",
                "properties": {**_properties(), "headers": {"type": "object"}},
            },
            "routing_key": {"type": "string"},
            "payload": {"type": "string"},
            "payload_encoding": {"enum": ["string", "base64"], "default": "string"},
        },
    }


def _one() -> _Schema:
    flags = {"mandatory": {"type": "boolean", "default": False}}
    form = {
        "type": "object",
        "required": ["body"],
        "properties": {
            "body": {"type": "string"},
            **_properties(),
            "headers": {"type": "string", "description": "A JSON object."},
            **flags,
        },
    }
    query = {**_properties(), "headers": {"type": "string"}, **flags}
    parameters = [{"name": name, "in": "query", "schema": schema} for name, schema in query.items()]
    return {
        "summary": "Publish a message, as a form, or as it is with properties in the query.",
        "parameters": [*_in_path("vhost", "exchange", "routing_key"), *parameters],
        "requestBody": {
            "content": {
                "application/x-www-form-urlencoded": {"schema": form},
                "multipart/form-data": {"schema": form},
                "*/*": {"schema": {"type": "string", "format": "binary"}},
            }
        },
        "responses": _answers(204, 202, *_POSTED),
    }


def _many() -> _Schema:
    line = {
        "allOf": [{"$ref": "#/components/schemas/Message"}],
        "required": ["exchange"],
        "properties": {
            "exchange": {"type": "string"},
            "mandatory": {"type": "boolean", "default": False},
        },
    }
    answer = {"description": "For each line, in order, its status or its problem."}
    return {
        "summary": "Publish many messages, one a line.",
        "parameters": _in_path("vhost"),
        "requestBody": {"content": {NDJSON.decode(): {"schema": line}}},
        "responses": {
            "200": {**answer, "content": {NDJSON.decode(): {}}},
            **_answers(401, 403, 404, 411, 415, 429, 503),
        },
    }


def _management() -> _Schema:
    routed = {"type": "object", "properties": {"routed": {"type": "boolean"}}}
    return {
        "summary": "Publish a message as to RabbitMQ's management.",
        "parameters": _in_path("vhost", "exchange"),
        "requestBody": {
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Message"}}}
        },
        "responses": {
            "200": {
                "description": "Confirmed, and whether it was routed.",
                "content": {"application/json": {"schema": routed}},
            },
            **_answers(202, *_POSTED),
        },
    }


def _read(text: str) -> _Schema:
    return {"summary": text, "security": [], "responses": {"200": {"description": text}}}


def _in_path(*names: str) -> list[_Schema]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]


def _answers(*statuses: int) -> _Schema:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        str(status): {
            "description": ANSWERS[status],
            **({} if status < 300 else {"content": problem}),
        }
        for status in statuses
    }
