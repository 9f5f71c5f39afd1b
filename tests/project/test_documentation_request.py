"""docs/how-to/request.md: its examples do what it says, and its tables say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pg_amqp_py.wire.request import requests
from servers.postgres import PostgreSQL
from servers.relay import DaemonProcess
from support.examples import commands, examples, here, psql, statements
from support.fix_servers import VHost
from support.sessions import Session, open_session

PROJECT = Path(__file__).parents[2]
DOCUMENT = (PROJECT / "docs/how-to/request.md").read_text()
LAPTOP = "amqp://guest:guest@localhost/"
CODE = PROJECT / "extension/pg_amqp_py/backend"


def type_all(session: Session, broker: VHost, text: str) -> list[list[tuple[object, ...]]]:
    """Type an example as a reader would; the rows of each statement."""
    return [session.run(one) for one in statements(text.replace(LAPTOP, broker.url()))]


@pytest.mark.slow
def test_the_examples(database: str, broker: VHost, postgres: PostgreSQL) -> None:
    first, ask, whole, together, caught = examples(DOCUMENT)
    (command,) = commands(DOCUMENT)
    with open_session(database) as session:
        type_all(session, broker, first)
        with DaemonProcess(here(command[-1], postgres, database)) as daemon:
            daemon.wait_for_event("consuming")
            assert type_all(session, broker, ask) == [[({"price": 12.5},)]]
            assert '`{"price": 12.50}`' in DOCUMENT
            ((content_type, headers, text, body),) = type_all(session, broker, whole)[0]
            assert (content_type, headers) == ("application/json", None)
            assert isinstance(text, str)
            assert text.encode() == body
            _, ((total,),) = type_all(session, broker, together)
            assert total == sum(range(100, 110))
            assert psql(database, caught) == "12.50|\n"


def test_each_error_is_in_the_table() -> None:
    section = DOCUMENT.partition("## Errors")[2].partition("```sql")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    told = {state for row in rows for state in re.findall(r"`(\w{5})`", row)}
    errors = (CODE / "errors.py").read_text()
    for file in ("requesting.py", "received.py"):
        text = (CODE / file).read_text()
        for name, state in re.findall(r'^([A-Z_]+) = "(\w{5})"', errors, re.M):
            if f"sqlstate={name}" in text and not state.startswith(("22023", "54000")):
                assert state in told, state


def test_the_figures_are_those_of_the_code() -> None:
    code = (CODE / "requesting.py").read_text()
    assert "_RECENT = 0.1\n" in code
    assert "within 0.1 seconds of an answer" in DOCUMENT
    assert "_LONGEST = 86400.0\n" in code
    assert "at most 24 hours" in DOCUMENT
    assert f"The replies may have {requests._MOST_BYTES >> 20} MB together." in DOCUMENT


def test_every_parameter_is_explained(session: Session) -> None:
    section = DOCUMENT.partition("| parameter | |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.M)))
    given = session.value("SELECT proargnames FROM pg_proc WHERE proname = 'request' LIMIT 1")
    assert named == given
