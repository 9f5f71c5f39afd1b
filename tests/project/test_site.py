"""The site that `make docs` builds: every page, every link, and nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; a link that leads nowhere, or a page in no menu, keeps it from being built."""
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: `make docs` installs it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    finished = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


def test_every_page_can_be_found_by_a_search(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text())
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    for page in (PROJECT / "docs").rglob("*.md"):
        path = page.relative_to(PROJECT / "docs").with_suffix(".html").as_posix()
        assert path.replace("README.html", "index.html") in found
    assert {"project/index.html", "project/CHANGELOG.html", "project/tests/index.html"} <= found


def test_links_lead_to_files_of_the_site(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        for target in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if not re.match(r"\w+:", target) and page.name != "404.html":
                assert (page.parent / target).exists(), (page, target)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r'<(?:script|img)[^>]* src="?https?:', text), page
        assert not re.search(r'<link[^>]* href="?https?:[^>]*stylesheet', text), page
