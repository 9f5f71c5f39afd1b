"""`make deb`, from a clean tree, without Internet, as docs/how-to/packages.md has it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from servers.postgres import bindir
from support.examples import blocks

PROJECT = Path(__file__).parents[2]
DOCUMENT = (PROJECT / "docs/how-to/packages.md").read_text()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no Debian"),
]


def run(*command: str | Path, cwd: Path = PROJECT, online: bool = True) -> str:
    """What it printed; fails with that. Offline, pip knows only what it is told."""
    hidden = ("MAKE", "MFLAGS") if online else ("MAKE", "MFLAGS", "PIP_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    completed = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout
    return completed.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both packages, made without an index of packages."""
    tree = tmp_path_factory.mktemp("clone") / "pg_amqp_py"
    ignore = shutil.ignore_patterns("build", ".git", "__pycache__", "pg_amqp_py--*.sql")
    shutil.copytree(PROJECT, tree, ignore=ignore)
    _, download, build = blocks(DOCUMENT, "sh")
    # The Python of the tests is the server's.
    run("sh", "-euxc", download.replace("python3", sys.executable), cwd=tree)
    said = run("sh", "-euxc", build, cwd=tree, online=False)
    assert "made:" in said
    return tree / "build" / "deb"


def package(packages: Path, name: str) -> Path:
    (found,) = packages.glob(f"{name}_*.deb")
    return found


def field(package: Path, name: str) -> str:
    return run("dpkg-deb", "--field", package, name).strip()


def contents(package: Path) -> dict[str, str]:
    """Who owns each file, with its mode."""
    lines = run("dpkg-deb", "--contents", package).splitlines()
    rows = [line.split(maxsplit=5) for line in lines]
    return {row[5].split(" -> ")[0].lstrip("."): f"{row[0]} {row[1]}" for row in rows}


def test_there_are_two_packages_of_this_version(packages: Path) -> None:
    control = (PROJECT / "pg_amqp_py.control").read_text()
    (version,) = re.findall(r"default_version = '(.*)'", control)
    made = list(packages.iterdir())
    assert len(made) == 2
    assert {field(one, "Version") for one in made} == {f"{version}-1"}


def test_the_package_of_the_extension(packages: Path) -> None:
    major = run(bindir() / "pg_config", "--version").split()[1].partition(".")[0]
    extension = package(packages, f"postgresql-{major}-pg-amqp-py")
    assert field(extension, "Depends") == f"postgresql-{major}, postgresql-plpython3-{major}"
    assert field(extension, "Architecture") == "all"
    files = contents(extension)
    library = run(bindir() / "pg_config", "--pkglibdir").strip()
    shared = run(bindir() / "pg_config", "--sharedir").strip()
    for path in (
        f"{library}/pg_amqp_py/pg_amqp_py/wire/connection.py",
        f"{library}/pg_amqp_py/pika/spec.py",
        f"{shared}/extension/pg_amqp_py.control",
    ):
        assert files[path] == "-rw-r--r-- root/root"
    assert not any("pg_amqp_daemon" in path for path in files)


def test_the_package_of_the_program(packages: Path, tmp_path: Path) -> None:
    program = package(packages, "pg-amqp")
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert field(program, "Depends").split(", ")[0] == python
    files = contents(program)
    assert files["/opt/pg-amqp/bin/pg-amqp"] == "-rwxr-xr-x root/root"
    assert files["/usr/bin/pg-amqp"].startswith("l")
    for unit in ("pg-amqp", "pg-amqp-gateway"):
        assert files[f"/usr/lib/systemd/system/{unit}.service"] == "-rw-r--r-- root/root"
    assert not any(path.startswith("/etc/") for path in files), "nothing is enabled"
    run("dpkg-deb", "--extract", program, tmp_path)
    home = tmp_path / "opt/pg-amqp"
    assert (home / "bin/pg-amqp").read_text().splitlines()[0] == "#!/opt/pg-amqp/bin/python3"
    for path in home.rglob("*"):
        if path.is_file():
            assert bytes(packages.parents[1]) not in path.read_bytes(), path
    said = run(home / "bin/python3", home / "bin/pg-amqp", "--version")
    assert said == f"pg-amqp, version {field(program, 'Version').removesuffix('-1')}\n"
    # Of the packages that are there, not of those of the tests.
    where = "import uvicorn, paho.mqtt, psycopg; print(psycopg.pq.__impl__, psycopg.__file__)"
    found = run(home / "bin/python3", "-I", "-c", where).split()
    assert found[0] == "binary"
    assert found[1].startswith(str(home))
