"""Fixtures for all tests."""

pytest_plugins = ["fix_servers", "fix_sessions"]
