"""Publishes what is posted over HTTP, with confirms: it needs no database."""
