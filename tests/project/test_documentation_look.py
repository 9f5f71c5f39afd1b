"""docs/how-to/look.md: its commands show what it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pika
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from support.consuming import STREAM
from support.examples import commands
from support.fix_servers import VHost
from support.patience import LIMIT
from support.queues import declare
from support.sessions import Session

DOCUMENT = (Path(__file__).parents[2] / "docs/how-to/look.md").read_text()
PROGRAM = Path(sys.executable).with_name("pg-amqp")


def led_here(arguments: list[str], broker: VHost, database: str) -> Iterator[str]:
    for argument in arguments:
        if argument.startswith("amqp://"):
            yield broker.url()
        elif argument == "dbname=shop":
            yield database
        else:
            yield argument


def test_every_command_shows_what_comes(
    broker: VHost, channel: BlockingChannel, database: str, session: Session, tmp_path: Path
) -> None:
    session.run("SELECT amqp.add_broker(%s)", broker.url())
    declare(channel, "events", "orders")
    channel.queue_declare("audit", durable=True, arguments={"x-queue-type": STREAM})
    channel.confirm_delivery()
    given = pika.BasicProperties(
        content_type="application/json", headers={"late": False, "rows": 3}
    )
    for number, arguments in enumerate(commands(DOCUMENT)):
        shown = tmp_path / str(number)
        with (
            shown.open("w") as output,
            subprocess.Popen(
                [PROGRAM, *led_here(arguments, broker, database)], stdout=output
            ) as tail,
        ):
            try:
                published = count()

                def came(
                    shown: Path = shown,
                    arguments: list[str] = arguments,
                    published: count[int] = published,
                ) -> bool:
                    # Again and again, as it is not known when it begins to look.
                    body = b'{"id": %d, "total": 19.90}' % next(published)
                    where = ("", "audit") if "audit" in arguments else ("events", "orders.created")
                    channel.basic_publish(*where, body, given)
                    return shown.read_text().count("\n") >= 4 or "--json" in arguments

                wait_for(came, LIMIT, f"messages of {arguments}")
                if "--count" in arguments:
                    wait_for(lambda: came() and tail.poll() == 0, LIMIT, "its end")
            finally:
                tail.terminate()
            assert tail.wait(LIMIT) == 0
        lines = shown.read_text().splitlines()
        if "--json" in arguments:
            assert len(lines) == 10
        elif "audit" not in arguments:
            assert lines[0][8:] == " events / orders.created"
            assert lines[1:3] == [
                "  content_type: application/json",
                '  headers: {"late":false,"rows":3}',
            ]
            assert lines[1] in DOCUMENT
            assert lines[2] in DOCUMENT
