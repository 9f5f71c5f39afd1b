"""A private RabbitMQ node, or a cluster of them."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from servers.processes import (
    Process,
    Server,
    ServerError,
    create_folder,
    free_port,
    give_to_server_user,
    log_tail,
    run,
    wait_for,
)

# The scripts themselves: Debian's wrappers in /usr/sbin insist on the users root and rabbitmq.
_SCRIPTS = Path("/usr/lib/rabbitmq/bin")

# Loopback only, also for the distribution protocol of Erlang.
_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"


class RabbitMQ(Server):
    """A node with its own data, cookie, ports and port mapper (epmd), beside any other node.

    `folder` is where it lives (default: a temporary one, removed by `remove`). `config` is added to
    rabbitmq.conf; with `tls`, a mapping of its `ssl_options.` (cacertfile, certfile, keyfile,
    verify, ...), there is an AMQPS listener. `plugins` are enabled; rabbitmq_management,
    rabbitmq_stomp and rabbitmq_web_stomp get a free port of their own, and so does rabbitmq_mqtt,
    with `tls` two. `outlive` lets the node run on when this process ends. With `peer`, a node that
    runs, it joins that one's cluster when it is first started. The user guest, password guest, may
    do everything. As a context manager it is started, and then stopped and removed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        config: Mapping[str, str] | None = None,
        tls: Mapping[str, str | Path] | None = None,
        plugins: Iterable[str] = (),
        outlive: bool = False,
        peer: RabbitMQ | None = None,
    ) -> None:
        self.folder = create_folder(folder)
        self.log = self.folder / "rabbitmq.log"
        self.amqp_port = free_port()
        self.amqps_port = free_port() if tls is not None else None
        self.management_port = free_port()
        self.mqtt_port = free_port()
        self.mqtts_port = free_port() if tls is not None else None
        self.stomp_port = free_port()
        self.web_stomp_port = free_port()
        # By address: a host name may not resolve in a bare container.
        self._name = f"node{self.amqp_port}@127.0.0.1"
        # Nodes of a cluster know each other by cookie, and find each other through one port mapper.
        self._peer = peer
        self._cookie: str = peer._cookie if peer else secrets.token_hex(16)
        self._epmd_port: int = peer._epmd_port if peer else free_port()
        self._distribution_port = free_port()
        self._plugins = tuple(plugins)
        self._config = {
            "listeners.tcp.1": f"127.0.0.1:{self.amqp_port}",
            # A small disk must not block publishers: little is stored here, and briefly.
            "disk_free_limit.absolute": "1MB",
            # What RabbitMQ took before 4.0, which takes 16 MiB: large messages are tested, too.
            "max_message_size": "134217728",
            "log.console": "false",
            **self._tls_config(tls),
            **self._plugin_config(),
            **self._cluster_config(),
            **(config or {}),
        }
        self._outlive = outlive
        self._process: Process | None = None
        self._epmd: Process | None = None

    def start(self) -> None:
        """Start the node and return when it accepts AMQP connections.

        Raises ServerError with the tail of the node's log.
        """
        self._write_configuration()
        orphan_signal = None if self._outlive else signal.SIGKILL
        if self._epmd is None and self._peer is None:
            # In the foreground, and ours: the one that Erlang would start stays behind as a daemon.
            self._epmd = Process(
                ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"],
                self.folder / "epmd.log",
                env=self._environment(),
                orphan_signal=orphan_signal,
            )
            wait_for(lambda: _listens(self._epmd_port), 10, "epmd to listen")
        self._process = process = Process(
            [_SCRIPTS / "rabbitmq-server"],
            self.folder / "output.log",
            env=self._environment(),
            orphan_signal=orphan_signal,
        )
        try:
            wait_for(
                lambda: self._is_ready() or not process.is_running(),
                90,
                "RabbitMQ to accept connections",
                interval=0.1,
            )
        except TimeoutError as error:
            self.kill()
            raise ServerError(f"{error}:\n{self._log_tails()}") from None
        if not process.is_running():
            raise ServerError(f"RabbitMQ did not start:\n{self._log_tails()}")

    def _is_ready(self) -> bool:
        """Whether all listeners are up: those for TLS and of plugins come after the plain one."""
        if not _speaks_amqp(self.amqp_port):
            return False
        others = {
            self.amqps_port: self.amqps_port is not None,
            self.mqtt_port: "rabbitmq_mqtt" in self._plugins,
            self.mqtts_port: "rabbitmq_mqtt" in self._plugins,
            self.stomp_port: "rabbitmq_stomp" in self._plugins,
            self.web_stomp_port: "rabbitmq_web_stomp" in self._plugins,
        }
        return all(_listens(port) for port, is_there in others.items() if port and is_there)

    def stop(self) -> None:
        """Shut the node down in order; it may be started again. Does nothing if it is down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the node with SIGKILL, as a crash would. Does nothing if it is down."""
        self._end(signal.SIGKILL)

    def write_down(self) -> None:
        """Have kill() leave what was declared so far: exchanges, queues, bindings, vhosts.

        Mnesia writes its tables to disk a while late, and a crash in between may forget some.
        """
        self.rabbitmqctl("eval", "mnesia:dump_log().")

    def restart(self) -> None:
        """Stop the node and start it again on the same ports with the same data."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Kill the node and remove its folder."""
        self.kill()
        if self._epmd is not None:
            self._epmd.end(signal.SIGTERM)
            self._epmd = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl on the node and return what it printed; takes a second or two.

        Raises ServerError with its output when it fails.
        """
        return run([_SCRIPTS / "rabbitmqctl", "--quiet", *arguments], env=self._environment())

    @contextmanager
    def short_of_memory(self) -> Iterator[None]:
        """Let the node block whoever publishes, with a memory alarm; in the end it is over."""
        self.rabbitmqctl("set_vm_memory_high_watermark", "0.00001")
        try:
            yield
        finally:
            self.rabbitmqctl("set_vm_memory_high_watermark", "0.6")

    def url(
        self,
        user: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        *,
        port: int | None = None,
        tls: bool = False,
    ) -> str:
        """Return the node's AMQP URL; `port` names another one, such as that of a proxy.

        Raises ServerError when `tls` is asked of a node without a TLS listener.
        """
        if port is None:
            port = self.amqps_port if tls else self.amqp_port
        if port is None:
            raise ServerError("this node has no TLS listener")
        scheme = "amqps" if tls else "amqp"
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"{scheme}://{login}@127.0.0.1:{port}/{quote(vhost, safe='')}"

    def log_text(self) -> str:
        """Return all that the node logged; it writes its log a second or two late."""
        return self.log.read_text(errors="replace")

    @property
    def processes(self) -> list[Process]:
        """The processes that were started: the node and its port mapper, as far as they are up."""
        return [process for process in (self._process, self._epmd) if process]

    @property
    def pid(self) -> int:
        """The node's process id. Raises ServerError when it is down."""
        if self._process is None:
            raise ServerError("RabbitMQ is not running")
        return self._process.pid

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.end(how)

    def _tls_config(self, tls: Mapping[str, str | Path] | None) -> dict[str, str]:
        if tls is None:
            return {}
        options = {f"ssl_options.{name}": str(value) for name, value in tls.items()}
        return {"listeners.ssl.1": f"127.0.0.1:{self.amqps_port}", **options}

    def _mqtt_config(self) -> dict[str, str]:
        found = {"mqtt.listeners.tcp.1": f"127.0.0.1:{self.mqtt_port}"}
        if self.mqtts_port is not None:
            found["mqtt.listeners.ssl.1"] = f"127.0.0.1:{self.mqtts_port}"
        return found

    def _plugin_config(self) -> dict[str, str]:
        known = {
            "rabbitmq_management": {
                "management.tcp.ip": "127.0.0.1",
                "management.tcp.port": str(self.management_port),
            },
            "rabbitmq_mqtt": self._mqtt_config(),
            "rabbitmq_stomp": {"stomp.listeners.tcp.1": f"127.0.0.1:{self.stomp_port}"},
            "rabbitmq_web_stomp": {"web_stomp.tcp.listener": f"127.0.0.1:{self.web_stomp_port}"},
        }
        return {
            name: value for plugin in self._plugins for name, value in known.get(plugin, {}).items()
        }

    def _cluster_config(self) -> dict[str, str]:
        if self._peer is None:
            return {}
        nodes = "cluster_formation.classic_config.nodes"
        return {
            "cluster_formation.peer_discovery_backend": "classic_config",
            f"{nodes}.1": self._peer._name,
            f"{nodes}.2": self._name,
        }

    def _write_configuration(self) -> None:
        configuration = self.folder / "rabbitmq.conf"
        configuration.write_text("".join(f"{k} = {v}\n" for k, v in self._config.items()))
        plugins = self.folder / "enabled_plugins"
        plugins.write_text(f"[{','.join(self._plugins)}].\n")
        # Else the scripts read the system's /etc/rabbitmq/rabbitmq-env.conf.
        environment = self.folder / "rabbitmq-env.conf"
        environment.touch()
        give_to_server_user(configuration, plugins, environment)
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(self._cookie)
            give_to_server_user(cookie)
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_LOGS": str(self.log),
            "RABBITMQ_PID_FILE": str(self.folder / "rabbitmq.pid"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _LOOPBACK,
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            # Else the script stays between us and the node, and a signal meets a shell.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _log_tails(self) -> str:
        return "\n".join(log_tail(log) for log in (self.folder / "output.log", self.log))


class RabbitMQCluster(Server):
    """Nodes of one cluster. As a context manager it is started, and then removed."""

    def __init__(self, nodes: int = 3, *, config: Mapping[str, str] | None = None) -> None:
        first = RabbitMQ(config=config)
        self.nodes = [first, *(RabbitMQ(config=config, peer=first) for _ in range(nodes - 1))]

    def start(self) -> None:
        """Start the nodes, one after the other, and return when each knows the others.

        Raises ServerError.
        """
        for node in self.nodes:
            node.start()
        # Of the last one's view: the others let it in.
        self.nodes[-1].rabbitmqctl("await_online_nodes", str(len(self.nodes)), "--timeout", "30")

    def remove(self) -> None:
        """Kill the nodes and remove their folders."""
        # The first one's port mapper serves all of them.
        for node in reversed(self.nodes):
            node.remove()

    def url(self) -> str:
        """Return an AMQP URL with all nodes."""
        hosts = ",".join(f"127.0.0.1:{node.amqp_port}" for node in self.nodes)
        return f"amqp://guest:guest@{hosts}/%2F"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _speaks_amqp(port: int) -> bool:
    """Whether the answer to a protocol header is a frame: the node's connection.start."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return probe.recv(1) == b"\x01"
    except OSError:
        return False
