"""docs/how-to/gateway.md: its examples do what it says, and its tables say what the code does."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pika
import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg.conninfo import make_conninfo

from pg_amqp_daemon.cli import main
from pg_amqp_daemon.gateway.openapi import ANSWERS, document
from pg_amqp_daemon.gateway.properties import _FROM_TEXT
from servers.gateway import GatewayProcess
from servers.nginx import Nginx
from servers.processes import wait_for
from servers.proxy import CuttingProxy
from servers.rabbitmq import RabbitMQ
from support.examples import blocks
from support.fix_servers import VHost
from support.messages import Inbox
from support.patience import LIMIT
from support.posting import Client, path_of
from support.sessions import Session

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/gateway.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables below a heading."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_all_options_stand_in_the_table() -> None:
    named = {name for row in rows("Options") for name in re.findall(r"`(--[a-z-]+)", row[0])}
    assert named == {option for one in main.commands["gateway"].params for option in one.opts}


def test_all_fields_and_statuses_stand_in_the_tables() -> None:
    fields = {name for row in rows("Requests") for name in re.findall(r"`([a-z_]+)`", row[0])}
    assert fields == {*_FROM_TEXT, "expire"}
    statuses = {int(one) for row in rows("Answers") for one in re.findall(r"\b\d{3}\b", row[0])}
    assert statuses == {*ANSWERS, 200}


def test_the_commands_are_understood() -> None:
    for line in (line for block in blocks(DOCUMENT, "sh") for line in block.splitlines()):
        program, name, *arguments = line.replace('"', "").split()
        if program == "pg-amqp" and "--dsn" not in arguments:
            main.commands[name].make_context(name, arguments, parent=click.Context(main))


def test_the_curl_commands_publish(
    gateway: GatewayProcess, tmp_path: Path, rabbitmq_default: BlockingChannel
) -> None:
    inbox = Inbox(rabbitmq_default, "amq.topic", "foo")
    (tmp_path / "label.pdf").write_bytes(b"%PDF")
    (script,) = (block for block in blocks(DOCUMENT, "sh") if block.startswith("curl"))
    for line in script.splitlines():
        command = line.replace("localhost:8000", f"127.0.0.1:{gateway.port}")
        command = command.replace("curl", "curl -s -o /dev/null -w '%{http_code}'", 1)
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout in ("204", "200")
    one, other = inbox.drain()
    assert (one.text, one.properties.content_type) == ("hi", "text/plain")
    assert (other.text, other.properties.message_id) == ("%PDF", "42")


@pytest.fixture
def rabbitmq_default(rabbitmq: RabbitMQ) -> Iterator[BlockingChannel]:
    """A channel on the default virtual host."""
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.url()))
    yield connection.channel()
    connection.close()


def test_behind_nginx_every_name_arrives_as_it_was(broker: VHost, channel: BlockingChannel) -> None:
    name = "a/b//c%2F ü"
    channel.exchange_declare(name, "fanout")
    inbox = Inbox(channel, name, "")
    url = f"amqp://127.0.0.1:{broker.rabbitmq.amqp_port}/"
    (configuration,) = blocks(DOCUMENT, "nginx")
    with GatewayProcess("--broker", url, "--trusted-proxy", "127.0.0.1") as gateway:
        assert isinstance(gateway, GatewayProcess)
        with Nginx(configuration.replace("127.0.0.1:8000", f"127.0.0.1:{gateway.port}")) as nginx:
            assert isinstance(nginx, Nginx)
            client = Client(nginx.port)
            path = path_of(broker.vhost, name, name)
            assert [client.form(path).status for _ in range(3)] == [204] * 3
            assert client.request("POST", path, [b"x" * 100_000] * 3).status == 204
            line = {"exchange": name, "routing_key": name, "payload": "x"}
            assert client.lines(f"/{broker.vhost}", line).lines == [{"status": 204}]
            assert client.form(path_of(broker.vhost, "no", "k")).status == 404
            client.close()
    assert {one.routing_key for one in inbox.drain()} == {name}


def test_the_role_of_the_outbox_has_what_it_needs(
    database: str, session: Session, broker: VHost, proxy: CuttingProxy
) -> None:
    (granting,) = blocks(DOCUMENT, "sql")
    session.execute(granting.encode())
    try:
        session.execute("UPDATE amqp.broker SET port = %s", [proxy.port])
        proxy.refuse()
        dsn = make_conninfo(database, user="amqp_gateway")
        with GatewayProcess("--outbox", dsn=dsn) as gateway:
            assert isinstance(gateway, GatewayProcess)
            client = Client(gateway.port)
            path = path_of(broker.vhost, "amq.topic", "k")
            wait_for(lambda: client.form(path).status == 202, LIMIT, "it to be stored")
            client.close()
            assert gateway.events("database not usable") == []
    finally:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("DROP OWNED BY amqp_gateway; DROP ROLE amqp_gateway")


def test_the_openapi_document_names_every_field_and_says_what_is_answered(client: Client) -> None:
    served = client.get("/openapi.json").json
    assert served == json.loads(json.dumps(document()))
    form, *_ = served["paths"]["/{vhost}/{exchange}/{routing_key}"]["post"]["requestBody"][
        "content"
    ].values()
    assert form["schema"]["properties"].keys() == {*_FROM_TEXT, "body"}
    references = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(served))
    assert set(references) <= served["components"]["schemas"].keys()
