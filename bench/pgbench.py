"""Transactions a second of many clients, and what they cost, once all of them are under way.

pgbench's own summary would count each session's first publish, which loads Python. So it logs every
transaction, and those of a window in the middle are counted; over the same window, the kernel
is asked for the CPU of the backends.
"""

from __future__ import annotations

import math
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import psycopg

from bench.clock import cpu
from bench.lab import Lab
from servers.processes import temporary_folder, wait_for

_WARM_UP = 0.5
_WARM_UP_CLIENT = 0.04
"""Seconds, and for each client: its first publish takes CPU that all share."""
_MARGIN = 0.3
"""Seconds that pgbench goes on behind the window."""


class Rate(NamedTuple):
    """What was seen in the window."""

    tps: float
    cpu: float
    """Seconds of CPU of the backend, a transaction."""


def rate(lab: Lab, script: str, clients: int, dsn: str | None = None) -> Rate:
    """Let clients run a script, as prepared statements, for the seconds of the lab's sizes."""
    dsn = dsn or lab.postgres.dsn()
    warm_up = _WARM_UP + _WARM_UP_CLIENT * clients
    window = lab.sizes.clients_seconds
    with temporary_folder() as folder, psycopg.connect(dsn, autocommit=True) as session:
        (folder / "script").write_text(script)
        command: list[str | Path] = [
            *(lab.postgres.bindir / "pgbench", "--no-vacuum", "--protocol=prepared", "--log"),
            *(f"--log-prefix={folder}/log", f"--file={folder}/script", f"--client={clients}"),
            *(f"--jobs={min(2, clients)}", f"--time={math.ceil(warm_up + window + _MARGIN)}", dsn),
        ]
        # Backends of the run before may not be gone yet.
        wait_for(lambda: not _backends(session), 10, "the end of an earlier pgbench")
        pgbench = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            time.sleep(warm_up)
            backends = _backends(session)
            start, used = time.time(), cpu(*backends)
            time.sleep(window)
            end, used = time.time(), cpu(*backends) - used
        finally:
            _, complaint = pgbench.communicate()
        if pgbench.returncode or len(backends) != clients:
            found = f"{len(backends)} backends for {clients} clients"
            raise RuntimeError(f"pgbench failed, {found}: {complaint.decode()}")
        count = sum(start <= at < end for log in folder.glob("log.*") for at in _ends(log))
    return Rate(count / (end - start), used / count)


def _backends(session: psycopg.Connection[tuple[int]]) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'"
    return [pid for (pid,) in session.execute(query.encode())]


def _ends(log: Path) -> list[float]:
    """When each transaction of a log ended: the last two columns, seconds and microseconds."""
    lines = (line.split() for line in log.read_text().splitlines())
    return [int(line[4]) + int(line[5]) / 1e6 for line in lines]
