"""Every SQL example in the documentation runs, and every error text that it quotes exists."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from support.examples import examples, psql
from support.fix_servers import VHost
from support.sessions import open_session

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
MIGRATING = (PROJECT / "docs/how-to/migrate-from-pg_amqp.md").read_text()

# What CREATE EXTENSION amqp (the one in C, which is not packaged by Debian) would leave behind.
C_EXTENSION = """
SET allow_system_table_mods = on;
CREATE SCHEMA IF NOT EXISTS amqp;
CREATE TABLE amqp.broker (
    broker_id serial NOT NULL, host text NOT NULL, port integer NOT NULL DEFAULT 5672,
    vhost text, username text, password text, PRIMARY KEY (broker_id, host, port));
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
VALUES (999999, 'amqp', 10, 'amqp'::regnamespace, false, '0.4.2');
INSERT INTO pg_depend (classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype)
VALUES ('pg_class'::regclass, 'amqp.broker'::regclass, 0, 'pg_extension'::regclass, 999999, 0, 'e');
RESET allow_system_table_mods;
"""
CREATE_C_EXTENSION = "CREATE EXTENSION amqp;"


def test_the_examples_of_the_readme(database: str, broker: VHost) -> None:
    script = "\n".join(examples(README))
    uri = "amqp://guest:guest@rabbit.example/"
    assert uri in script
    printed = psql(database, f"DROP EXTENSION pg_amqp_py;\n{script.replace(uri, broker.url())}")
    assert "WARNING" not in printed
    assert "items.insert.7|x" in printed
    with open_session(database, autocommit=False) as connection:
        rows = connection.execute("SELECT host FROM amqp.broker ORDER BY broker_id, host")
        assert [host for (host,) in rows] == [
            "127.0.0.1",
            "rabbit1.example",
            "rabbit2.example",
            "rabbit.example",
            "rabbit.example",
        ]


def test_the_first_example_publishes_both_messages(database: str, broker: VHost) -> None:
    first = examples(README)[0].replace("amqp://guest:guest@rabbit.example/", broker.url())
    before, transaction = first.split("BEGIN;")
    printed = psql(
        database,
        "DROP EXTENSION pg_amqp_py;"
        + before
        + "SELECT amqp.queue_declare(1, 'q'); SELECT amqp.queue_bind(1, 'q', 'events', '#');"
        + "BEGIN;"
        + transaction
        + "SELECT 'published', published, confirmed FROM amqp.status();",
    )
    assert "published|2|2" in printed


def test_moving_from_pg_amqp_and_back(database: str) -> None:
    there, back = examples(MIGRATING)
    assert CREATE_C_EXTENSION in back
    printed = psql(
        database,
        "SET client_min_messages = warning; DROP EXTENSION pg_amqp_py;"
        + C_EXTENSION
        + "INSERT INTO amqp.broker SELECT 3, 'one', 5672, 'v', 'u', 'p';"
        + "INSERT INTO amqp.broker (broker_id, host) VALUES (5, 'two');"
        + there
        + "SELECT amqp.add_broker('amqp://three');"
        + "SELECT broker_id, host, port, vhost, username, password, ssl"
        + " FROM amqp.broker ORDER BY 1;"
        + back.replace(CREATE_C_EXTENSION, C_EXTENSION)
        + "INSERT INTO amqp.broker (host) VALUES ('four');"
        + "SELECT * FROM amqp.broker ORDER BY 1;",
    )
    assert printed.split("\n")[1:] == [
        "6",
        "3|one|5672|v|u|p|f",
        "5|two|5672||||f",
        "6|three|5672||||f",
        "6",
        "3|one|5672|v|u|p",
        "5|two|5672|||",
        "6|three|5672|||",
        "7|four|5672|||",
        "",
    ]


def test_beside_pg_amqp_the_extension_says_what_to_do(database: str) -> None:
    with open_session(database) as connection:
        connection.execute("DROP EXTENSION pg_amqp_py")
        connection.execute(C_EXTENSION)
        with pytest.raises(psycopg.errors.DuplicateObject) as caught:
            connection.execute("CREATE EXTENSION pg_amqp_py CASCADE")
        assert caught.value.diag.message_primary == 'extension "amqp" is installed in this database'
        assert "docs/how-to/migrate-from-pg_amqp.md" in (caught.value.diag.message_hint or "")


def test_the_error_texts_in_the_readme_are_those_of_the_code() -> None:
    sources = "\n".join(
        path.read_text()
        for folder, pattern in (("extension", "**/*.py"), ("sql", "**/*.sql*"))
        for path in (PROJECT / folder).glob(pattern)
    )
    # Texts of the broker, of OpenSSL and of PostgreSQL, seen by test_errors and test_tls.
    others = {"ACCESS_REFUSED", "NOT_ALLOWED", "permission denied for schema amqp"}
    others |= {"connection refused"}
    table = README.split("## Troubleshooting")[1].split("## ")[0]
    quoted = {
        text
        for row in table.splitlines()
        if row.startswith("| `")
        for text in re.findall(r"`([^`]+)`", row.split("|")[1])
    }
    assert len(quoted) > 15
    for text in quoted - others:
        # What is filled in at run time stands in braces in the source.
        pattern = re.escape(text).replace("1", r"\{[^}]*\}").replace('"x"', r'"\{[^}]*\}"')
        assert re.search(pattern, sources), text


def test_the_settings_in_the_readme_are_all_and_have_these_defaults() -> None:
    source = (PROJECT / "extension/pg_amqp_py/backend/settings.py").read_text()
    table = README.split("## Settings")[1].split("## ")[0]
    documented = dict(re.findall(r"^\| `(amqp\.\w+)` \| `([^`]+)`", table, re.MULTILINE))
    defaults = dict(re.findall(r'"(amqp\.\w+)",\s+\("([^"]+)", ', source))
    assert len(defaults) == len(re.findall(r"^\w+ = Setting\(", source, re.MULTILINE)) > 5
    assert documented == defaults


# ---- The tutorial ----


def test_the_tutorial_leads_where_it_says(database: str, broker: VHost) -> None:
    tutorial = examples((PROJECT / "docs/tutorial.md").read_text())
    before = f"""SELECT amqp.add_broker('{broker.url()}');
                 SELECT amqp.exchange_declare(1, 'events', 'topic', false, true);"""
    printed = psql(database, before + "SELECT 'part';".join(["", *tutorial]))
    parts = [part.split() for part in printed.split("part\n")[1:]]
    message, trigger, outbox, batch, again = parts
    assert message[-2:] == ["greeting|hello", "1|1"]
    assert trigger[-1] == "4|4"
    assert outbox[-1] == "1|2|0"
    assert batch[0] == "1"
    assert batch[1].startswith("order.paid|NOT_FOUND")
    assert again == ["t", "1", "1", "1|0|0"]


# ---- Places ----

DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "tests/*.md") for path in PROJECT.glob(pattern)
)


def links(document: Path) -> set[Path]:
    """The files that a document links to."""
    found = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    return {
        (document.parent / target).resolve() for target in found if not target.startswith("http")
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in links(document):
        assert target.exists(), target


def test_every_page_is_found_from_the_index() -> None:
    found = {PROJECT / "docs/index.md"}
    ahead = list(found)
    while ahead:
        new = {path for path in links(ahead.pop()) if path.suffix == ".md"} - found
        found |= new
        ahead += new
    assert {path for path in DOCUMENTS if path.is_relative_to(PROJECT / "docs")} <= found


def test_sections_that_are_linked_to_exist() -> None:
    for document in DOCUMENTS:
        for target, section in re.findall(r"\]\(([^)#]*)#([^)]+)\)", document.read_text()):
            text = (document.parent / target if target else document).read_text()
            titles = [
                re.sub(r"[^\w\s-]", "", title) for title in re.findall(r"^#+ (.*)", text, re.M)
            ]
            assert section in [title.lower().replace(" ", "-") for title in titles], section
