"""Processes, ports and folders of private servers.

PostgreSQL refuses to run as root. So where we are root, every server runs as the system user
`postgres`; otherwise as whoever we are. A server is a child in a session of its own, so that a
Ctrl-C at our terminal reaches only us; the kernel ends it when we die before ending it.
"""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

# Below the range from which the kernel takes the ports of outgoing connections: while a server is
# down in a restart test, no connection can take its port.
_PORTS = range(15000, 32000)

_ports_given: dict[int, socket.socket] = {}
"""Ports given to this process, each with the name that keeps it from others."""


class Closing:
    """Is closed at the end of the block that it is used in."""

    def close(self) -> None:
        """End it."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class ServerError(RuntimeError):
    """A server did not start, stop or answer; the message ends with the tail of its log."""


def wait_for(predicate: Callable[[], T], timeout: float, what: str, *, interval: float = 0.02) -> T:
    """Return the first true value of `predicate`, asked every `interval` seconds.

    Raises TimeoutError naming `what` when there is none after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(interval)


def free_port() -> int:
    """Return a loopback port that nobody listens on and that nobody was given before."""
    for port in random.sample(_PORTS, len(_PORTS)):
        if port in _ports_given:
            continue
        # Other processes run tests at the same time. A name without a file (unix(7), "abstract")
        # belongs to one of them, whosever it is, until that ends.
        name = socket.socket(socket.AF_UNIX)
        with socket.socket() as probe:
            try:
                name.bind(f"\0pg_amqp_py port {port}")
                probe.bind(("127.0.0.1", port))
            except OSError:
                name.close()
                continue
        _ports_given[port] = name
        return port
    raise ServerError("no free loopback port")


def server_user() -> pwd.struct_passwd:
    """Return the user that the servers run as."""
    if os.getuid() == 0:
        return pwd.getpwnam("postgres")
    return pwd.getpwuid(os.getuid())


def as_server_user(command: Sequence[str | Path]) -> list[str]:
    """Return `command` with what it takes to run it as `server_user`."""
    return [*_user_change(), *map(str, command)]


def give_to_server_user(*paths: Path) -> None:
    """Let `server_user` own the files, which nobody else can then read if their mode says so."""
    user = server_user()
    for path in paths:
        os.chown(path, user.pw_uid, user.pw_gid)


def create_folder(folder: Path | None = None) -> Path:
    """Create this folder (default: a temporary one) for `server_user`; nobody else may enter.

    It may exist already.
    """
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="pg_amqp_py-"))
    else:
        folder.mkdir(mode=0o700, exist_ok=True)
    give_to_server_user(folder)
    return folder


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a temporary folder as `create_folder` does; at the end it goes, with all in it."""
    folder = create_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> str:
    """Run a command as `server_user` to its end and return what it printed.

    `env` is added to the environment; `timeout` is in seconds. Raises ServerError with the
    command's output when it fails.
    """
    completed = subprocess.run(
        as_server_user(command),
        env={**os.environ, **(env or {})},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    if completed.returncode != 0:
        raise ServerError(
            f"{Path(command[0]).name} failed ({completed.returncode}):\n{completed.stdout}"
        )
    return completed.stdout


class Server(ABC):
    """What is started, and in the end removed with all that it has written."""

    @abstractmethod
    def start(self) -> None:
        """Return when it answers."""

    @abstractmethod
    def remove(self) -> None:
        """End it at once and remove its folder."""

    def __enter__(self) -> Self:
        """Start it; what it leaves behind is removed if that fails."""
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


class Process:
    """A server process that this process started.

    It runs as `server_user`, or with `as_ourselves` as whoever we are. Output goes to the file
    `log`, `env` is added to the environment. Should we die first, the kernel sends it
    `orphan_signal`; None lets it run on (a demo that is kept). The kernel's measure is the thread
    that creates the process: start servers from the main thread.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        orphan_signal: signal.Signals | None = signal.SIGKILL,
        as_ourselves: bool = False,
    ) -> None:
        self.log = log
        #: What all its processes have in their environment, and no others. Erlang puts its helpers
        #: into sessions of their own, and ids are used again: this is how we know them.
        self.mark = f"PG_AMQP_PY_PROCESS={secrets.token_hex(16)}"
        name, _, value = self.mark.partition("=")
        prefix = _user_change(orphan_signal, as_ourselves=as_ourselves)
        with log.open("ab") as output:
            give_to_server_user(log)
            self._popen = subprocess.Popen(
                [*prefix, *map(str, command)],
                env={**os.environ, **(env or {}), name: value},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process's id, also that of its session."""
        return self._popen.pid

    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._popen.poll() is None

    def send_signal(self, one: signal.Signals) -> None:
        """Send a signal; does nothing if the process has ended."""
        self._popen.send_signal(one)

    def wait(self, timeout: float) -> int:
        """Wait for the end of the process and return its exit status. Raises TimeoutExpired."""
        return self._popen.wait(timeout)

    def end(self, *signals: signal.Signals, timeout: float = 20) -> None:
        """Send the signals, one each time `timeout` seconds pass, until the process has ended.

        After the last, and for anything that the process leaves behind: SIGKILL.
        """
        for one in signals:
            if not self.is_running():
                break
            self._popen.send_signal(one)
            try:
                self._popen.wait(timeout)
            except subprocess.TimeoutExpired:
                continue
        kill_family(self.pid, self.mark)
        self._popen.wait()


def log_tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log file, for an error message."""
    if not log.exists():
        return f"({log.name} was not written)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def family(session: int, mark: str | None = None) -> list[int]:
    """Return the ids of a session's processes, and of those with this mark in their environment.

    Processes that only wait to be reaped are left out.
    """
    members = []
    for process in Path("/proc").glob("[0-9]*"):
        # It may go while we look.
        with suppress(OSError):
            # pid (name) state parent group session ...; a name may hold anything, parentheses too.
            stat = (process / "stat").read_text()
            state, _, _, sid = stat.rpartition(")")[2].split()[:4]
            pid = int(process.name)
            if state != "Z" and (int(sid) == session or (mark and has_mark(pid, mark))):
                members.append(pid)
    return members


def children(parent: int) -> list[int]:
    """Return the ids of the processes that this one started and that have not ended."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def kill_family(session: int, mark: str | None = None) -> None:
    """Kill the `family` and return when it is gone."""

    def killed() -> bool:
        members = family(session, mark)
        for member in members:
            # It may end by itself in between.
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        return not members

    wait_for(killed, 10, f"the end of session {session}")


def has_mark(pid: int, mark: str) -> bool:
    """Whether there is a process with this id, and it is the one that was given this mark."""
    try:
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _user_change(
    orphan_signal: signal.Signals | None = None, *, as_ourselves: bool = False
) -> list[str]:
    """Return a command prefix: become `server_user`; get this signal when our creator dies."""
    options = []
    if orphan_signal:
        options += ["--pdeathsig", orphan_signal.name.removeprefix("SIG")]
    if os.getuid() == 0 and not as_ourselves:
        user = server_user()
        options += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
    return ["setpriv", *options, "--"] if options else []
