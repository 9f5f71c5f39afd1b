"""Every SQL example in the documentation runs, and every error text that it quotes exists."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.relay import DaemonProcess
from support.examples import blocks, examples, here, psql, statements
from support.fix_servers import VHost
from support.patience import LIMIT
from support.sessions import open_session

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
ERRORS = (PROJECT / "docs/reference/errors.md").read_text()
SETTINGS = (PROJECT / "docs/reference/settings.md").read_text()
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


# ---- The README ----


def test_the_readme_stays_short() -> None:
    assert README.count("\n") <= 130


def test_the_example_of_the_readme_arrives_as_it_is_shown(database: str, broker: VHost) -> None:
    (script,) = examples(README)
    printed = psql(
        database,
        "DROP EXTENSION pg_amqp_py;"
        + script.replace("amqp://guest:guest@localhost/", broker.url())
        + "SELECT 'published', published, confirmed FROM amqp.status();",
    )
    assert "WARNING" not in printed
    assert "published|2|2" in printed
    (command,) = blocks(README, "sh")
    program, *arguments = shlex.split(command)
    assert program == "rabbitmqadmin"
    if shutil.which(program) is None:
        pytest.skip("no rabbitmqadmin here")
    port = str(broker.rabbitmq.management_port)
    found = subprocess.check_output(
        [program, "--port", port, "--vhost", broker.vhost, "--format", "raw_json", *arguments]
    )
    arrived = [(message["routing_key"], message["payload"]) for message in json.loads(found)]
    (shown,) = blocks(README, "")
    lines = re.findall(r"^(\S+) +(.*(?:\n .*)*)", shown, re.MULTILINE)
    assert [key for key, _ in arrived] == [key for key, _ in lines]
    for (_, payload), (_, text) in zip(arrived, lines, strict=True):
        assert payload.startswith(re.sub(r"\n\s+", " ", text).removesuffix(", ...}"))


# ---- Moving ----


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


# ---- Errors and settings ----


def test_the_error_texts_are_those_of_the_code() -> None:
    sources = "\n".join(
        path.read_text()
        for folder, pattern in (
            ("extension", "**/*.py"),
            ("daemon", "**/*.py"),
            ("sql", "**/*.sql*"),
        )
        for path in (PROJECT / folder).glob(pattern)
    )
    # Texts of the broker, of OpenSSL and of PostgreSQL, seen by test_errors, test_tls and
    # test_closing_refusals.
    others = {"ACCESS_REFUSED", "NOT_ALLOWED", "permission denied for schema amqp"}
    others |= {"connection refused", "inequivalent arg"}
    # Of PostgreSQL and pip; test_documentation_pages sees those that can be seen here.
    others |= {
        "function amqp.publish(",
        "Peer authentication failed for user",
        "externally-managed-environment",
        "unsupported Unicode escape sequence",
        "permission denied for sequence broker_broker_id_seq",
        'relation "amqp.broker" does not exist',
    }
    # Of PostgreSQL, seen by tests/daemon/test_other_version.py.
    others |= {
        'schema "amqp_inner" does not exist',
        'relation "amqp.consumer" does not exist',
        "function amqp.outbox_lock(",
    }
    quoted = {
        text
        for row in ERRORS.splitlines()
        if row.startswith("| `")
        for text in re.findall(r"`([^`]+)`", row.split("|")[1])
        if not text.startswith("publish_change(")
    }
    assert len(quoted) > 25
    for text in quoted - others:
        # What is filled in at run time stands in braces in the source.
        pattern = re.escape(text).replace("1", r"\{[^}]*\}").replace('"x"', r'"\{[^}]*\}"')
        assert re.search(pattern, sources), text


def test_the_settings_are_all_and_have_these_defaults() -> None:
    source = (PROJECT / "extension/pg_amqp_py/backend/settings.py").read_text()
    documented = dict(re.findall(r"^\| `(amqp\.\w+)` \| `([^`]+)`", SETTINGS, re.MULTILINE))
    defaults = dict(re.findall(r'"(amqp\.\w+)",\s+\("([^"]+)", ', source))
    assert len(defaults) == len(re.findall(r"^\w+ = Setting\(", source, re.MULTILINE)) > 5
    assert documented == defaults


def test_show_knows_the_settings_once_the_extension_was_used(database: str) -> None:
    settings = re.findall(r"^\| `(amqp\.\w+)`", SETTINGS, re.MULTILINE)
    with open_session(database) as session:
        for setting in settings:
            assert session.error(f"SHOW {setting}").sqlstate == "42704"
        session.run("SELECT amqp.pending()")
        for setting in settings:
            session.value(f"SHOW {setting}")


# ---- The tutorial ----


@pytest.mark.slow
def test_the_tutorial_leads_where_it_says(
    database: str, broker: VHost, postgres: PostgreSQL
) -> None:
    document = (PROJECT / "docs/tutorial.md").read_text()
    *first, consumer, stored, inbox, arrived = examples(document)
    before = f"""SELECT amqp.add_broker('{broker.url()}');
                 SELECT amqp.exchange_declare(1, 'events', 'topic', false, true);"""
    printed = psql(database, before + "SELECT 'part';".join(["", *first, consumer]))
    parts = [part.split() for part in printed.split("part\n")[1:]]
    message, trigger, outbox, batch, again, _ = parts
    assert message[-2:] == ["greeting|hello", "1|1"]
    assert trigger[-1] == "4|4"
    assert outbox[-1] == "1|2|0"
    assert batch[0] == "1"
    assert batch[1].startswith("order.paid|NOT_FOUND")
    assert again == ["t", "1", "1", "1|0|0"]
    demo, run = blocks(document, "sh")
    assert demo == "make demo KEEP=1\n"
    program, *arguments, dsn = shlex.split(run)
    assert (Path(program).name, arguments) == ("pg-amqp", ["run", "--dsn"])
    with DaemonProcess(here(dsn, postgres, database)), open_session(database) as session:
        counts = statements(stored)[1]
        wait_for(lambda: session.run(counts) == [("paid", 1, 1, 1)], LIMIT, "row, copy, dead")
        assert session.run(statements(stored)[0]) == [(1, Decimal("19.90"))]
        error = session.value(statements(stored)[2])
        assert error == 'invalid input syntax for type numeric: "a lot"'
        session.run(inbox)
        wait_for(lambda: len(session.run(arrived)) == 5, LIMIT, "all that was published")
        keys = [key for key, _ in session.run(arrived)]
        changes = ["fruit.insert", "fruit.insert", "fruit.update"]
        assert keys == ["greeting", *changes, "order.paid"]


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
