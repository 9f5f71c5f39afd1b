"""Puts each slip into a copy of the project, and runs the tests that must notice it.

The copy has a PostgreSQL of its own to install into, so neither the checkout nor the server of this
machine ever holds a slip. Prints a line for each; the exit status is the number of those that no
test noticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click

from mutants.slip import Slip
from mutants.slips import SLIPS
from servers.postgres import bindir
from servers.processes import temporary_folder

PROJECT = Path(__file__).parents[1]
_LEFT_OUT = shutil.ignore_patterns(".git", "build", "__pycache__", ".*_cache")
_LIMIT = 120.0
"""Seconds for the tests of one slip: what makes them hang is noticed, too. They are chosen to take
some ten."""


class Copy:
    """A copy of the project, with a PostgreSQL that it is installed into."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self._project = folder / "project"
        shutil.copytree(PROJECT, self._project, ignore=_LEFT_OUT)
        (self._project / "build").mkdir()
        for pika in (PROJECT / "build").glob("pika-*"):
            shutil.copytree(pika, self._project / "build" / pika.name)
        # PostgreSQL finds what belongs to it beside its programs, wherever these are.
        share = subprocess.check_output([bindir() / "pg_config", "--sharedir"], text=True)
        for source in (bindir().parents[1], Path(share.strip()).parent):
            shutil.copytree(source, folder / source.relative_to("/"), symlinks=True)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
            "PG_CONFIG": str(folder / (bindir() / "pg_config").relative_to("/")),
            # Before the checkout, which the virtual environment has on its path.
            "PYTHONPATH": os.pathsep.join(str(self._project / f) for f in ("extension", "daemon")),
        }

    def survives(self, slip: Slip) -> bool:
        """Whether the tests pass in spite of the slip."""
        file = self._project / slip.file
        text = file.read_text()
        assert text.count(slip.old) == 1, f"{slip.file}: {slip.old}"
        file.write_text(text.replace(slip.old, slip.new))
        try:
            return self._tests_pass(slip.tests)
        finally:
            file.write_text(text)

    def _tests_pass(self, tests: tuple[str, ...]) -> bool:
        self._run("make", "--silent", "install")
        try:
            self._run(sys.executable, "-m", "pytest", "-x", "-q", *tests)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False
        return True

    def _run(self, *command: str) -> None:
        subprocess.run(
            command,
            cwd=self._project,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_LIMIT,
            check=True,
        )


@click.command()
@click.option("--only", default="", help="Those alone in whose file or text this occurs.")
def main(only: str) -> None:
    """Put slips into a copy of the project, and see which of them no test notices."""
    chosen = [slip for slip in SLIPS if only in slip.file or only in slip.old or only in slip.what]
    survivors = 0
    with temporary_folder() as folder:
        copy = Copy(folder)
        for slip in chosen:
            started = time.monotonic()
            survived = copy.survives(slip)
            survivors += survived
            verdict = "NOT NOTICED" if survived else "noticed"
            print(f"{verdict:12} {time.monotonic() - started:4.0f} s  {slip.file}: {slip.what}")
            sys.stdout.flush()
    print(f"{len(chosen) - survivors} of {len(chosen)} slips were noticed")
    sys.exit(survivors)


if __name__ == "__main__":
    main()
