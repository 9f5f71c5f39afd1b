"""Rules of the house that no linter knows."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
SOURCES = ("extension", "daemon", "servers", "demo", "bench", "mutants", "tests")


def files(*folders: str, pattern: str = "*.py") -> list[Path]:
    return [path for folder in folders for path in (PROJECT / folder).rglob(pattern)]


def test_no_test_module_imports_another() -> None:
    for path in files("tests"):
        assert not re.search(r"^\s*(from|import) [\w.]*\btest_", path.read_text(), re.M), path


def test_files_stay_short_enough_to_be_read() -> None:
    for path in files("extension", "daemon"):
        assert path.read_text().count("\n") <= 460, path
    for path in files("servers", "bench", "tests"):
        assert path.read_text().count("\n") <= 700, path


def test_every_module_says_first_what_it_is_for() -> None:
    for path in files(*SOURCES):
        assert re.match(r'"""[A-Z`/<a-z]', path.read_text()), path


def test_a_function_in_pl_python_is_one_line() -> None:
    for path in files("sql", pattern="*.sql*"):
        for body in re.findall(r"LANGUAGE plpython3u.*?AS \$\$(.*?)\$\$", path.read_text(), re.S):
            # This one finds the others' module.
            assert "\n" not in body or path.name == "load_python.sql", path


def test_nobody_is_told_to_install_it_by_its_name() -> None:
    # It is in no registry of packages: who takes the name there would be installed.
    told = re.compile(r"(pip|pipx) install [^\n]*pg[_-]amqp[_-]py(?![/.-]\S*\.whl)")
    assert told.search("pip install 'pg_amqp_py[mqtt]'")
    named = [*files("docs", "packaging", pattern="*"), *PROJECT.glob("*.md"), *files(*SOURCES)]
    for path in named:
        if path.is_file() and path.suffix not in (".svg", ".png") and path != Path(__file__):
            assert not told.search(path.read_text()), path


def test_the_order_of_each_component_names_all_its_files() -> None:
    for order in files("sql", pattern="order.txt"):
        component = order.parent
        named = order.read_text().split()
        assert len(named) == len(set(named)), component
        there = {
            str(path.relative_to(component))
            for path in component.rglob("*.sql*")
            if path.parent.name != "upgrades"
        }
        assert there - {"preamble.sql"} == set(named), component
