"""`make demo`: rows become messages, and messages become rows.

python -m demo          show it and tear everything down
python -m demo --keep   show it and leave both servers up
python -m demo --stop   stop the servers that were left up
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pika
import psycopg
from paho.mqtt.client import MQTTMessage
from pika.adapters.blocking_connection import BlockingChannel
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_loads

from demo.ending import hold_signals, leave_on_signals
from demo.page import LEFT, Page, wrapped
from demo.subscriber import subscriber
from servers.postgres import PostgreSQL
from servers.processes import Process, create_folder, free_port, has_mark, kill_family, wait_for
from servers.rabbitmq import RabbitMQ

# Says where the servers of --keep are, and which processes they are.
KEPT = Path(__file__).parent.parent / "build" / "demo.json"

_PROGRAM = Path(sys.executable).with_name("pg-amqp")
_NEXT = """
What to do next:
  make demo KEEP=1     the same, and the servers stay up for you to try it
  docs/tutorial.md     begins where this ends
"""

SETUP = """
CREATE EXTENSION pg_amqp_py CASCADE;

SELECT amqp.add_broker('{url}');

SELECT amqp.exchange_declare(1, 'events', 'topic',
       passive => false, durable => true);
SELECT amqp.queue_declare(1, 'orders');
SELECT amqp.queue_bind(1, 'orders', 'events', '#');

CREATE TABLE orders (
  id       integer GENERATED ALWAYS AS IDENTITY
           PRIMARY KEY,
  customer text NOT NULL,
  total    numeric(10,2) NOT NULL);

CREATE TRIGGER publish
  AFTER INSERT OR UPDATE OR DELETE ON orders
  FOR EACH ROW EXECUTE FUNCTION
  amqp.publish_change('1', 'events');
"""

# Each statement is run on its own, and what is in the queue then stands beside it.
CHAPTERS = {
    "A row changes, a message goes out": """
INSERT INTO orders (customer, total)
  VALUES ('Ada', 19.90);

UPDATE orders SET total = 24.50
  WHERE customer = 'Ada';
""",
    "What is rolled back was never sent": """
BEGIN;
INSERT INTO orders (customer, total)
  VALUES ('Bob', 5.00);
DELETE FROM orders;
ROLLBACK;
""",
    "A savepoint takes back its own messages, no others": """
BEGIN;
INSERT INTO orders (customer, total)
  VALUES ('Cleo', 7.00);
SAVEPOINT attempt;
INSERT INTO orders (customer, total)
  VALUES ('a mistake', 0.00);
ROLLBACK TO attempt;
INSERT INTO orders (customer, total)
  VALUES ('Dora', 8.00);
COMMIT;
""",
    "Any message, with any property": """
SELECT amqp.publish(1, 'events', 'report.ready',
  'all orders are in',
  delivery_mode  => 2,
  content_type   => 'text/plain',
  correlation_id => 'run-7',
  headers        => '{"rows": 3, "late": false}',
  priority       => 5,
  expiration     => '60000',
  type           => 'report');
""",
}


# With the daemon beside it, while RabbitMQ is down.
OUTBOX = """
CREATE TABLE payments (
  id       integer PRIMARY KEY,
  customer text NOT NULL,
  amount   numeric(10,2) NOT NULL);

CREATE TRIGGER publish AFTER INSERT ON payments
  FOR EACH ROW EXECUTE FUNCTION
  amqp.publish_change_outbox('1', 'events');
"""
WHILE_DOWN = """
INSERT INTO payments VALUES (1, 'Ada', 24.50);

INSERT INTO payments VALUES (2, 'Dora', 8.00);

SELECT amqp.publish_outbox(1, 'events',
  'day.closed', 'two payments');
"""

# The other way; the daemon goes on.
CONSUMING = """
CREATE TABLE readings (
  sensor  text,
  celsius numeric NOT NULL,
  at      timestamptz DEFAULT now());
SELECT amqp.queue_declare(1, 'readings');

INSERT INTO amqp.consumer
  (name, broker_id, queue, target_table)
  VALUES ('readings', 1, 'readings', 'readings');
"""
READINGS = (
    """{"sensor": "attic", "celsius": 31.5}""",
    """{"sensor": "attic", "celsius": "warm"}""",
    """{"sensor": "cellar", "celsius": 12}""",
)
BECAME = """
SELECT sensor, celsius FROM readings;

SELECT error FROM amqp.inbox_dead;
"""
ANSWERING = """
CREATE FUNCTION total_of(m amqp.message)
  RETURNS jsonb LANGUAGE sql AS $$
  SELECT jsonb_build_object('total', sum(total))
  FROM orders
  WHERE customer = amqp.body_text(m) $$;
SELECT amqp.queue_declare(1, 'totals');

INSERT INTO amqp.consumer
  (name, broker_id, queue, target_function)
  VALUES ('totals', 1, 'totals', 'total_of');
"""

ASKING = """
SELECT amqp.body_json(r) FROM
  amqp.request(1, '', 'totals', 'Ada') AS r;
"""

# With RabbitMQ's plugin for MQTT.
TOPICS = """
UPDATE amqp.broker SET mqtt_port = {port};
"""
DEVICES = """
SELECT amqp.publish_mqtt(1, 'shop/door/wanted',
  'open');

SELECT amqp.publish_mqtt(1, 'shop/status',
  'closing soon', retain => true);
"""

LISTENING = """
INSERT INTO amqp.listener
  (channel, broker_id, exchange)
  VALUES ('stock', 1, 'events');
"""
NOTIFYING = """
NOTIFY stock, 'attic: 7 left';

SELECT amqp.notify('stock',
  repeat('much more, ', 5000));
"""


def main() -> None:
    """Run the demo, or stop the servers of the last one."""
    parser = argparse.ArgumentParser(description="show pg_amqp_py on two private servers")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--keep", action="store_true", help="leave both servers up")
    choice.add_argument("--stop", action="store_true", help="stop the servers that were left up")
    parser.add_argument("--state", type=Path, default=KEPT, help="the file that remembers them")
    arguments = parser.parse_args()
    leave_on_signals()
    if arguments.stop:
        stop_kept(arguments.state)
    else:
        show(arguments.state if arguments.keep else None)


def show(keep: Path | None) -> None:
    """Start both servers and show everything; leave them up if `keep` names the file for that."""
    if keep and keep.exists():
        sys.exit("the servers of the last demo are still up: `make demo-stop` stops them")
    with ExitStack() as stack:
        folder = create_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        print("Starting a private PostgreSQL ...", flush=True)
        postgres = stack.enter_context(PostgreSQL(folder / "postgres", outlive=bool(keep)))
        print("Starting a private RabbitMQ ...", flush=True)
        rabbitmq = stack.enter_context(
            RabbitMQ(folder / "rabbitmq", plugins=["rabbitmq_mqtt"], outlive=bool(keep))
        )
        stack.callback(hold_signals)
        tell(Page(), postgres, rabbitmq)
        if keep:
            remember(keep, folder, [*postgres.processes, *rabbitmq.processes])
            stack.pop_all()
            print(how_to_reach(postgres, rabbitmq))
        else:
            print(_NEXT)


def tell(page: Page, postgres: PostgreSQL, rabbitmq: RabbitMQ) -> None:
    """Run every chapter, and print what SQL did beside what arrived."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        page.title("Once: a broker, an exchange, a queue, a trigger")
        _print_and_execute(page, connection, SETUP.replace("{url}", rabbitmq.url()))
        page.heading("WHAT SQL DID", "WHAT ARRIVED IN QUEUE orders")
        with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as amqp:
            channel = amqp.channel()
            for title, script in CHAPTERS.items():
                page.title(title)
                for statement in _statements(script):
                    connection.execute(statement.encode())
                    arrived = list(_arrived(page, channel))
                    if not arrived and connection.info.transaction_status == TransactionStatus.IDLE:
                        arrived = ["(nothing)"]
                    page.rows(statement.splitlines(), arrived)
        with _running("run", "--dsn", postgres.dsn()):
            tell_outbox(page, rabbitmq, connection)
            tell_consuming(page, rabbitmq, connection)
            tell_listening(page, rabbitmq, connection)
            tell_topics(page, rabbitmq, connection)
        tell_posting(page, rabbitmq)


def tell_outbox(
    page: Page, rabbitmq: RabbitMQ, connection: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """Stop the broker, commit, start it again: the daemon delivers what waits in the outbox."""
    page.title("The outbox: RabbitMQ is stopped, orders still commit")
    _print_and_execute(page, connection, OUTBOX)
    rabbitmq.stop()
    page.heading("$ pg-amqp run &", "(RabbitMQ is stopped)")
    for statement in _statements(WHILE_DOWN):
        connection.execute(statement.encode())
        page.rows(statement.splitlines(), ["(nothing)"])
    _print_pending(page, connection)
    rabbitmq.start()
    wait_for(lambda: _pending(connection) == 0, 60, "the outbox to be delivered")
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as amqp:
        page.rows([], ["", "(RabbitMQ is back)", *_arrived(page, amqp.channel())])
    _print_pending(page, connection)


def tell_consuming(
    page: Page, rabbitmq: RabbitMQ, connection: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """Send messages to queues, and show what the daemon makes of them."""
    page.title("The other way: a queue becomes rows, and one bad message stops nobody")
    _print_and_execute(page, connection, CONSUMING)
    page.heading("WHAT SQL SEES", "WHAT WAS SENT TO QUEUE readings", right_first=True)
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as amqp:
        channel = amqp.channel()
        for body in READINGS:
            channel.basic_publish("", "readings", body.encode())
        _wait_until_consumed(connection, "readings", len(READINGS))
        left = []
        for statement in _statements(BECAME):
            rows = connection.execute(statement.encode()).fetchall()
            shown = [" | ".join(map(str, row)) for row in rows]
            left += [statement, *wrapped(*shown, width=LEFT)]
        page.rows(left, READINGS, right_first=True)

        page.title("A function answers requests")
        left = []
        for statement in _statements(ANSWERING):
            connection.execute(statement.encode())
            left += statement.splitlines()
        asked = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id="1")
        answers = channel.consume("amq.rabbitmq.reply-to", auto_ack=True, inactivity_timeout=60)
        # It consumes when the first answer is asked for.
        amqp.call_later(0, lambda: channel.basic_publish("", "totals", b"Ada", asked))
        _, properties, answer = next(answers)
        assert properties is not None
        assert answer is not None
        right = [page.bold("asked: queue totals"), "  reply_to: amq.rabbitmq.reply-to"]
        right += ["  correlation_id: 1", "  Ada", page.bold("answered")]
        right += [f"  correlation_id: {properties.correlation_id}", f"  {answer.decode()}"]
        page.rows(left, right)
        channel.cancel()

        page.title("A query asks, too")
        (statement,) = _statements(ASKING)
        # As psql shows it: 24.50 is no 24.5.
        as_text = connection.cursor()
        set_json_loads(lambda found: found.decode() if isinstance(found, bytes) else found, as_text)
        ((found,),) = as_text.execute(statement.encode()).fetchall()
        page.rows(statement.splitlines(), [found])


def tell_listening(
    page: Page, rabbitmq: RabbitMQ, connection: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """Send notifications, and show what the daemon publishes."""
    page.title("NOTIFY becomes a message, and consumers are told what they may have missed")
    page.heading("WHAT SQL DID", "WHAT ARRIVED IN QUEUE orders")
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as amqp:
        channel = amqp.channel()
        for statement in (*_statements(LISTENING), *_statements(NOTIFYING)):
            connection.execute(statement.encode())
            right = wait_for(lambda: list(_heard(page, channel)), 60, "the message")
            page.rows(statement.splitlines(), right)


def tell_topics(
    page: Page, rabbitmq: RabbitMQ, connection: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """Publish to topics, and show what clients of MQTT see, then and later."""
    page.title("MQTT: devices see it, and later subscribers what is retained")
    for statement in _statements(TOPICS.replace("{port}", str(rabbitmq.mqtt_port))):
        connection.execute(statement.encode())
    page.heading("WHAT SQL DID", "WHAT A SUBSCRIBER TO shop/# SEES")
    with subscriber(rabbitmq, "shop/#") as seen:
        for statement in _statements(DEVICES):
            connection.execute(statement.encode())
            message = wait_for(lambda: seen.pop() if seen else None, 60, "the message")
            page.rows(statement.splitlines(), _of_topic(page, message))
    wait_for(lambda: _pending(connection) == 0, 60, "the outbox to be delivered")
    with subscriber(rabbitmq, "shop/status") as seen:
        message = wait_for(lambda: seen.pop() if seen else None, 60, "what is retained")
        page.rows([], ["", "(another one subscribes to shop/status)", *_of_topic(page, message)])


def _of_topic(page: Page, message: MQTTMessage | None) -> list[str]:
    assert message is not None
    kept = " (retained)" if message.retain else ""
    return [page.bold(message.topic), f"  {message.payload.decode()}{kept}"]


def tell_posting(page: Page, rabbitmq: RabbitMQ) -> None:
    """Post messages over HTTP, and show what is answered and what arrives."""
    page.title("HTTP: 204 means that RabbitMQ has confirmed it")
    port = free_port()
    page.heading(f"$ pg-amqp gateway --listen :{port} &", "WHAT ARRIVED IN QUEUE orders")
    arguments = [
        "--listen",
        f"127.0.0.1:{port}",
        "--broker",
        f"amqp://127.0.0.1:{rabbitmq.amqp_port}/",
    ]
    with (
        _running("gateway", *arguments),
        pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as amqp,
    ):
        channel = amqp.channel()
        wait_for(lambda: _post(port, "GET", "/ready") == 200, 60, "the gateway")
        for exchange, body in (("events", "by_post"), ("nowhere", "lost")):
            path = f"/%2F/{exchange}/hi"
            status = _post(port, "POST", path, body)
            left = [f"$ curl -d body={body} localhost:{port}{path}", f"  {status}"]
            page.rows(left, list(_arrived(page, channel)) or ["(nothing)"])


def _post(port: int, method: str, path: str, body: str = "") -> int:
    """The status that is answered; 0 if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    login = base64.b64encode(b"guest:guest").decode()
    headers = {
        "Authorization": f"Basic {login}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    try:
        connection.request(method, path, f"body={body}", headers)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def _heard(page: Page, channel: BlockingChannel) -> Iterator[str]:
    """Yield what is of interest of the next message, if there is one."""
    delivery, properties, body = channel.basic_get("orders", auto_ack=True)
    if delivery is None or properties is None:
        return
    yield page.bold(f"{delivery.exchange} / {delivery.routing_key}")
    if properties.type is not None:
        yield f"  type: {properties.type}"
    for name, value in (properties.headers or {}).items():
        if name.startswith("gap-"):
            yield f"  {name}: {value}"
    text = body.decode()
    yield f"  {text}" if len(text) < page.right else f"  {text[:22]}... ({len(text):,} characters)"


def _wait_until_consumed(
    connection: psycopg.Connection[tuple[Any, ...]], consumer: str, messages: int
) -> None:
    query = "SELECT stored + dead FROM amqp.inbox_status() WHERE consumer = %s"
    wait_for(
        lambda: connection.execute(query, [consumer]).fetchone() == (messages,),
        60,
        "the messages to be stored",
    )


def _print_and_execute(
    page: Page, connection: psycopg.Connection[tuple[Any, ...]], script: str
) -> None:
    for statement in _statements(script):
        connection.execute(statement.encode())
        print(statement)


@contextmanager
def _running(*command: str) -> Iterator[None]:
    """Have a command of pg-amqp run, and end with us whatever happens."""
    daemon = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", _PROGRAM, *command], stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait()


def _print_pending(page: Page, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    page.rows(
        ["SELECT pending FROM amqp.outbox_status();", f"  pending: {_pending(connection)}"], []
    )


def _pending(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    row = connection.execute("SELECT pending FROM amqp.outbox_status()").fetchone()
    assert row is not None
    return int(row[0])


def remember(state: Path, folder: Path, processes: Iterable[Process]) -> None:
    """Write down for `stop_kept` what is left up."""
    marks = {process.pid: process.mark for process in processes}
    state.write_text(json.dumps({"folder": str(folder), "marks": marks}))


def stop_kept(state: Path) -> None:
    """Stop the servers that `--keep` left up and remove their folder."""
    if not state.exists():
        sys.exit("no demo was left up")
    kept: dict[str, Any] = json.loads(state.read_text())
    for pid, mark in kept["marks"].items():
        # Another process may have the id by now: after a reboot, say.
        if has_mark(int(pid), mark):
            # Their data goes with them: nobody needs an orderly shutdown.
            kill_family(int(pid), mark)
    shutil.rmtree(kept["folder"], ignore_errors=True)
    state.unlink()
    print("stopped, and everything removed")


def how_to_reach(postgres: PostgreSQL, rabbitmq: RabbitMQ) -> str:
    """Return what a person needs to go on with the servers that are left up."""
    program = os.path.relpath(_PROGRAM)
    psql = postgres.bindir / "psql"
    return f"""
Both servers stay up. What to do next:

-- Have the daemon do its work
{program} run --dsn "{postgres.dsn()}"

-- Look at messages as they come, in another terminal
{program} tail --exchange events \\
  --broker {rabbitmq.url()}

-- Connect with psql, in a third: change rows of orders
{psql} -h 127.0.0.1 -p {postgres.port} -U postgres

-- Stop both servers
make demo-stop
"""


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, each with the line break that follows it."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        if line.endswith(";"):
            yield statement.strip("\n")
            statement = ""


def _arrived(page: Page, channel: BlockingChannel) -> Iterator[str]:
    """Yield the lines that describe each message in the queue, and take it out.

    A COMMIT returns when the broker has confirmed: what there is, is there already.
    """
    while True:
        delivery, properties, body = channel.basic_get("orders", auto_ack=True)
        if delivery is None:
            return
        given = {name: value for name, value in vars(properties).items() if value is not None}
        place = f"{delivery.exchange} / {delivery.routing_key}"
        yield from page.message(place, given, body.decode())


if __name__ == "__main__":
    main()
