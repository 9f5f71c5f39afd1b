"""What a gateway makes of a machine that has no more of something."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from servers.gateway import GatewayProcess
from servers.processes import wait_for
from support.fix_servers import VHost
from support.patience import LIMIT
from support.posting import Client, path_of, raw, request_text


def worker_of(gateway: GatewayProcess) -> int:
    """The process that answers, of a gateway that has one."""
    [pid] = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
    return int(pid)


def test_a_connection_that_cannot_be_watched_is_not_written_to(
    gateway: GatewayProcess, client: Client, broker: VHost
) -> None:
    """Watching it takes a second descriptor, and there may be only one."""
    path = path_of(broker.vhost, "amq.topic", "foo")
    assert client.get("/live").status == 200
    worker = worker_of(gateway)
    limits = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    used = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 1, limits[1]))
    answer = client.form(path)
    assert answer.status == 503
    assert "no connection can be watched" in answer.json["detail"]
    resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
    wait_for(lambda: client.form(path).status == 204, LIMIT, "it to publish")


@contextmanager
def allowed(what: int, number: int) -> Iterator[None]:
    """Let processes that are started have no more of it."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


def test_without_room_for_metrics_it_publishes(broker: VHost) -> None:
    host = f"amqp://127.0.0.1:{broker.rabbitmq.amqp_port}/"
    # Bytes of a file: enough for its log.
    with allowed(resource.RLIMIT_FSIZE, 1 << 16), GatewayProcess("--broker", host) as gateway:
        assert isinstance(gateway, GatewayProcess)
        client = Client(gateway.port)
        assert client.form(path_of(broker.vhost, "amq.topic", "foo")).status == 204
        assert client.get("/stats").status == 200
        assert client.get("/metrics").status == 200
        gateway.wait_for_event("metrics of this process are not shown")
        assert not gateway.events("process ended")
        client.close()


def test_it_takes_as_many_descriptors_as_clients_may_need(broker: VHost) -> None:
    host = f"amqp://127.0.0.1:{broker.rabbitmq.amqp_port}/"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with allowed(resource.RLIMIT_NOFILE, 1024), GatewayProcess("--broker", host) as gateway:
        assert isinstance(gateway, GatewayProcess)
        assert gateway.port
        assert resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)[0] == min(hard, 16384)


@pytest.mark.slow
def test_bodies_of_strangers_leave_room_for_others(
    gateway: GatewayProcess, client: Client, broker: VHost
) -> None:
    path = path_of(broker.vhost, "amq.topic", "foo")
    assert client.form(path).status == 204
    size = 1 << 24
    text = request_text(path, b"", f"Content-Length: {size}", login=("guest", "wrong"))
    with ExitStack() as stack:
        # More than it holds in all, each but for its last byte, if it lets them.
        for _ in range(20):
            stranger = stack.enter_context(raw(gateway.port))
            stranger.sendall(text + bytes(size - 1))
        assert client.form(path).status == 204
        assert client.request("POST", path, bytes(size)).status == 204
