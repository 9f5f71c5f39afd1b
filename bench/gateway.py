"""`pg-amqp gateway`: confirmed messages over HTTP, beside what else takes them."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pika

from bench.clock import cpu, in_turn, median
from bench.finding import Cell, Finding, Goal, Table
from bench.lab import Lab
from bench.limit import Limit, encoded
from pg_amqp_py.wire.message import Envelope
from servers.gateway import GatewayProcess
from servers.processes import Process, children, create_folder, free_port, wait_for
from servers.rabbitmq import RabbitMQ

_CLIENTS = 64
_LINES = 1000
_BODY = "x" * 100
_FORM = f"body={_BODY}&content_type=text/plain&delivery_mode=2&app_id=bench"
_LINE = (
    f'{{"exchange":"amq.topic","routing_key":"bench","payload":"{_BODY}","properties":'
    '{"content_type":"text/plain","delivery_mode":2,"app_id":"bench"}}'
)
_MANAGED = _LINE.replace('"exchange":"amq.topic",', "").replace(
    '"payload"', '"payload_encoding":"string","payload"'
)
_PATH = "/%2F/amq.topic/bench"
_MANAGEMENT_PATH = "/api/exchanges/%2F/amq.topic/publish"
_LOGIN = b64encode(b"guest:guest").decode()
_SCRIPT = """
wrk.method = "POST"
wrk.headers["Authorization"] = "Basic {login}"
wrk.headers["Content-Type"] = "{content_type}"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
function delay() return {delay} end
"""
_COLUMNS = ["", "messages/s", "p50 ms", "p99 ms", "CPU µs a message"]


class Run(NamedTuple):
    """What wrk has seen in one round."""

    rate: float
    """Messages a second."""
    p50: float
    p99: float
    """Milliseconds of a request."""
    cpu: float
    """Microseconds of the server's CPU, a message; 0 if it is the broker's."""


class _Desk(NamedTuple):
    """Where it is measured."""

    lab: Lab
    folder: Path
    node: RabbitMQ


class _Target(NamedTuple):
    """What is posted to."""

    port: int
    path: str
    content_type: str
    body: str
    pids: Callable[[], list[int]]
    messages: int = 1


def measure(lab: Lab) -> Finding:
    """Each in turn with the others."""
    with ExitStack() as stack:
        folder = create_folder()
        node = stack.enter_context(RabbitMQ(plugins=["rabbitmq_management"]))
        _bind(node)
        desk = _Desk(lab, folder, node)
        url = f"amqp://127.0.0.1:{node.amqp_port}/"
        one = _form_to(stack.enter_context(_gateway(url, 1)))
        two = _form_to(stack.enter_context(_gateway(url, 2)))
        bare = _form_to(stack.enter_context(_program(desk, "bench.http_bare")))
        written = _form_to(stack.enter_context(_program(desk, "bench.http_aio_pika")))
        managed = _Target(
            node.management_port, _MANAGEMENT_PATH, "application/json", _MANAGED, list
        )
        lab.say("gateway: forms")
        ours = "`pg-amqp gateway`, one process"
        ways = {
            ours: one,
            "`pg-amqp gateway`, two processes": two,
            "limit: httptools alone, with the same publishing": bare,
            "uvicorn and aio-pika, with confirms": written,
            "RabbitMQ's management": managed,
        }
        runs = in_turn(
            lab.sizes.rounds, {name: partial(_run, desk, way) for name, way in ways.items()}
        )
        found = {name: _medians(those) for name, those in runs.items()}
        rate = found[ours].rate
        half = _medians([_run(desk, one, rate / 2) for _ in range(lab.sizes.rounds)])
        lab.say("gateway: many messages a request")
        many, limit = _measure_many(desk, one)
    forms = Table(
        f"Persistent messages of 100 bytes, a form each, {_CLIENTS} clients; "
        f"medians of {lab.sizes.rounds} rounds",
        _COLUMNS,
        [
            *(_row(name, run) for name, run in found.items()),
            _row("`pg-amqp gateway`, one process, at half that rate", half),
        ],
    )
    lines = Table(
        f"The same as {_LINES:,} lines a request, 4 clients",
        [*_COLUMNS[:2], "share of the limit", *_COLUMNS[2:]],
        [
            [
                "limit: the broker's, frames that were encoded beforehand",
                limit,
                1.0,
                None,
                None,
                None,
            ],
            [ours, many.rate, many.rate / limit, many.p50, many.p99, many.cpu],
        ],
    )
    return Finding([forms, lines], goals=_goals([*found.values()], half, many.rate / limit))


def _goals(found: list[Run], half: Run, share: float) -> list[Goal]:
    one, two, bare, written, managed = (run.rate for run in found)
    return [
        Goal("gateway, forms", one / managed, "times", 5, "management", at_least=True),
        Goal("gateway, forms", one / written, "times", 5, "uvicorn and aio-pika", at_least=True),
        Goal("gateway, forms", one / bare, "times", 0.65, "httptools alone", at_least=True),
        Goal("gateway, two processes", two / one, "times", 1.6, "one", at_least=True),
        Goal("gateway, p99 at half the rate", half.p99, "ms", 25, "-"),
        Goal("gateway, NDJSON", share, "times", 0.5, "the broker's limit", at_least=True),
    ]


def _measure_many(desk: _Desk, one: _Target) -> tuple[Run, float]:
    body = f"{_LINE}\n" * _LINES
    target = one._replace(
        path="/%2F", content_type="application/x-ndjson", body=body, messages=_LINES
    )
    count = desk.lab.sizes.gateway_limit
    envelope = Envelope(
        "amq.topic", "bench", delivery_mode=2, content_type="text/plain", app_id="bench"
    )
    stream = encoded([(envelope, _BODY.encode())] * count)
    limit = Limit(desk.node.amqp_port)
    ways: dict[str, Callable[[], Run]] = {
        "limit": lambda: Run(count / _cleared(desk, partial(limit.publish, stream)), 0, 0, 0),
        "ours": partial(_run, desk, target, clients=4),
    }
    try:
        runs = in_turn(desk.lab.sizes.rounds, ways)
    finally:
        limit.close()
    return _medians(runs["ours"]), median(run.rate for run in runs["limit"])


def _cleared(desk: _Desk, publish: Callable[[], float]) -> float:
    seconds = publish()
    _purge(desk.node)
    return seconds


def _run(desk: _Desk, target: _Target, rate: float = 0, clients: int = _CLIENTS) -> Run:
    """Post for a while, at most at this rate."""
    body = desk.folder / "body"
    body.write_text(target.body)
    script = desk.folder / "post.lua"
    script.write_text(
        _SCRIPT.format(
            login=_LOGIN,
            content_type=target.content_type,
            body=body,
            delay=round(1000 * clients / rate) if rate else 0,
        )
    )
    seconds = desk.lab.sizes.gateway_seconds
    pids = target.pids()
    before = cpu(*pids)
    done = subprocess.run(
        [
            *("wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--latency", "--timeout", "30s"),
            *("-s", script, f"http://127.0.0.1:{target.port}{target.path}"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    spent = cpu(*pids) - before
    if "Non-2xx" in done or "Socket errors" in done:
        raise RuntimeError(f"not measured: {done}")
    (count,) = re.findall(r"(\d+) requests in", done)
    (requests,) = re.findall(r"Requests/sec: +([\d.]+)", done)
    _purge(desk.node)
    return Run(
        float(requests) * target.messages,
        _milliseconds(done, "50%"),
        _milliseconds(done, "99%"),
        spent / (int(count) * target.messages) * 1e6,
    )


def _milliseconds(text: str, share: str) -> float:
    ((number, unit),) = re.findall(rf"{share} +([\d.]+)(us|ms|s)", text)
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def _medians(runs: list[Run]) -> Run:
    return Run(*(median(values) for values in zip(*runs, strict=True)))


def _row(name: str, run: Run) -> list[Cell]:
    return [name, run.rate, run.p50, run.p99, run.cpu or None]


def _bind(node: RabbitMQ) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.url())) as connection:
        channel = connection.channel()
        channel.queue_declare("bench", durable=True)
        channel.queue_bind("bench", "amq.topic", "bench")


def _purge(node: RabbitMQ) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.url())) as connection:
        connection.channel().queue_purge("bench")


def _form_to(server: tuple[int, Callable[[], list[int]]]) -> _Target:
    port, pids = server
    return _Target(port, _PATH, "application/x-www-form-urlencoded", _FORM, pids)


@contextmanager
def _gateway(url: str, workers: int) -> Iterator[tuple[int, Callable[[], list[int]]]]:
    with GatewayProcess("--broker", url, "--workers", str(workers)) as gateway:
        assert isinstance(gateway, GatewayProcess)
        yield gateway.port, lambda: children(gateway.pid)


@contextmanager
def _program(desk: _Desk, module: str) -> Iterator[tuple[int, Callable[[], list[int]]]]:
    port = free_port()
    process = Process(
        [sys.executable, "-m", module, str(port), str(desk.node.amqp_port)],
        desk.folder / f"{module}.log",
        env={"PYTHONPATH": ":".join(sys.path)},
        as_ourselves=True,
    )
    try:
        wait_for(lambda: _listens(port), 30, f"{module} to listen")
        yield port, lambda: [process.pid]
    finally:
        process.end(signal.SIGTERM)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
