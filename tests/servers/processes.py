"""Processes, ports and folders of private servers.

PostgreSQL refuses to run as root. So where we are root, every server runs as the system user
`postgres`; otherwise as whoever we are. A server is a child in a session of its own, so that a
Ctrl-C at our terminal reaches only us; the kernel ends it when we die before ending it.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# Below the range from which the kernel takes the ports of outgoing connections: while a server is
# down in a restart test, no connection can take its port.
_PORTS = range(15000, 32000)

_ports_given: set[int] = set()


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
    """Return a loopback port that nobody listens on and that this process was not given before."""
    for port in random.sample(_PORTS, len(_PORTS)):
        if port in _ports_given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _ports_given.add(port)
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


class Process:
    """A server process that this process started.

    Output goes to the file `log`, `env` is added to the environment. Should we die first, the
    kernel sends it `orphan_signal`; None lets it run on (a demo that is kept). The kernel's measure
    is the thread that creates the process: start servers from the main thread.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        orphan_signal: signal.Signals | None = signal.SIGKILL,
    ) -> None:
        self.log = log
        prefix = _user_change(orphan_signal)
        with log.open("ab") as output:
            give_to_server_user(log)
            self._popen = subprocess.Popen(
                [*prefix, *map(str, command)],
                env={**os.environ, **(env or {})},
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

    def end(self, *signals: signal.Signals, timeout: float = 20) -> None:
        """Send the signals, one each time `timeout` seconds pass, until the process has ended.

        After the last, and for anything that the process leaves behind in its session: SIGKILL.
        """
        for one in signals:
            if not self.is_running():
                break
            self._popen.send_signal(one)
            try:
                self._popen.wait(timeout)
            except subprocess.TimeoutExpired:
                continue
        kill_session(self.pid)
        self._popen.wait()


def log_tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log file, for an error message."""
    if not log.exists():
        return f"({log.name} was not written)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def session_members(session: int) -> list[int]:
    """Return the ids of a session's processes, without those that only wait to be reaped."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # A process may go while we look.
        with suppress(OSError):
            # pid (name) state parent group session ...; a name may hold anything, parentheses too.
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
            if int(sid) == session and state != "Z":
                members.append(int(stat.parent.name))
    return members


def kill_session(session: int) -> None:
    """Kill all processes of a session and return when they are gone."""
    for member in session_members(session):
        # It may end by itself in between.
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    wait_for(lambda: not session_members(session), 10, f"the end of session {session}")


def start_time(pid: int) -> int | None:
    """Return when a process started, in the kernel's ticks since boot; None if there is none.

    Together with its id this names a process for good: ids are used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def _user_change(orphan_signal: signal.Signals | None = None) -> list[str]:
    """Return a command prefix: become `server_user`; get this signal when our creator dies."""
    options = []
    if orphan_signal:
        options += ["--pdeathsig", orphan_signal.name.removeprefix("SIG")]
    if os.getuid() == 0:
        user = server_user()
        options += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
    return ["setpriv", *options, "--"] if options else []
