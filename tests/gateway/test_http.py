"""HTTP as clients speak it, well or badly."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.gateway import GatewayProcess
from servers.processes import children, wait_for
from support.fix_servers import VHost
from support.messages import Inbox
from support.patience import LIMIT
from support.posting import Client, path_of, raw, read_all, request_text, statuses


@pytest.fixture
def topic(broker: VHost) -> str:
    """The path of a routing key."""
    return path_of(broker.vhost, "amq.topic", "foo")


def say(gateway: GatewayProcess, *pieces: bytes, shut: bool = True) -> bytes:
    """Send pieces, and nothing more; what is answered until the connection is closed."""
    with raw(gateway.port) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


# ---- Routes ----


def test_what_may_be_asked_for(client: Client) -> None:
    for path in "/", "/live", "/ready", "/stats", "/metrics", "/openapi.json":
        assert client.get(path).status == 200
        head = client.request("HEAD", path)
        assert (head.status, head.body) == (200, b"")
    assert client.get("/nothing/here").json["title"] == "Not Found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v/x/k", "POST"),
        ("PUT", "/api/exchanges/v/x/publish", "POST"),
        ("DELETE", "/stats", "GET, HEAD, POST"),
        ("OPTIONS", "/v/x/k", "POST"),
        ("POST", "/", "GET, HEAD"),
    ],
)
def test_another_method_is_told_which_are_allowed(
    client: Client, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)


# ---- Bodies ----


def test_a_body_without_a_length_is_not_waited_for(gateway: GatewayProcess, topic: str) -> None:
    text = request_text(topic, b"").replace(b"Content-Length: 0\r\n", b"")
    assert statuses(say(gateway, text)) == [411]


def test_a_body_is_taken_in_no_other_transfer_encoding(gateway: GatewayProcess, topic: str) -> None:
    chunks = b"7\r\nbody=hi\r\n0\r\n\r\n"
    for encoding, status in (("Chunked", 204), ("gzip, chunked", 400)):
        with raw(gateway.port) as connection:
            connection.sendall(request_text(topic, chunks, f"Transfer-Encoding: {encoding}"))
            assert statuses(connection.recv(65536)) == [status]


def test_a_body_of_http_1_0(gateway: GatewayProcess, topic: str) -> None:
    answer = say(gateway, request_text(topic, version="1.0"))
    assert statuses(answer) == [204]


def test_requests_that_are_sent_without_waiting_are_answered_in_order(
    gateway: GatewayProcess, topic: str, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    bodies = [b"body=%d" % number for number in range(50)]
    wrong = request_text(topic, b"nothing=1")
    text = b"".join(request_text(topic, body) for body in bodies) + wrong
    found = statuses(say(gateway, text + request_text(topic, b"body=last")))
    assert found == [204] * 50 + [400, 204]
    assert inbox.texts() == [*(str(number) for number in range(50)), "last"]


def test_of_requests_that_are_sent_without_waiting_only_so_many_are_answered(
    gateway: GatewayProcess,
) -> None:
    with raw(gateway.port) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
        found = statuses(read_all(connection))
    assert set(found) == {200}
    assert 100 <= len(found) < 1000


def test_a_client_that_waits_to_be_asked_for_the_body(gateway: GatewayProcess, topic: str) -> None:
    head, _, body = request_text(topic, b"body=hi", "Expect: 100-continue").partition(b"\r\n\r\n")
    with raw(gateway.port) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert statuses(connection.recv(65536)) == [100]
        connection.sendall(body)
        assert statuses(connection.recv(65536)) == [204]
        # Nobody asks for what is refused anyway.
        connection.sendall(request_text("/v//k", b"", "Content-Length: 5", "Expect: 100-continue"))
        assert statuses(connection.recv(65536)) == [404]


def test_a_body_is_large_only_up_to_the_limit(
    broker: VHost, topic: str, channel: BlockingChannel
) -> None:
    url = f"amqp://127.0.0.1:{broker.rabbitmq.amqp_port}/"
    inbox = Inbox(channel)
    with GatewayProcess("--broker", url, "--max-body", "100000") as gateway:
        assert isinstance(gateway, GatewayProcess)
        client = Client(gateway.port)
        assert client.request("POST", topic, b"x" * 100_000).status == 204
        assert client.request("POST", topic, b"x" * 100_001).status == 413
        # The same connection: what was too much is passed over.
        assert client.request("POST", topic, [b"x" * 50_000] * 3).status == 413
        line = '{"exchange": "amq.topic", "routing_key": "k", "payload": "%s"}'
        found = client.lines(f"/{broker.vhost}", line % "x", line % ("x" * 100_000)).lines
        assert [one["status"] for one in found] == [204, 413]
        assert client.form(topic).status == 204
        client.close()
    assert [len(one.body) for one in inbox.drain()] == [100_000, 1, 2]


# ---- What is no HTTP ----


@pytest.mark.parametrize(
    "text",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v/x/k HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v/x/k HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v/x/\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST v/x/k HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nna me: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_a_bad_one(gateway: GatewayProcess, text: bytes) -> None:
    found = statuses(say(gateway, text))
    assert found
    assert set(found) <= {400, 404, 405}


def test_a_chunk_that_is_none_is_a_bad_request(gateway: GatewayProcess, topic: str) -> None:
    text = request_text(topic, b"", "Transfer-Encoding: chunked")
    assert statuses(say(gateway, text, b"5\r\nbody=\r\nxyz\r\n", shut=False)) == [400]


@pytest.mark.parametrize(
    "header",
    [
        "X: " + "x" * 70_000,
        "\r\n".join(f"X{number}: x" for number in range(101)),
        "\r\n".join(f"X{number}: {'x' * 1000}" for number in range(70)),
    ],
)
def test_headers_are_large_and_many_only_up_to_a_limit(
    gateway: GatewayProcess, topic: str, header: str
) -> None:
    assert statuses(say(gateway, request_text(topic, b"body=hi", header), shut=False)) == [431]


def test_a_header_that_never_ends_is_not_kept(gateway: GatewayProcess) -> None:
    found = b""
    with raw(gateway.port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        try:
            while not found:
                connection.sendall(b"x" * 1000)
                connection.setblocking(False)
                try:
                    found = connection.recv(65536)
                except BlockingIOError:
                    pass
                connection.setblocking(True)
        except (BrokenPipeError, ConnectionResetError):
            found = read_all(connection) or b"HTTP/1.1 431 "
    assert statuses(found + b"\r\n") == [431]


def test_a_path_that_is_too_long(gateway: GatewayProcess) -> None:
    assert statuses(say(gateway, request_text("/" + "a" * 20_000), shut=False)) == [431]


def test_an_answer_that_is_under_way_comes_before_the_complaint_about_what_follows(
    gateway: GatewayProcess, topic: str
) -> None:
    assert statuses(say(gateway, request_text(topic) + b"rubbish\r\n\r\n", shut=False))[0] == 204


def test_another_protocol_is_not_spoken(gateway: GatewayProcess, topic: str) -> None:
    # Its parser would pass over the body.
    text = request_text(topic, b"body=hi", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")
    assert statuses(say(gateway, text)) == [400]
    asked = b"GET /live HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert statuses(say(gateway, asked, shut=False)) == [200]


# ---- Slow and leaving clients ----


@pytest.mark.slow
def test_clients_that_take_their_time_are_sent_away(gateway: GatewayProcess, topic: str) -> None:
    text = request_text(topic, b"body=hi", "Content-Length: 100")
    those = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(4)]
    _, head, body, line = those
    for one in those:
        one.setblocking(False)
    head.send(b"POST / HTTP/1.1\r\n")
    body.send(text)
    # One whose login nobody has looked at yet.
    ndjson = "Content-Type: application/x-ndjson", "Content-Length: 100"
    line.send(request_text("/%2F", b"x", *ndjson, login=("guest", "wrong")))
    client = Client(gateway.port)

    def trickle() -> bool:
        # A byte now and then does not help.
        for one in (head, body, line):
            try:
                one.send(b"x")
            except OSError:
                pass
        sent_away: int = client.get("/stats").json["requests"].get("response.408", 0)
        return sent_away >= 4

    wait_for(trickle, LIMIT, "all four to be sent away", interval=1.0)
    for one in those:
        one.setblocking(True)
        assert statuses(read_all(one)) in ([408], [])
        one.close()
    assert client.form(topic).status == 204
    client.close()


def test_a_client_that_sends_no_more_gets_its_answer(gateway: GatewayProcess, topic: str) -> None:
    assert statuses(say(gateway, request_text(topic))) == [204]


def test_clients_that_leave_are_no_news(
    gateway: GatewayProcess, topic: str, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    whole = request_text(topic)
    for number in range(200):
        with raw(gateway.port) as connection:
            if number % 2:
                linger = b"\1\0\0\0\0\0\0\0"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.sendall(whole if number % 3 else whole[: number % len(whole)])
    client = Client(gateway.port)
    assert client.form(topic, body="last").status == 204
    assert inbox.texts().count("hi") <= 200
    client.close()
    assert [entry["event"] for entry in gateway.entries()] == ["gateway started"]


def test_descriptors_are_given_back(gateway: GatewayProcess, topic: str) -> None:
    for _ in range(20):
        say(gateway, request_text(topic))
    (worker,) = children(gateway.pid)

    def count() -> int:
        return len(os.listdir(f"/proc/{worker}/fd"))  # noqa: PTH208 -- its entries come and go

    before = count()
    for _ in range(100):
        say(gateway, request_text(topic))
    # A client's may be seen to be gone a moment later.
    wait_for(lambda: count() <= before, LIMIT, "descriptors to be closed")


# ---- Browsers ----


@pytest.fixture
def shared(broker: VHost) -> Iterator[Client]:
    """A client of a gateway that pages of one origin may use."""
    url = f"amqp://127.0.0.1:{broker.rabbitmq.amqp_port}/"
    with GatewayProcess("--broker", url, "--cors-origin", "https://page.test") as gateway:
        assert isinstance(gateway, GatewayProcess)
        client = Client(gateway.port)
        yield client
        client.close()


def test_pages_of_other_origins_may_not_use_it(client: Client, topic: str) -> None:
    answer = client.request("OPTIONS", topic, headers={"Origin": "https://page.test"})
    assert answer.status == 405
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_pages_of_an_origin_that_was_named_may(shared: Client, topic: str) -> None:
    asked = {"Origin": "https://page.test", "Access-Control-Request-Method": "POST"}
    answer = shared.request("OPTIONS", topic, headers=asked)
    assert answer.status == 204
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "Authorization" in answer.headers["access-control-allow-headers"]
    for fields in ({}, {"priority": "x"}):
        body = "&".join(["body=hi", *(f"{k}={v}" for k, v in fields.items())]).encode()
        head = {
            "Origin": "https://page.test",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        answer = shared.request("POST", topic, body, head)
        assert answer.status == (400 if fields else 204)
        assert answer.headers["access-control-allow-origin"] == "https://page.test"
    other = shared.request("OPTIONS", topic, headers={"Origin": "https://other.test"})
    assert other.status == 405


def test_there_are_descriptors_enough_for_many_clients(gateway: GatewayProcess, topic: str) -> None:
    most = min(500, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    those = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(most)]
    for one in those:
        one.sendall(request_text(topic))
    for one in those:
        assert statuses(one.recv(65536)) == [204]
        one.close()
