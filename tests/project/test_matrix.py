"""What of `make matrix` needs no network: its list of servers and tests, and how it unpacks."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from pg_amqp_daemon.install.install import OLDEST_SERVER
from servers import matrix
from servers.postgres import ALONE, bindir


def test_every_supported_version_is_there() -> None:
    assert list(matrix.VERSIONS) == list(range(OLDEST_SERVER, max(matrix.VERSIONS) + 1))
    for major, version in matrix.VERSIONS.items():
        assert version.split(".")[0] == str(major)
    said = f"outbox and inbox alone on PostgreSQL {OLDEST_SERVER} to {max(matrix.VERSIONS)}"
    assert said in (matrix.PROJECT / "README.md").read_text()


def test_its_files_are_there() -> None:
    for path in matrix.TESTS:
        assert (matrix.PROJECT / path).is_file(), path


def test_a_package_is_unpacked_with_its_links(tmp_path: Path) -> None:
    native = tmp_path / "package" / "native"
    (native / "bin").mkdir(parents=True)
    (native / "bin" / "postgres").write_text("a program")
    (native / "lib.so.1").write_text("a library")
    links = [{"source": "native/lib.so.1", "target": "native/lib.so"}]
    (native / "pg-symlinks.json").write_text(json.dumps(links))
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as packed:
        packed.add(tmp_path / "package", "package")
    matrix.unpack(tmp_path / "package.tgz", tmp_path / "there")
    unpacked = tmp_path / "there" / "native"
    assert (unpacked / "lib.so").readlink() == Path("lib.so.1")
    assert (unpacked / "bin" / "postgres").stat().st_mode & 0o777 == 0o755


def test_what_is_there_is_not_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", "")
    (tmp_path / matrix.VERSIONS[14]).mkdir()
    programs = matrix.fetch(14)
    assert programs.parts[-3:] == (matrix.VERSIONS[14], "native", "bin")
    monkeypatch.setenv(ALONE, str(programs))
    assert bindir() == programs
