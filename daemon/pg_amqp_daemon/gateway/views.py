"""What is read: how the gateway does, and what it has done."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from pg_amqp_daemon.gateway.app import Answer, View
from pg_amqp_daemon.gateway.metrics import Together
from pg_amqp_daemon.gateway.openapi import document

_JSON = ((b"content-type", b"application/json"),)
_TEXT = ((b"content-type", b"text/plain; charset=utf-8"),)
_METRICS = ((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),)
_INDEX = b"""pg-amqp gateway: POST /{vhost}/{exchange}/{routing key} publishes to RabbitMQ.
/openapi.json says how; /live and /ready say how it does.
"""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = resource.getpagesize()
_SECTOR = 512


class Views:
    """What one process answers for all of them."""

    def __init__(
        self,
        together: Together,
        tell: Callable[[], object],
        ready: Callable[[], Any],
        place: tuple[str, int],
    ) -> None:
        self._together = together
        self._tell = tell
        """Called before others' numbers are read: ours shall not be older."""
        self._ready = ready
        self._place = place
        """Where it listens."""

    def public(self) -> dict[bytes, View]:
        """What says nothing of logins."""
        return {
            b"/": self.index,
            b"/live": self.live,
            b"/ready": self.ready,
            b"/openapi.json": self.openapi,
        }

    def private(self) -> dict[bytes, View]:
        """What shows logins and virtual hosts."""
        return {b"/stats": self.stats, b"/metrics": self.metrics}

    async def index(self) -> Answer:
        """What this is."""
        return Answer(200, _TEXT, _INDEX)

    async def live(self) -> Answer:
        """That the process answers."""
        return Answer(200, _JSON, b'{"live":true}\n')

    async def ready(self) -> Answer:
        """Whether RabbitMQ is there."""
        trouble = await self._ready()
        if trouble is None:
            return Answer(200, _JSON, b'{"ready":true}\n')
        body = orjson.dumps({"ready": False, "reason": trouble})
        return Answer(503, (*_JSON, (b"retry-after", b"1")), body)

    async def openapi(self) -> Answer:
        """How it is used, as OpenAPI has it."""
        return Answer(200, _JSON, orjson.dumps(document()))

    async def metrics(self) -> Answer:
        """The numbers of all processes, for Prometheus."""
        self._tell()
        return Answer(200, _METRICS, self._together.page())

    async def stats(self) -> Answer:
        """The numbers of all processes, in the shape of statelessd's."""
        self._tell()
        host, port = self._place
        stats: dict[str, Any] = {"host": host, "port": port, "timestamp": int(time.time())}
        stats |= _usage(_processes())
        requests: dict[str, float] = {"processing_time": 0.0}
        connections: dict[str, dict[str, Any]] = {}
        for name, labels, value in self._together.samples():
            known = name.removeprefix("pg_amqp_gateway_")
            if known == "requests_total":
                requests[f"method.{labels['method']}"] = int(value)
            elif known == "responses_total":
                requests[f"response.{labels['status']}"] = int(value)
            elif known == "request_seconds_total":
                requests["processing_time"] = value
            elif "user" in labels:
                login = f"{labels['vhost']}:{labels['user']}"
                _add(connections.setdefault(login, _nothing()), known, value)
        return Answer(
            200, _JSON, orjson.dumps({**stats, "requests": requests, "connections": connections})
        )


def _nothing() -> dict[str, Any]:
    return {
        "connected": False,
        "connections": {"opened": 0, "closed": 0},
        "channels": {"opened": 0, "closed": 0},
        "publishes": 0,
        "queue_size": 0,
    }


def _add(shown: dict[str, Any], name: str, value: float) -> None:
    if name == "connected":
        shown["connected"] = value > 0
    elif name == "under_way":
        shown["queue_size"] = int(value)
    elif name == "published_total":
        shown["publishes"] = int(value)
    elif name in ("connections_opened_total", "connections_closed_total"):
        what = name.split("_")[1]
        # Each has one channel.
        shown["connections"][what] = shown["channels"][what] = int(value)


def _processes() -> list[int]:
    """The processes of this gateway that answer requests."""
    parent = os.getppid()
    try:
        return [
            int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        ]
    except OSError:
        return [os.getpid()]


def _usage(pids: list[int]) -> dict[str, Any]:
    """What these use, by /proc, summed."""
    user = system = 0.0
    minor = major = memory = voluntary = reads = writes = 0
    for pid in pids:
        try:
            folder = Path(f"/proc/{pid}")
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            minor += int(stat[7])
            major += int(stat[9])
            user += int(stat[11]) / _TICKS
            system += int(stat[12]) / _TICKS
            memory += int(stat[21]) * _PAGE
            status = (folder / "status").read_text()
            voluntary += sum(
                int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line
            )
            io = dict(line.split(": ") for line in (folder / "io").read_text().splitlines())
            reads += int(io["read_bytes"]) // _SECTOR
            writes += int(io["write_bytes"]) // _SECTOR
        except (OSError, KeyError):
            # It has ended, or is not ours to look at.
            continue
    return {
        "block": {"input": reads, "output": writes},
        "context_switches": voluntary,
        "cpu_time": {"user": user, "system": system},
        "memory_usage": memory,
        "page_faults": {"minor": minor, "major": major},
        "page_size": _PAGE,
        "signals_received": 0,
        "swap_outs": 0,
    }
