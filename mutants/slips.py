"""Realistic slips, each with the tests that must notice it."""

from __future__ import annotations

from mutants import backend, consume, daemon, sql, wire, wire_consume

SLIPS = [
    *wire.SLIPS,
    *wire_consume.SLIPS,
    *backend.SLIPS,
    *daemon.SLIPS,
    *sql.SLIPS,
    *consume.SLIPS,
]
