"""The SQL examples of a document, and psql as a reader would run them."""

from __future__ import annotations

import re
import subprocess

from servers.postgres import bindir


def examples(document: str) -> list[str]:
    """The SQL examples of a document, in order."""
    return re.findall(r"^```sql\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)


def psql(database: str, script: str) -> str:
    """Run a script as a reader would, and return what it prints. Fails at the first error."""
    finished = subprocess.run(
        [bindir() / "psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr
