"""What `make install` puts where, and the SQL tests of `make installcheck`."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from servers.postgres import PostgreSQL, bindir
from servers.processes import temporary_folder

PROJECT = Path(__file__).parents[2]


def make(target: str, *variables: str, umask: int = 0o022) -> None:
    # Else an outer make passes its own variables on.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    completed = subprocess.run(
        ["make", target, *variables],
        cwd=PROJECT,
        env=environment,
        umask=umask,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A DESTDIR into which somebody with a strict umask installed the extension."""
    make("install", f"DESTDIR={tmp_path}", umask=0o077)
    return tmp_path


def package_folder(destination: Path) -> Path:
    (init,) = destination.glob("**/pg_amqp_py/pg_amqp_py/__init__.py")
    return init.parent.parent


def test_one_version_everywhere() -> None:
    control = (PROJECT / "pg_amqp_py.control").read_text()
    (default_version,) = re.findall(r"default_version = '(.*)'", control)
    meta = json.loads((PROJECT / "META.json").read_text())
    assert meta["version"] == default_version
    assert meta["provides"]["pg_amqp_py"]["version"] == default_version
    assert version("pg_amqp_py") == default_version


@pytest.mark.server
def test_installed_files_are_for_everyone_to_read_and_for_the_owner_to_write(
    installed: Path,
) -> None:
    for path in [installed / "usr", *(installed / "usr").rglob("*")]:
        mode = path.stat().st_mode
        assert stat.S_IMODE(mode) == (0o755 if path.is_dir() else 0o644), path


@pytest.mark.server
def test_package_and_pinned_pika_are_installed_below_pkglibdir(installed: Path) -> None:
    folder = package_folder(installed)
    pkglibdir = subprocess.check_output([bindir() / "pg_config", "--pkglibdir"], text=True)
    assert folder == installed / pkglibdir.strip().lstrip("/") / "pg_amqp_py"
    assert (folder / "pika" / "__init__.py").exists()
    (pin,) = re.findall(r"^pika==(\S+)", (PROJECT / "packaging/requirements.txt").read_text(), re.M)
    assert (folder / f"pika-{pin}.dist-info").is_dir()


@pytest.mark.server
def test_what_runs_outside_the_server_is_not_installed_in_it(installed: Path) -> None:
    folder = package_folder(installed) / "pg_amqp_py"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        "__pycache__",
        "backend",
        "wire",
    }


@pytest.mark.server
def test_bytecode_is_installed_and_valid_whatever_the_timestamps(installed: Path) -> None:
    folder = package_folder(installed)
    sources = set(folder.rglob("*.py"))
    compiled = set(folder.rglob("*.pyc"))
    assert len(compiled) == len(sources) > 10
    for path in compiled:
        # PEP 552: flag 1 without flag 2 is a hash that is never checked.
        assert int.from_bytes(path.read_bytes()[4:8], "little") == 1, path


@pytest.mark.server
def test_install_removes_what_an_earlier_one_left(installed: Path) -> None:
    stale = package_folder(installed) / "pg_amqp_py" / "stale.py"
    stale.touch()
    make("install", f"DESTDIR={installed}")
    assert not stale.exists()


@pytest.mark.server
def test_uninstall_removes_everything(installed: Path) -> None:
    make("uninstall", f"DESTDIR={installed}")
    assert [path for path in installed.rglob("*") if not path.is_dir()] == []


def test_installcheck_passes_without_a_broker(
    postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", str(postgres.folder))
    monkeypatch.setenv("PGPORT", str(postgres.port))
    monkeypatch.setenv("PGUSER", "postgres")
    make("installcheck")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_installcheck_works_in_a_clone_of_somebody_else(postgres: PostgreSQL) -> None:
    with temporary_folder() as folder:
        clone = folder / "clone"
        ignored = shutil.ignore_patterns("build", ".git", "__pycache__")
        shutil.copytree(PROJECT, clone, ignore=ignored)
        folder.chmod(0o755)
        subprocess.run(["chmod", "-R", "a+rX", clone], check=True)
        (clone / "build/regress").mkdir(parents=True)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o777)
        checked = subprocess.run(
            ["make", "--no-print-directory", "installcheck"],
            cwd=clone,
            user="nobody",
            group="nogroup",
            extra_groups=[],
            env={
                "PATH": os.environ["PATH"],
                "PGHOST": "127.0.0.1",
                "PGPORT": str(postgres.port),
                "PGUSER": "postgres",
                "TMPDIR": str(folder / "tmp"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout
        assert list((clone / "build/regress").iterdir()) == []
        assert len(list((folder / "tmp").iterdir())) == 1
