"""The private servers of the tests themselves: the cutting proxy, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.postgres import PostgreSQL
from servers.processes import (
    Process,
    family,
    free_port,
    log_tail,
    temporary_folder,
    wait_for,
)
from servers.proxy import CuttingProxy, Direction, Welcome
from servers.rabbitmq import RabbitMQ
from support.sessions import open_session

PROJECT = Path(__file__).parents[2]


class Echo:
    """A server that sends back what it gets and remembers what it got and how each stream ended."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ends: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._echo, args=[connection])
            self._threads.append(thread)
            thread.start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    self.received += data
                    connection.sendall(data)
                self.ends.append("closed")
            except OSError:
                self.ends.append("reset")

    def close(self) -> None:
        """Stop listening and wait for the connections to end."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server for the proxy."""
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxied(echo: Echo) -> Iterator[CuttingProxy]:
    """A proxy to the echo server."""
    with CuttingProxy(echo.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxied: CuttingProxy) -> Iterator[socket.socket]:
    """A connection through the proxy, known to work."""
    with connect(proxied) as connection:
        connection.sendall(b"hello")
        assert receive(connection, 5) == b"hello"
        yield connection


def connect(proxy: CuttingProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def receive(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        received += connection.recv(count - len(received))
    return received


def assert_silent(connection: socket.socket) -> None:
    connection.settimeout(0.1)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.settimeout(5)


def test_proxy_forwards_and_counts(
    proxied: CuttingProxy, client: socket.socket, echo: Echo
) -> None:
    big = os.urandom(1_000_000)
    sender = threading.Thread(target=client.sendall, args=[big])
    sender.start()
    assert receive(client, len(big)) == big
    sender.join()
    assert proxied.bytes_to_server == proxied.bytes_to_client == 5 + len(big)
    assert (proxied.connections, proxied.open_connections) == (1, 1)
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    wait_for(lambda: proxied.open_connections == 0, 5, "the proxy to forget the connection")
    assert echo.ends == ["closed"]


def test_proxy_refuses(proxied: CuttingProxy, client: socket.socket, echo: Echo) -> None:
    proxied.refuse()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxied)
    wait_for(lambda: echo.ends == ["reset"], 5, "the server to see the reset")
    proxied.pass_all()
    with connect(proxied) as again:
        again.sendall(b"x")
        assert receive(again, 1) == b"x"


def test_proxy_resets_existing_connections(proxied: CuttingProxy, client: socket.socket) -> None:
    proxied.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connect(proxied) as again:
        again.sendall(b"x")
        assert receive(again, 1) == b"x"


def test_proxy_resets_new_connections(proxied: CuttingProxy, client: socket.socket) -> None:
    proxied.welcome(Welcome.RESET)
    with pytest.raises(ConnectionResetError), connect(proxied) as other:
        other.recv(1)
    client.sendall(b"x")
    assert receive(client, 1) == b"x"


def test_proxy_swallows_new_connections(proxied: CuttingProxy) -> None:
    proxied.welcome(Welcome.STALL)
    with connect(proxied) as connection:
        connection.sendall(b"x")
        assert_silent(connection)


@pytest.mark.parametrize("direction", list(Direction))
def test_proxy_stalls_and_goes_on(
    proxied: CuttingProxy, client: socket.socket, echo: Echo, direction: Direction
) -> None:
    proxied.stall(direction)
    client.sendall(b"late")
    assert_silent(client)
    assert (echo.received == b"hello") is (Direction.TO_SERVER in direction)
    proxied.pass_all()
    assert receive(client, 4) == b"late"


def test_proxy_half_closes_to_client(
    proxied: CuttingProxy, client: socket.socket, echo: Echo
) -> None:
    proxied.half_close(Direction.TO_CLIENT)
    assert client.recv(1) == b""
    client.sendall(b"still")
    wait_for(lambda: echo.received == b"hellostill", 5, "the bytes to arrive")


def test_proxy_half_closes_to_server(
    proxied: CuttingProxy, client: socket.socket, echo: Echo
) -> None:
    proxied.half_close(Direction.TO_SERVER)
    wait_for(lambda: echo.ends == ["closed"], 5, "the server to see the end")
    assert client.recv(1) == b""


def test_proxy_cuts_after_exactly_so_many_bytes_to_server(
    proxied: CuttingProxy, client: socket.socket, echo: Echo
) -> None:
    proxied.cut_after(3, Direction.TO_SERVER, then=Welcome.REFUSE)
    client.sendall(b"123456")
    with pytest.raises(ConnectionResetError):
        receive(client, 6)
    wait_for(lambda: echo.ends == ["reset"], 5, "the server to see the reset")
    assert echo.received == b"hello123"
    with pytest.raises(ConnectionRefusedError):
        connect(proxied)


def test_proxy_cuts_after_exactly_so_many_bytes_to_client(
    proxied: CuttingProxy, client: socket.socket, echo: Echo
) -> None:
    proxied.cut_after(3, Direction.TO_CLIENT)
    client.sendall(b"123456")
    wait_for(lambda: proxied.open_connections == 0, 5, "the cut")
    assert receive(client, 3) == b"123"
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.received == b"hello123456"


def test_proxy_stalls_after_exactly_so_many_bytes(
    proxied: CuttingProxy, client: socket.socket, echo: Echo
) -> None:
    proxied.stall_after(3, Direction.TO_SERVER)
    client.sendall(b"123456")
    assert receive(client, 3) == b"123"
    assert_silent(client)
    proxied.pass_all()
    assert receive(client, 3) == b"456"
    assert echo.received == b"hello123456"


def test_proxy_without_a_server_resets() -> None:
    with (
        CuttingProxy(free_port()) as proxy,
        pytest.raises(ConnectionResetError),
        connect(proxy) as connection,
    ):
        connection.recv(1)


def test_a_port_is_given_to_one_process_at_a_time() -> None:
    ours = free_port()
    others = f"from servers import processes; processes._PORTS = range({ours}, {ours} + 1);"
    theirs = subprocess.run(
        [sys.executable, "-c", others + "processes.free_port()"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "no free loopback port" in theirs.stderr


@pytest.mark.server
def test_servers_leave_neither_process_nor_folder() -> None:
    with PostgreSQL() as postgres, RabbitMQ() as rabbitmq:
        with open_session(postgres.dsn(), autocommit=False) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        processes = [*postgres.processes, *rabbitmq.processes]
        assert len(processes) == 3
        folders = [postgres.folder, rabbitmq.folder]
        assert all(family(process.pid, process.mark) for process in processes)
    assert not any(family(process.pid, process.mark) for process in processes)
    assert not any(folder.exists() for folder in folders)


@pytest.mark.slow
def test_rabbitmq_keeps_durable_things_when_it_crashes(rabbitmq: RabbitMQ) -> None:
    # Far cheaper than a node of our own; the session's is up again at the end.
    rabbitmq.rabbitmqctl("add_vhost", "kept")
    rabbitmq.write_down()
    rabbitmq.kill()
    rabbitmq.start()
    assert "kept" in rabbitmq.rabbitmqctl("list_vhosts").split()
    rabbitmq.rabbitmqctl("delete_vhost", "kept")


@pytest.mark.server
def test_server_does_not_outlive_its_creator() -> None:
    script = (
        "import sys, time; from servers.postgres import PostgreSQL\n"
        "server = PostgreSQL(); server.start()\n"
        "print(server.pid, server.folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as creator:
        assert creator.stdout
        pid, folder = creator.stdout.readline().split()
        creator.kill()
    wait_for(lambda: not family(int(pid)), 20, "the kernel to end the server")
    subprocess.run(["rm", "-rf", folder], check=True)


def test_process_that_ignores_signals_ends() -> None:
    with temporary_folder() as folder:
        log = folder / "stubborn.log"
        process = Process(["sh", "-c", "trap '' TERM; echo up; sleep 60 & wait; wait"], log)
        wait_for(lambda: "up" in log_tail(log), 5, "the trap to be set")
        process.end(signal.SIGTERM, timeout=0.1)
    assert not family(process.pid)


@pytest.mark.server
def test_failed_start_shows_the_log() -> None:
    postgres = PostgreSQL(settings={"shared_buffers": "nonsense"})
    with pytest.raises(RuntimeError, match=r'(?s)did not start.*"shared_buffers"'):
        postgres.__enter__()
    assert not postgres.folder.exists()
