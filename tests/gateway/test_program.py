"""pg-amqp gateway as a program: options, processes, its end, TLS, proxies, and what it logs."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.certificates import Certificates
from servers.gateway import GatewayProcess
from servers.processes import children, free_port, temporary_folder, wait_for
from servers.relay import PROGRAM
from support.fix_servers import VHost
from support.load import assert_honest, ids, load
from support.messages import Inbox
from support.patience import LIMIT
from support.posting import GUEST, Client, basic, path_of, raw, read_all, request_text, statuses


@pytest.fixture
def topic(broker: VHost) -> str:
    """The path of a routing key."""
    return path_of(broker.vhost, "amq.topic", "foo")


@pytest.fixture
def url(broker: VHost) -> str:
    """RabbitMQ's."""
    return f"amqp://127.0.0.1:{broker.rabbitmq.amqp_port}/"


def called(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Call pg-amqp gateway; it must end by itself."""
    return subprocess.run(
        [PROGRAM, "gateway", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env={**os.environ, **(env or {})},
    )


# ---- How it is called ----


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--broker", "http://x/"], "amqp://"),
        (["--broker", "amqp://me:secret-word@x/"], "login"),
        (["--broker", "amqp://x/vhost"], "virtual host"),
        (["--outbox"], "--dsn"),
        (["--dsn", "dbname=x", "--broker", "amqp://x/"], "leave out --broker"),
        (["--listen", "8000"], "HOST:PORT"),
        (["--listen", "192.0.2.1:1"], "could not listen"),
        (["--workers", "0"], "--workers"),
        (["--tls-cert", "/nonexistent"], "certificate"),
    ],
)
def test_what_it_cannot_begin_with_is_told(arguments: list[str], said: str) -> None:
    answer = called(*arguments)
    assert answer.returncode in (1, 2)
    assert said in answer.stderr
    assert "secret-word" not in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_missing_package_is_told_with_how_to_install_it(tmp_path: Path) -> None:
    hiding = "import sys\nfrom importlib import util\nfind = util.find_spec\n"
    hiding += (
        "util.find_spec = lambda name, *more: None if name == 'uvloop' else find(name, *more)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(hiding)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    answer = called("--listen", "127.0.0.1:0", env={"PYTHONPATH": path})
    assert answer.returncode == 1
    assert "uvloop: in a clone of the project: pip install '.[gateway]'" in answer.stderr


def test_nothing_of_the_gateway_is_loaded_by_other_commands() -> None:
    code = (
        "import sys, pg_amqp_daemon.cli;"
        "print([name for name in ('uvicorn', 'prometheus_client') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_somebody_else_listens_there(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        for workers in "1", "2":
            answer = called("--listen", address, "--broker", url, "--workers", workers)
            assert "could not listen" in answer.stderr


# ---- Processes ----


def test_processes_share_a_port_and_tell_the_sum_of_their_numbers(url: str, topic: str) -> None:
    with GatewayProcess("--broker", url, "--workers", "3") as gateway:
        assert isinstance(gateway, GatewayProcess)
        wait_for(lambda: len(children(gateway.pid)) == 3, LIMIT, "three processes")
        clients = [Client(gateway.port) for _ in range(30)]
        assert {client.form(topic).status for client in clients for _ in range(2)} == {204}

        def all_told() -> bool:
            requests = clients[0].get("/stats").json["requests"]
            return (requests["method.POST"], requests["response.204"]) == (60, 60)

        wait_for(all_told, LIMIT, "the sum of all")
        page = clients[0].get("/metrics").body.decode()
        assert 'pg_amqp_gateway_requests_total{method="POST"} 60.0' in page
        for client in clients:
            client.close()


def test_a_process_that_has_died_is_replaced_and_its_numbers_stay(url: str, topic: str) -> None:
    with GatewayProcess("--broker", url, "--workers", "2") as gateway:
        assert isinstance(gateway, GatewayProcess)
        client = Client(gateway.port)
        assert client.form(topic).status == 204
        wait_for(
            lambda: client.get("/stats").json["requests"].get("response.204") == 1, LIMIT, "a count"
        )
        client.close()
        before = set(children(gateway.pid))
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        gateway.wait_for_event("process ended", 2)
        wait_for(
            lambda: len(set(children(gateway.pid)) - before) == 2, LIMIT, "two other processes"
        )
        client = Client(gateway.port)
        assert client.form(topic).status == 204
        wait_for(
            lambda: client.get("/stats").json["requests"].get("response.204") == 2, LIMIT, "a sum"
        )
        client.close()


def test_without_their_parent_they_end(url: str, topic: str) -> None:
    with GatewayProcess("--broker", url, "--workers", "2") as gateway:
        assert isinstance(gateway, GatewayProcess)
        client = Client(gateway.port)
        assert client.form(topic).status == 204
        client.close()
        those = children(gateway.pid)
        os.kill(gateway.pid, signal.SIGKILL)
        wait_for(lambda: not any(_runs(pid) for pid in those), LIMIT, "the processes to end")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- Its end ----


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_lets_it_answer_what_is_under_way(
    url: str, topic: str, channel: BlockingChannel, workers: str
) -> None:
    inbox = Inbox(channel)
    with GatewayProcess("--broker", url, "--workers", workers) as gateway:
        assert isinstance(gateway, GatewayProcess)
        with load(gateway, topic, may_be_closed=True) as running:
            running.wait_for(204, 100)
            assert gateway.terminate() == 0
        assert gateway.leftovers == []
        assert [one["event"] for one in gateway.entries()] == ["gateway started", "gateway stops"]
    assert_honest(running.answers, ids(inbox))


def test_a_request_that_has_begun_to_come_is_answered_before_it_ends(
    url: str, topic: str, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    text = request_text(topic)
    with GatewayProcess("--broker", url) as gateway:
        assert isinstance(gateway, GatewayProcess)
        with raw(gateway.port) as half, raw(gateway.port) as idle:
            half.sendall(text[:30])
            # It was read when this is answered.
            idle.sendall(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}\n"):
                answer += idle.recv(65536)
            gateway.process.send_signal(signal.SIGTERM)
            assert read_all(idle) == b""
            half.sendall(text[30:])
            assert statuses(read_all(half)) == [204]
        assert gateway.wait() == 0
    assert inbox.texts() == ["hi"]


def test_a_second_signal_ends_it_at_once(url: str, topic: str) -> None:
    with GatewayProcess("--broker", url) as gateway:
        assert isinstance(gateway, GatewayProcess)
        with raw(gateway.port) as half:
            half.sendall(request_text(topic, b"body=hi", "Content-Length: 100"))
            client = Client(gateway.port)
            client.get("/live")
            gateway.process.send_signal(signal.SIGTERM)
            gateway.wait_for_event("gateway stops")
            assert gateway.is_running()
            assert gateway.terminate() == 0
            client.close()


def test_sigterm_ends_it_at_any_moment_of_its_beginning(url: str) -> None:
    for _ in range(10):
        with GatewayProcess("--broker", url, "--workers", "2") as gateway:
            assert isinstance(gateway, GatewayProcess)
            gateway.wait_for_event("gateway started")
            # Less than the time after which it would be killed.
            assert gateway.terminate(timeout=15) == 0


# ---- Where it listens ----


def test_a_unix_socket(url: str, topic: str) -> None:
    with temporary_folder() as folder:
        path = folder / "gateway.sock"
        for _ in range(2):
            # The second time over what a crash has left.
            with GatewayProcess("--broker", url, "--unix-socket", str(path)) as gateway:
                gateway.wait_for_event("gateway started")
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(str(path))
                    connection.sendall(request_text(topic))
                    connection.shutdown(socket.SHUT_WR)
                    assert statuses(read_all(connection)) == [204]
                answer = called("--unix-socket", str(path), "--broker", url)
                assert "could not listen" in answer.stderr
        with GatewayProcess("--broker", url, "--unix-socket", str(path)) as gateway:
            gateway.wait_for_event("gateway started")
            gateway.terminate()
            assert not path.exists()


def test_stats_and_metrics_on_an_address_of_their_own(url: str, topic: str) -> None:
    port = free_port()
    with GatewayProcess("--broker", url, "--listen-metrics", f"127.0.0.1:{port}") as gateway:
        assert isinstance(gateway, GatewayProcess)
        client, inside = Client(gateway.port), Client(port)
        assert client.form(topic).status == 204
        for path in "/stats", "/metrics":
            assert client.get(path).status == 405 if path == "/stats" else 404
            assert inside.get(path).status == 200
        assert "guest" not in client.get("/").body.decode()
        assert inside.form(topic).status == 404
        for one in client, inside:
            assert one.get("/ready").status == 200
            one.close()


def test_tls(broker: VHost, topic: str, certificates: Certificates) -> None:
    tls = [str(certificates.server), str(certificates.server_key)]
    arguments = ["--tls-cert", tls[0], "--tls-key", tls[1]]
    amqps = f"amqps://127.0.0.1:{broker.rabbitmq.amqps_port}/"
    env = {"SSL_CERT_FILE": str(certificates.ca)}
    with GatewayProcess("--broker", amqps, *arguments, env=env) as gateway:
        assert isinstance(gateway, GatewayProcess)
        context = ssl.create_default_context(cafile=str(certificates.ca))
        connection = http.client.HTTPSConnection("127.0.0.1", gateway.port, context=context)
        for body in b"small", b"x" * 1_000_000:
            connection.request("POST", topic, body, {"Authorization": basic(GUEST)})
            with connection.getresponse() as response:
                assert response.status == 204
                response.read()
        connection.close()
        # Who speaks no TLS is no news, and nobody's trouble.
        with raw(gateway.port) as other:
            other.sendall(request_text(topic))
            read_all(other)
        assert not [one for one in gateway.entries() if one["level"] == "error"]
    with GatewayProcess("--broker", amqps) as gateway:
        assert isinstance(gateway, GatewayProcess)
        client = Client(gateway.port)
        answer = client.form(topic)
        assert answer.status == 503
        assert "certificate verify failed" in answer.json["detail"]
        client.close()


# ---- Proxies ----


def post_from(client: Client, topic: str, address: str, password: str) -> int:
    head = {"X-Forwarded-For": address, "Content-Type": "text/plain"}
    return client.request("POST", topic, b"x", head, login=("guest", password)).status


@pytest.mark.parametrize("trusted", [True, False])
def test_only_a_proxy_that_is_trusted_says_who_its_clients_are(
    url: str, topic: str, trusted: bool
) -> None:
    arguments = ["--trusted-proxy", "127.0.0.1"] if trusted else []
    with GatewayProcess("--broker", url, *arguments) as gateway:
        assert isinstance(gateway, GatewayProcess)
        client = Client(gateway.port)
        found = Counter(post_from(client, topic, "192.0.2.1", f"wrong {n}") for n in range(12))
        assert found == {401: 10, 429: 2}
        assert post_from(client, topic, "192.0.2.2", "guest") == (204 if trusted else 429)
        client.close()


# ---- What it logs ----


def test_nothing_of_a_login_is_logged(url: str, topic: str) -> None:
    secret = "secret-word"
    with GatewayProcess("--broker", url) as gateway:
        assert isinstance(gateway, GatewayProcess)
        client = Client(gateway.port)
        assert client.form(topic, login=("guest", secret)).status == 401
        assert client.form(f"{topic}?password={secret}", login=("guest", secret)).status == 401
        with raw(gateway.port) as connection:
            text = request_text(f"http://guest:{secret}@localhost{topic}") + secret.encode()
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            read_all(connection)
        gateway.terminate()
        client.close()
        assert secret not in gateway.log_text()
        assert "c2VjcmV0LXdvcmQ" not in gateway.log_text()
