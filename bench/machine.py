"""What a run was measured on: the machine, the versions, the commit."""

from __future__ import annotations

import mmap
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg

from bench.lab import Lab

_PAGE = os.sysconf("SC_PAGE_SIZE")
_EXTENSIONS = """
SELECT string_agg(extname || ' ' || extversion, ', ') FROM pg_extension WHERE extname LIKE '%amqp%'
"""


def describe(lab: Lab) -> dict[str, str]:
    """What to say of it, in the order in which it is shown."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    ((python,),) = lab.session.execute("SELECT bench.python_version()")
    ((extension,),) = lab.session.execute(_EXTENSIONS.encode())
    described = {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "Memory": f"{memory:.0f} GB",
        "Kernel": f"{platform.system()} {platform.release()}",
        "PostgreSQL": _postgres_version(lab.session),
        "RabbitMQ": f"{lab.limit.server_version}, Erlang/OTP {_erlang(lab)}",
        "Python": python,
        "Extension": extension,
        "Commit": _commit(),
        "Measured": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
    }
    if lab.peer is not None:
        with lab.connect(lab.peer) as peer:
            ((extension,),) = peer.execute(_EXTENSIONS.encode())
            described["Peer"] = f"{extension}, PostgreSQL {_postgres_version(peer)}"
    return described


def run_of(machine: Mapping[str, str]) -> str:
    """Which run it was, in short."""
    return f"{machine['Measured']}, commit {machine['Commit']}"


def touch_memory(size: int) -> None:
    """Use so many bytes of the machine's memory once, and more.

    A hypervisor may take back what is free, and give it again when it is touched, for more than
    everything else costs: here 2 ms a MB. That is no part of what is measured.
    """
    size += 1 << 26
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[::_PAGE] = bytes(len(range(0, size, _PAGE)))


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _postgres_version(session: psycopg.Connection[tuple[str]]) -> str:
    return (session.info.parameter_status("server_version") or "").split()[0]


def _erlang(lab: Lab) -> str:
    return lab.rabbitmq.rabbitmqctl("eval", "erlang:system_info(otp_release).").strip().strip('"')


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
