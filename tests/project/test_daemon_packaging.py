"""packaging/: the systemd unit and the Dockerfile of the daemon."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import pytest
from psycopg.conninfo import make_conninfo

from pg_amqp_daemon.cli import main
from support.fix_servers import VHost
from support.outbox import put
from support.queues import declare, open_channel, take
from support.sessions import open_session

PROJECT = Path(__file__).parents[2]
UNIT = PROJECT / "packaging" / "pg-amqp.service"
GATEWAY_UNIT = PROJECT / "packaging" / "pg-amqp-gateway.service"
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
    assert ":9810/live" in check


def test_the_gateway_understands_how_its_unit_calls_it() -> None:
    (start,) = re.findall(r"^ExecStart=(.*)", GATEWAY_UNIT.read_text(), re.MULTILINE)
    _, name, *arguments = start.split()
    context = main.commands[name].make_context(name, arguments, parent=click.Context(main))
    assert (context.params["listen"], context.params["workers"]) == (("127.0.0.1", 8000), 4)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("file", [UNIT, GATEWAY_UNIT], ids=lambda file: file.stem)
def test_systemd_understands_the_unit(tmp_path: Path, file: Path) -> None:
    unit = tmp_path / file.name
    # It looks whether the program is there.
    program = Path(sys.executable).with_name("pg-amqp")
    text, count = re.subn(r"(?<=^ExecStart=)\S+", str(program), file.read_text(), flags=re.M)
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
    complaints = [line for line in verified.stdout.splitlines() if file.name in line]
    assert (verified.returncode, complaints) == (0, [])


def test_docker_is_given_what_the_image_copies_and_nothing_else() -> None:
    rules = (PROJECT / ".dockerignore").read_text().splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    copied = {source for line in docker("COPY")[:-1] for source in line.split()[:-1]}
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied


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


@pytest.fixture
def image() -> Iterator[list[str]]:
    """The image, built here: how to run a command of it."""
    engine = shutil.which("docker") or shutil.which("podman")
    if engine is None:
        pytest.skip("there is neither docker nor podman here")
    for base in {line.split()[0] for line in docker("FROM")}:
        pulled = subprocess.run([engine, "pull", "--quiet", base], capture_output=True, check=False)
        if pulled.returncode:
            pytest.skip(f"{base} is not to be had here")
    tag = f"pg-amqp-test-{os.getpid()}"
    subprocess.run(
        [engine, "build", "--quiet", "-f", DOCKERFILE, "-t", tag, "."], cwd=PROJECT, check=True
    )
    yield [engine, "run", "--rm", "--network=host", tag]
    subprocess.run([engine, "image", "rm", "--force", tag], capture_output=True, check=True)


@pytest.mark.slow
def test_the_image_delivers(image: list[str], database: str, broker: VHost) -> None:
    version = subprocess.check_output([*image, "--version"], text=True)
    assert version == f"pg-amqp, version {metadata.version('pg_amqp_py')}\n"
    with open_channel(broker.url()) as channel, open_session(database, broker) as session:
        declare(channel)
        put(session, "from a container", exchange="events")
        # A container does not see PostgreSQL's socket.
        by_network = make_conninfo(database, host="127.0.0.1")
        subprocess.run([*image, "relay", "--once", "--dsn", by_network], check=True)
        assert take(channel, "events", 1) == ["from a container"]
