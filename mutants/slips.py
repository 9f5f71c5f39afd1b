"""Realistic slips, each with the tests that must notice it."""

from __future__ import annotations

from mutants import (
    backend,
    consume,
    daemon,
    gateway,
    listen,
    mqtt,
    request,
    sql,
    stomp,
    wire,
    wire_consume,
)

SLIPS = [
    *wire.SLIPS,
    *wire_consume.SLIPS,
    *backend.SLIPS,
    *daemon.SLIPS,
    *sql.SLIPS,
    *consume.SLIPS,
    *listen.SLIPS,
    *gateway.SLIPS,
    *request.SLIPS,
    *mqtt.SLIPS,
    *stomp.SLIPS,
]
