"""What a broker says while a connection is opened, for peers that only begin like one."""

from __future__ import annotations

from typing import Any

from pika import frame, spec


def method(method: Any, channel: int = 0) -> bytes:
    """The frame of a method."""
    encoded: bytes = frame.Method(channel, method).marshal()
    return encoded


START = method(spec.Connection.Start(0, 9, {"product": "Liar"}, "PLAIN", "en_US"))
TUNE = method(spec.Connection.Tune(2047, 131072, 0))
OPENED = b"".join(
    [
        START,
        TUNE,
        method(spec.Connection.OpenOk()),
        method(spec.Channel.OpenOk(), 1),
        method(spec.Confirm.SelectOk(), 1),
    ]
)
HEARTBEAT = bytes(frame.Heartbeat().marshal())
