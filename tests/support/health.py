"""What a relay says of itself over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from servers.processes import wait_for
from servers.relay import DaemonProcess
from support.patience import LIMIT


class Watched(DaemonProcess):
    """A daemon that answers /metrics and /health."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, "--listen-metrics", "127.0.0.1:0")

    @property
    def url(self) -> str:
        """Where it answers."""
        url: str = self.wait_for_event("metrics")["url"].removesuffix("/metrics")
        return url

    def health(self, code: int) -> dict[str, Any]:
        """Wait until /health answers with this code, and return what it says."""
        wait_for(lambda: self._get("health")[0] == code, LIMIT, f"/health to be {code}")
        found: dict[str, Any] = json.loads(self._get("health")[1])
        return found

    def metric(self, name: str) -> float | None:
        """Return the value of a metric; None if there is none."""
        for line in self._get("metrics")[1].splitlines():
            known, _, value = line.rpartition(" ")
            if known == name:
                return float(value)
        return None

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.url}/{path}", timeout=LIMIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


class WatchedRelay(Watched):
    """A relay that does."""

    command = "relay"


@contextmanager
def watched(dsn: str) -> Iterator[tuple[WatchedRelay, Callable[[int], dict[str, Any]]]]:
    """A relay that runs, and its health."""
    with WatchedRelay(dsn) as relay:
        assert isinstance(relay, WatchedRelay)
        yield relay, relay.health
