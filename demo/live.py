"""`make live`: the page of examples/live on private servers, and orders that keep changing.

python -m demo.live     print the page's address, and change rows until Ctrl-C
"""

from __future__ import annotations

import json
import random
import shlex
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg

from demo.ending import hold_signals, leave_on_signals
from servers.postgres import PostgreSQL
from servers.processes import create_folder
from servers.rabbitmq import RabbitMQ
from servers.relay import DaemonProcess

EXAMPLE = Path(__file__).parent.parent / "examples" / "live"
PLUGINS = ("rabbitmq_stomp", "rabbitmq_web_stomp")
DATABASE = "shop"
CUSTOMERS = ("Ada", "Bob", "Cleo", "Dora", "Emil", "Fatima", "Grace", "Hugo", "Ines", "José")
ITEMS = ("Coffee, 1 kg", "Espresso cups", "Filter papers", "Grinder", "Kettle", "Tea, 250 g")
STEPS = ("placed", "paid", "packed", "shipped")
MOST = 14
"""Orders that are there; then the oldest that is shipped goes."""
PACE = 0.7
"""Seconds between two changes, on the average."""

Connection = psycopg.Connection[tuple[Any, ...]]


def main() -> None:
    """Show the page until Ctrl-C."""
    leave_on_signals()
    with ExitStack() as stack:
        folder = create_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        print("Starting a private PostgreSQL ...", flush=True)
        postgres = stack.enter_context(PostgreSQL(folder / "postgres"))
        print("Starting a private RabbitMQ, with Web STOMP ...", flush=True)
        rabbitmq = stack.enter_context(RabbitMQ(folder / "rabbitmq", plugins=PLUGINS))
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}".encode())
        dsn = postgres.dsn(DATABASE)
        set_up(dsn, rabbitmq)
        # What ends at the end comes in the order of the way back.
        stack.enter_context(DaemonProcess(dsn))
        address = stack.enter_context(serve(config(rabbitmq.web_stomp_port)))
        shop = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        stack.callback(hold_signals)
        print(f"\nThe page:  {address}\n", flush=True)
        print(f"Change rows yourself, and look:\n  {psql(postgres)}\nCtrl-C ends it.", flush=True)
        keep_changing(shop, random.Random())


def set_up(dsn: str, rabbitmq: RabbitMQ) -> None:
    """Have in database and broker what the page needs: setup.sql and rights.sh."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_amqp_py CASCADE")
        script = (EXAMPLE / "setup.sql").read_text()
        connection.execute(script.replace("amqp://guest:guest@localhost/", rabbitmq.url()).encode())
    for line in (EXAMPLE / "rights.sh").read_text().splitlines():
        if line.startswith("rabbitmqctl "):
            rabbitmq.rabbitmqctl(*shlex.split(line)[1:])


def config(port: int) -> dict[str, str]:
    """The page's config.json, with this port of Web STOMP."""
    found: dict[str, str] = json.loads((EXAMPLE / "config.json").read_text())
    return {**found, "broker": f"ws://127.0.0.1:{port}/ws"}


class _Handler(SimpleHTTPRequestHandler):
    """Serves the page's files as they are, and a config.json that is told."""

    def __init__(self, *arguments: Any, configuration: bytes) -> None:
        self._configuration = configuration
        super().__init__(*arguments, directory=str(EXAMPLE))

    def do_GET(self) -> None:
        """Answer a GET."""
        if self.path.partition("?")[0] != "/config.json":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self._configuration)))
        self.end_headers()
        self.wfile.write(self._configuration)

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002
        """Say nothing: the terminal is for the reader."""


@contextmanager
def serve(configuration: dict[str, str]) -> Iterator[str]:
    """Serve the page on a loopback port; yields its address."""
    handler = partial(_Handler, configuration=json.dumps(configuration).encode())
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="page", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def keep_changing(shop: Connection, chance: random.Random) -> None:
    """Change rows, one after the other, until a signal ends it."""
    pause = threading.Event()
    while True:
        change(shop, chance)
        pause.wait(chance.uniform(0.3, 2 * PACE - 0.3))


def change(shop: Connection, chance: random.Random) -> None:
    """Do what happens in a shop: an order is placed, goes a step further, or is done."""
    rows = shop.execute("SELECT id, status FROM orders ORDER BY id").fetchall()
    open_orders = [(number, status) for number, status in rows if status != STEPS[-1]]
    done = [number for number, status in rows if status == STEPS[-1]]
    if len(rows) > MOST and done:
        shop.execute("DELETE FROM orders WHERE id = %s", [done[0]])
    elif open_orders and (chance.random() < 0.65 or len(rows) > MOST):
        number, status = chance.choice(open_orders)
        following = STEPS[STEPS.index(status) + 1]
        shop.execute("UPDATE orders SET status = %s WHERE id = %s", [following, number])
    else:
        values = [chance.choice(CUSTOMERS), chance.choice(ITEMS), round(chance.uniform(4, 180), 2)]
        shop.execute("INSERT INTO orders (customer, item, amount) VALUES (%s, %s, %s)", values)


def psql(postgres: PostgreSQL) -> str:
    """How a person reaches the database."""
    program = postgres.bindir / "psql"
    return f"{program} -h 127.0.0.1 -p {postgres.port} -U postgres {DATABASE}"


if __name__ == "__main__":
    main()
