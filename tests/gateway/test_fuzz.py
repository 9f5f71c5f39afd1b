"""Anything over the socket: no defect, no traceback, no growing memory, and others are served."""

from __future__ import annotations

import os
import random
import re
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.gateway import GatewayProcess
from servers.processes import children
from support.fix_servers import VHost
from support.messages import Inbox
from support.patience import LIMIT
from support.posting import FORM, NDJSON, Client, basic, path_of, statuses

_EXPECTED = {100, 200, 204, 400, 401, 403, 404, 405, 408, 411, 413, 415, 422, 429, 431, 503, 504}
_CASES = 1500
_HEADERS = [
    "Content-Type",
    "Content-Encoding",
    "Content-Length",
    "Transfer-Encoding",
    "Expect",
    "Connection",
    "Upgrade",
    "Authorization",
    "Origin",
    "X-Forwarded-For",
    "Host",
    "Trailer",
]
_VALUES = [
    FORM,
    NDJSON,
    "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=" + "x" * 300,
    "application/json",
    "gzip",
    "chunked",
    "gzip, chunked",
    "0",
    "5",
    "-1",
    "99999999999999999999999",
    "1e3",
    "100-continue",
    "close",
    "keep-alive",
    "upgrade",
    "websocket",
    "h2c",
    "Basic ",
    "Basic ====",
    "Basic " + "A" * 5000,
    "é",
    "",
    "*",
]
_BODIES = [
    b"body=hi",
    b"body=%ff&priority=%31&headers=%7B%7D",
    b"body=hi&delivery_mode=" + b"9" * 5000,
    b"body=hi&headers=" + b"[" * 5000,
    b"&" * 500,
    b'{"exchange":"amq.topic","routing_key":"k","payload":"x"}\n' * 20,
    b'{"exchange":"amq.topic","routing_key":"k","payload":"\\ud800"}\n{"a":' * 20,
    b'--x\r\nContent-Disposition: form-data; name="body"\r\n\r\nhi\r\n--x--\r\n',
    b"--x\r\n" * 200,
    b"5\r\nbody=\r\n2\r\nhi\r\n0\r\n\r\n",
    b"5;a=b\r\nbody=\r\n0\r\nX: y\r\n\r\n",
    b"ffffffffffffffff\r\n",
]


class Fuzzer:
    """Makes requests, most of them wrong in some way."""

    def __init__(self, seed: int, vhost: str) -> None:
        self._chance = random.Random(seed)
        self._vhost = vhost

    def text(self) -> bytes:
        """What goes over one connection."""
        chance = self._chance
        if chance.random() < 0.05:
            return chance.randbytes(chance.randrange(1, 2000))
        return b"".join(self._request() for _ in range(chance.choice([1, 1, 1, 2, 5])))

    def _request(self) -> bytes:
        chance = self._chance
        method = chance.choice(["POST"] * 6 + ["GET", "HEAD", "PUT", "OPTIONS", "CONNECT", "PO ST"])
        body = chance.choice(_BODIES) if chance.random() < 0.7 else chance.randbytes(50)
        names = [chance.choice(_HEADERS) for _ in range(chance.randrange(4))]
        headers = [f"{name}: {chance.choice(_VALUES)}" for name in names]
        if chance.random() < 0.8:
            headers.append(f"Content-Type: {chance.choice([FORM, NDJSON, _VALUES[2]])}")
        if chance.random() < 0.7:
            headers.append(f"Content-Length: {len(body) + chance.choice([0, 0, 0, 1, -1])}")
        if chance.random() < 0.8:
            headers.append(f"Authorization: {basic(('guest', 'guest'))}")
        version = chance.choice(["1.1"] * 8 + ["1.0", "2.0", "0.9"])
        head = "\r\n".join([f"{method} {self._path()} HTTP/{version}", *headers])
        text = head.encode("latin-1") + b"\r\n\r\n" + body
        for _ in range(chance.choice([0, 0, 0, 1, 3])):
            at = chance.randrange(len(text))
            text = (
                chance.choice(
                    [
                        text[:at],
                        text[:at] + chance.randbytes(3) + text[at:],
                        text[:at] + text[at + 1 :],
                    ]
                )
                or b"x"
            )
        return text

    def _path(self) -> str:
        chance = self._chance
        names = [
            chance.choice([self._vhost, "%2F", "nowhere", "%", "%ff", ""]),
            chance.choice(["amq.topic", "amq.default", "nowhere", "%C3%A4", "a" * 300, ""]),
            chance.choice(["k", "", "%00", "a%2Fb", "..", "?mandatory=1", "?priority=x&body=1"]),
        ]
        return chance.choice(
            [
                "/" + "/".join(names[: chance.randrange(1, 4)]),
                path_of(self._vhost, "amq.topic", "k"),
                path_of("api", "exchanges", self._vhost, "amq.topic", "publish"),
                f"/{self._vhost}",
                "/stats",
                "*",
                "http://a:b@c/d",
                "/" + "x" * chance.randrange(20_000),
            ]
        )

    def talk(self, port: int) -> list[int]:
        """Send it, in pieces perhaps, and perhaps leave without waiting; what was answered."""
        chance = self._chance
        text, received = self.text(), b""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=LIMIT / 2) as connection:
                while text:
                    size = chance.choice([len(text), 1 + chance.randrange(len(text))])
                    connection.sendall(text[:size])
                    text = text[size:]
                if chance.random() < 0.2:
                    return []
                connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(65536):
                    received += data
        except TimeoutError:
            raise
        except OSError:
            # It may be reset at any time.
            pass
        return statuses(received)


def memory(gateway: GatewayProcess) -> int:
    """Bytes that its processes have in memory."""
    return sum(
        int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) * 1024
        for pid in children(gateway.pid)
    )


@pytest.fixture
def seed() -> int:
    """Of the test, shown when it fails."""
    seed = int(os.environ.get("PG_AMQP_PY_SEED") or random.randrange(1 << 32))
    print(f"PG_AMQP_PY_SEED={seed}")
    return seed


@pytest.mark.slow
def test_whatever_comes_over_the_socket(
    gateway: GatewayProcess, broker: VHost, channel: BlockingChannel, seed: int
) -> None:
    inbox = Inbox(channel, "amq.direct", "served")
    served = path_of(broker.vhost, "amq.direct", "served")
    ended = threading.Event()

    def post_well() -> Counter[int]:
        client = Client(gateway.port)
        found: Counter[int] = Counter()
        while not ended.is_set():
            found[client.form(served).status] += 1
        client.close()
        return found

    def fuzz(number: int) -> Counter[int]:
        fuzzer = Fuzzer(seed + number, broker.vhost)
        return Counter(status for _ in range(_CASES // 4) for status in fuzzer.talk(gateway.port))

    with ThreadPoolExecutor(5) as threads:
        good = threads.submit(post_well)
        try:
            first = sum(threads.map(fuzz, range(4)), Counter())
            before = memory(gateway)
            second = sum(threads.map(fuzz, range(4, 8)), Counter())
            grown = memory(gateway) - before
        finally:
            ended.set()
        confirmed = good.result(LIMIT)
    for found in first, second:
        assert found.keys() <= _EXPECTED
        assert found[204] > 0
    assert confirmed.keys() == {204}
    assert len(inbox.drain()) == confirmed[204]
    assert grown < 16 * 1024 * 1024
    assert "Traceback" not in gateway.log_text()
    assert {entry["event"] for entry in gateway.entries()} == {"gateway started"}
