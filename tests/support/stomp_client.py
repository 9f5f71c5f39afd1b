"""STOMP clients: stomp.py's connections, with what arrives in the order in which it came."""

from __future__ import annotations

import queue
from itertools import count
from typing import Any

import stomp
from stomp.utils import Frame

from support.fix_servers import VHost
from support.patience import LIMIT

CONNECTIONS = {
    "1.0": stomp.StompConnection10,
    "1.1": stomp.StompConnection11,
    "1.2": stomp.StompConnection12,
}


class _Listener(stomp.ConnectionListener):  # type: ignore[misc]
    """Sorts frames by what they are."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self.receipts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        """None is behind the last one."""
        self.errors: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self.ends: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.heartbeats: queue.SimpleQueue[None] = queue.SimpleQueue()

    def on_message(self, frame: Frame) -> None:
        """Keep a message."""
        self.messages.put(frame)

    def on_receipt(self, frame: Frame) -> None:
        """Keep what is confirmed."""
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame: Frame) -> None:
        """Keep an error."""
        self.errors.put(frame)

    def on_disconnected(self) -> None:
        """Keep in mind that it is over."""
        self.ends.put(None)
        self.receipts.put(None)

    def on_heartbeat(self) -> None:
        """Keep in mind that the server lives."""
        self.heartbeats.put(None)


class StompClient:
    """A connection to a virtual host, of one version of STOMP; it is open."""

    def __init__(
        self,
        broker: VHost,
        version: str = "1.2",
        *,
        login: str = "guest",
        passcode: str = "guest",
        port: int | None = None,
        **options: Any,
    ) -> None:
        self._numbers = count(1)
        self._seen = _Listener()
        host = [("127.0.0.1", port or broker.rabbitmq.stomp_port)]
        if version != "1.0":
            options["vhost"] = broker.vhost
        self.connection = CONNECTIONS[version](
            host, auto_decode=False, reconnect_attempts_max=1, **options
        )
        self.connection.set_listener("all", self._seen)
        # stomp.py sends no virtual host with 1.0.
        self.connection.connect(login, passcode, wait=True, headers={"host": broker.vhost})

    def subscribe(
        self, destination: str, name: str = "1", *, ack: str = "auto", **more: str
    ) -> None:
        """Subscribe, and return when the server has done it."""
        receipt = self._receipt()
        headers = {key.replace("_", "-"): value for key, value in more.items()}
        self.connection.subscribe(
            destination, id=name, ack=ack, headers={**headers, "receipt": receipt}
        )
        self.wait_for_receipt(receipt)

    def send(
        self, destination: str, body: str | bytes = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send a message, and return when the broker has confirmed it."""
        receipt = self._receipt()
        self.connection.send(destination, body, headers={**(headers or {}), "receipt": receipt})
        self.wait_for_receipt(receipt)

    def wait_for_receipt(self, receipt: str) -> None:
        """The next receipt, which must be this one."""
        found = self._seen.receipts.get(timeout=LIMIT)
        assert found == receipt, f"{found} instead of {receipt}; errors: {self.errors()}"

    def take(self) -> Frame:
        """The next message."""
        return self._seen.messages.get(timeout=LIMIT)

    def take_error(self) -> Frame:
        """The next error."""
        return self._seen.errors.get(timeout=LIMIT)

    def errors(self) -> list[Frame]:
        """The errors so far."""
        found = []
        while not self._seen.errors.empty():
            found.append(self._seen.errors.get())
        return found

    def wait_for_heartbeat(self) -> None:
        """Wait until the server says once more that it lives."""
        self._seen.heartbeats.get(timeout=LIMIT)

    def wait_for_end(self) -> None:
        """Wait until the connection is over."""
        self._seen.ends.get(timeout=LIMIT)

    def close(self) -> None:
        """Say goodbye, if the connection lives."""
        if self.connection.is_connected():
            self.connection.disconnect(receipt=self._receipt())

    def _receipt(self) -> str:
        return f"r-{next(self._numbers)}"
