"""Realistic slips, each with the tests that must notice it."""

from __future__ import annotations

from typing import NamedTuple


class Slip(NamedTuple):
    """A change to the code that somebody could make by mistake."""

    what: str
    """What goes wrong by it, in a few words."""
    file: str
    old: str
    """The text that it replaces, which occurs once in the file."""
    new: str
    tests: tuple[str, ...]
    """What pytest is given: files, or single tests."""


SLIPS: list[Slip] = [
    Slip(
        "the memory of method frames grows without bound",
        "extension/pg_amqp_py/wire/encode.py",
        """            if len(self._methods) >= _KEPT_ENVELOPES:
                self._methods.clear()
""",
        "",
        ("tests/wire/test_encode.py",),
    ),
    Slip(
        "tags of what is not written after all stay given out",
        "extension/pg_amqp_py/wire/pump.py",
        "    channel.give_back(attempt.excess)\n",
        "",
        ("tests/wire/test_pump.py",),
    ),
    Slip(
        "an exchange counts as seen though messages to it were refused late",
        "extension/pg_amqp_py/wire/channel.py",
        """        self.forget_exchanges()
        self.reopen(deadline)
""",
        "        self.reopen(deadline)\n",
        ("tests/wire/test_channel.py", "tests/failures/test_late_refusal.py"),
    ),
    Slip(
        "a connection with half a frame written is gone on with",
        "extension/pg_amqp_py/wire/connection.py",
        "if not isinstance(error, StalledError) or (sending and not self.heartbeat):",
        "if not isinstance(error, StalledError):",
        ("tests/wire/test_connection.py",),
    ),
    Slip(
        "an address that swallows packets takes all the time",
        "extension/pg_amqp_py/wire/transport.py",
        "share = now + (deadline - now) / (len(found) - at)",
        "share = deadline",
        ("tests/wire/test_transport.py",),
    ),
    Slip(
        "nobody watches for a peer that is gone",
        "extension/pg_amqp_py/wire/transport.py",
        "    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)\n",
        "",
        ("tests/wire/test_transport.py",),
    ),
    Slip(
        "an empty password becomes none",
        "extension/pg_amqp_py/wire/uri.py",
        "_decode(password) if colon else None",
        "_decode(password) or None",
        ("tests/wire/test_uri.py",),
    ),
    Slip(
        "confirms of earlier messages are taken for those of the batch alone",
        "extension/pg_amqp_py/wire/channel.py",
        "if confirms is None or self.late:",
        "if confirms is None:",
        ("tests/wire/test_channel.py",),
    ),
    Slip(
        "unattended messages of a closed channel are asked for in the next one",
        "extension/pg_amqp_py/wire/channel.py",
        "self._unattended = self._refusing = self._shut = False",
        "self._refusing = self._shut = False",
        ("tests/wire/test_channel_states.py",),
    ),
]
