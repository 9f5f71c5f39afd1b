"""For mkdocs: links that leave docs/ lead to pages and files of the site."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).resolve().parent.parent
DOCS = PROJECT / "docs"
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md")
"""Pages beside docs/; in the site they are below project/."""
_LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]"
    r"\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)"
)
_CODE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages beside docs/, and the files that any page links to."""
    for path in OUTSIDE:
        text = (PROJECT / path).read_text()
        files.append(File.generated(config, f"project/{path}", content=text))
    pages = [*(PROJECT / path for path in OUTSIDE), *DOCS.rglob("*.md")]
    for target in {target for page in pages for target in _targets(page)}:
        if target.is_file() and _in_site(target) not in files.src_uris:
            content = target.read_bytes()
            files.append(File.generated(config, _in_site(target), content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Make the links of a page lead to where their targets are in the site."""
    uri: str = page.file.src_uri
    source = PROJECT / uri.removeprefix("project/") if uri.startswith("project/") else DOCS / uri
    return _outside_of_code(markdown, lambda text: _with_links(text, source, Path(uri)))


def _outside_of_code(markdown: str, change: Any) -> str:
    parts = _CODE.split(markdown)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))


def _with_links(text: str, source: Path, uri: Path) -> str:
    def link(found: re.Match[str]) -> str:
        image, label, target, anchor = found.group("image", "text", "target", "anchor")
        if label:
            label = _with_links(label, source, uri)
        if not target or "://" in target:
            return f"{image}[{label}]({target}{anchor or ''})"
        path = (source.parent / target).resolve()
        if path.is_dir():
            return label
        there = os.path.relpath(_in_site(path), uri.parent)
        return f"{image}[{label}]({there}{anchor or ''})"

    return _LINK.sub(link, text)


def _targets(page: Path) -> set[Path]:
    found = (link["target"] for link in _LINK.finditer(_CODE.sub("", page.read_text())))
    return {(page.parent / target).resolve() for target in found if target and "://" not in target}


def _in_site(path: Path) -> str:
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"project/{path.relative_to(PROJECT).as_posix()}"
