"""packaging/: the systemd unit and the Dockerfile of the daemon."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pg_amqp_daemon.cli import main

PROJECT = Path(__file__).parents[2]
UNIT = PROJECT / "packaging" / "pg-amqp.service"
DOCKERFILE = PROJECT / "packaging" / "Dockerfile"


def docker(instruction: str) -> list[str]:
    """What follows this instruction of the Dockerfile, each time that it is there."""
    return re.findall(rf"^{instruction} +(.*)", DOCKERFILE.read_text(), re.MULTILINE)


def command_lines() -> list[list[str]]:
    (entrypoint,), (default,) = docker("ENTRYPOINT"), docker("CMD")
    (start,) = re.findall(r"^ExecStart=(.*)", UNIT.read_text(), re.MULTILINE)
    return [[*json.loads(entrypoint), *json.loads(default)], start.split()]


@pytest.mark.parametrize("line", command_lines(), ids=["Dockerfile", "unit"])
def test_the_program_understands_how_it_is_called(line: list[str]) -> None:
    program, name, *arguments = line
    assert (Path(program).name, name) == ("pg-amqp", "run")
    command = main.commands[name]
    # Parses and checks the options without running anything.
    context = command.make_context(name, arguments, parent=click.Context(main))
    assert context.params["listen_metrics"][1] == 9810


def test_the_daemon_tells_its_health_on_the_port_that_the_image_asks() -> None:
    assert docker("EXPOSE") == ["9810"]
    (check,) = docker("HEALTHCHECK")
    assert ":9810/health" in check


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # It looks whether the program is there.
    program = Path(sys.executable).with_name("pg-amqp")
    text, count = re.subn(r"(?<=^ExecStart=)\S+", str(program), UNIT.read_text(), flags=re.M)
    assert count == 1
    unit.write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # It reads the units that this one names, too, and may have something to say of them.
    complaints = [line for line in verified.stdout.splitlines() if UNIT.name in line]
    assert (verified.returncode, complaints) == (0, [])


def test_the_image_gets_all_that_the_wheel_is_made_of(tmp_path: Path) -> None:
    for copied in docker("COPY")[:-1]:
        *sources, target = copied.split()
        for source in sources:
            if (PROJECT / source).is_dir():
                shutil.copytree(PROJECT / source, tmp_path / target)
            else:
                shutil.copy(PROJECT / source, tmp_path / target)
    completed = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", "wheel", "."],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    assert wheel.name.startswith("pg_amqp_py-")
