"""The wheel: pg-amqp and all that it needs, for a machine without the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from servers.postgres import PostgreSQL
from support.sessions import open_session

PROJECT = Path(__file__).parents[2]

# They build a virtual environment.
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path = PROJECT) -> str:
    """Run a command to its end and return what it printed; fails with its output."""
    completed = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout
    return completed.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, PROJECT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def pg_amqp(wheel: Path) -> Path:
    """The program pg-amqp in a fresh virtual environment: the wheel and what it asks for."""
    venv = wheel.parent / "venv"
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin" / "pip", "install", "--quiet", wheel)
    return venv / "bin" / "pg-amqp"


def test_the_wheel_holds_the_package_and_the_sql_files_and_nothing_else(wheel: Path) -> None:
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package, program = PROJECT / "extension", PROJECT / "daemon"
    sources = {
        str(path.relative_to(folder))
        for folder in (package, program)
        for path in folder.rglob("*.py")
        if "backend" not in path.parts
    }
    marks = {"pg_amqp_py/py.typed", "pg_amqp_daemon/py.typed"}
    sql = {
        f"pg_amqp_daemon/install/{path.relative_to(PROJECT)}"
        for path in (PROJECT / "sql").rglob("*")
        if path.is_file()
    }
    assert names == sources | marks | sql
    assert "pg_amqp_daemon/install/sql/outbox/order.txt" in names


def test_the_program_runs_from_the_wheel_alone(pg_amqp: Path, tmp_path: Path) -> None:
    assert run(pg_amqp, "--version", cwd=tmp_path).startswith("pg-amqp, version ")


def test_the_program_installs_the_outbox(
    pg_amqp: Path, postgres: PostgreSQL, tmp_path: Path
) -> None:
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE from_wheel")
    dsn = postgres.dsn("from_wheel")
    assert " installed" in run(pg_amqp, "install", "--dsn", dsn, cwd=tmp_path)
    with open_session(dsn, autocommit=False) as session:
        session.execute("SELECT amqp.publish_outbox(1, 'amq.topic', 'key', 'text')")
