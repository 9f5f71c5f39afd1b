"""docs/how-to/stomp.md: its examples do what it says, and its tables say what the code does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from servers.postgres import PostgreSQL
from servers.relay import DaemonProcess
from support.examples import blocks, examples, here, psql, statements
from support.fix_servers import VHost
from support.fix_stomp import Stompers
from support.sessions import Session, open_session

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/stomp.md").read_text()
LAPTOP = "amqp://guest:guest@localhost/"


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables below a heading, without their heads."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def type_all(session: Session, broker: VHost, text: str) -> list[list[tuple[object, ...]]]:
    """Type an example as a reader would; the rows of each statement."""
    script = text.replace(LAPTOP, broker.url())
    return [session.run(statement) for statement in statements(script)]


def test_the_examples_do_what_the_page_says(
    database: str, broker: VHost, stompers: Stompers, postgres: PostgreSQL
) -> None:
    first, address, outbox, pricing = examples(DOCUMENT)
    client = stompers()
    client.subscribe("/topic/items.*")
    plugins, run = [shlex.split(block) for block in blocks(DOCUMENT, "sh")]
    assert plugins == ["rabbitmq-plugins", "enable", "rabbitmq_stomp", "rabbitmq_web_stomp"]
    assert run[:3] == ["pg-amqp", "run", "--dsn"]
    with open_session(database) as session:
        type_all(session, broker, first)
        one, two = client.take(), client.take()
        assert (one.body, two.body) == (b'{"id": 1}', b'{"id": 2}')
        shown = {"tenant": "7", "late": "false", "tags": '["new", "web"]', "persistent": "true"}
        assert shown.items() <= two.headers.items()
        found = type_all(session, broker, address)
        assert found == [[("events", "orders/placed")], [("/topic/items.insert",)]]
        type_all(session, broker, outbox)
        type_all(session, broker, pricing)
        (request,) = blocks(DOCUMENT, "stomp")
        head, body = request.split("\n\n")
        command, *lines = head.splitlines()
        headers = dict(line.split(":", 1) for line in lines)
        with DaemonProcess(here(run[-1], postgres, database)):
            three = client.take()
            assert (three.body, three.headers["rate"]) == (b'{"id": 3}', "0.5")
            client.connection.send_frame(command, headers, body.strip())
            answer = client.take()
        assert json.loads(answer.body) == {"sku": 7, "price": 19.90}
        assert answer.headers["subscription"] == headers["reply-to"]
        assert answer.headers["correlation-id"] == headers["correlation-id"]
        assert session.warnings() == []


def test_the_table_of_destinations(session: Session) -> None:
    addresses = rows("Destinations")
    assert len(addresses) == 5
    for destinations, exchange, key in addresses:
        wanted = {"the default one": ""}.get(exchange, exchange.strip("`"))
        key = "" if key == "empty" else key.partition("`:")[0].strip("`")
        for destination in re.findall(r"`([^`]+)`", destinations):
            found = session.run("SELECT * FROM amqp.stomp_address(%s)", destination)
            assert found == [(wanted, key)], destination


def test_the_table_of_headers(session: Session) -> None:
    (section,) = re.findall(r"^\| given .*?\n\n", DOCUMENT, re.M | re.S)
    lines = [line.strip("|").split(" | ") for line in section.split("\n")[2:] if line]
    for given, shown, _ in lines:
        pairs = zip(re.findall(r"`([^`]+)`", given), re.findall(r"`([^`]+)`", shown), strict=True)
        for value, text in pairs:
            found = session.value("SELECT amqp.stomp_headers(%s)->>'k'", f'{{"k": {value}}}')
            assert found == text


def test_the_table_of_properties_has_all_of_them(session: Session) -> None:
    (section,) = re.findall(r"^\| parameter .*?\n\n", DOCUMENT, re.M | re.S)
    lines = [line.strip("|").split(" | ") for line in section.split("\n")[2:] if line]
    pairs = [
        (parameter, header.partition(":")[0])
        for parameters, headers, *_ in lines
        for parameter, header in zip(
            re.findall(r'`"?(\w+)', parameters),
            re.findall(r"`([a-z-]+)", headers)[: parameters.count("`") // 2],
            strict=True,
        )
    ]
    assert len(pairs) == 12
    for parameter, header in pairs:
        error = session.error("SELECT amqp.stomp_headers(jsonb_build_object(%s::text, 1))", header)
        assert parameter in ("delivery_mode", "message_id") or header.replace("-", "_") == parameter
        assert error.hint == f"It is given by the parameter {parameter}."


def test_the_addresses_are_there_without_the_extension(
    postgres: PostgreSQL, tmp_path: Path
) -> None:
    """And without PL/Python: pg-amqp install brings them."""
    from pg_amqp_daemon.install.scripts import outbox

    with open_session(postgres.dsn()) as session:
        session.run("CREATE DATABASE managed")
    try:
        script = "CREATE SCHEMA amqp; CREATE SCHEMA amqp_inner;\n" + "\n".join(outbox())
        printed = psql(
            postgres.dsn("managed"),
            script + "\nSELECT * FROM amqp.stomp_address('/topic/k');"
            " SELECT amqp.stomp_destination('x', 'k'), amqp.stomp_headers('{\"a\": null}');",
        )
        assert printed.splitlines()[-2:] == ["amq.topic|k", '/exchange/x/k|{"a": "null"}']
    finally:
        with open_session(postgres.dsn()) as session:
            session.run("DROP DATABASE managed WITH (FORCE)")
