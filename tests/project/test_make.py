"""What make says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Else an outer make passes its own variables on.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_the_last_words_of_make_test_count_the_tests(tmp_path: Path) -> None:
    tests = tmp_path / "test_three.py"
    tests.write_text(
        "import pytest\n"
        "def test_one(): pass\n"
        "def test_two(): pass\n"
        "def test_three(): pytest.skip('not here')\n"
    )
    result = tmp_path / "tests.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--junitxml={result}", "-c", "/dev/null", tests],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    said = make("say-result", f"RESULT={result}").stdout
    assert said.startswith("All is well: 3 tests (1 skipped, failures: 0, errors: 0), ")


def test_what_is_missing_is_said_with_the_line_that_installs_it(tmp_path: Path) -> None:
    no_server = make("all", f"PG_CONFIG={tmp_path}/nothing")
    assert "no PostgreSQL server found" in no_server.stdout
    assert re.search(
        r"^apt install postgresql postgresql-plpython3-\S+ python3-pip$", no_server.stdout, re.M
    )
    # Debian's Python knows its packages by way of `site`.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    no_pip = make("what-is-needed", f"PLPYTHON={bare}", f"PIKA={tmp_path}")
    assert no_pip.returncode == 2
    assert no_pip.stdout.startswith(f"{bare} has no pip: apt install python3-pip\n")
    no_python = make("what-is-needed", f"PLPYTHON={tmp_path}/nothing")
    assert "with which PL/Python here goes: apt install python3 " in no_python.stdout
    no_language = make("what-is-needed", "PLPYTHON_VERSION=")
    assert re.search(
        r"^no PL/Python 3 in \S+: apt install postgresql-plpython3-\d+$", no_language.stdout, re.M
    )
    # With a folder of its own: what is there is removed first.
    venv = tmp_path / "venv"
    no_venv = make(f"{venv}/made", "PLPYTHON=false", f"VENV={venv}", f"TOOLS={venv}/made")
    assert "has no venv: apt install python3-venv" in no_venv.stdout


def test_make_test_says_how_long_it_takes() -> None:
    planned = make("--dry-run", "run-test").stdout
    assert planned.startswith("echo 'All tests, then lint: about ")
