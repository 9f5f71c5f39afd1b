"""How long tests wait for what otherwise would hang."""

LIMIT = 300.0
"""Seconds; nothing comes near it."""
