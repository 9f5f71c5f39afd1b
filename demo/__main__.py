"""`make demo`: rows become messages, and messages become rows, side by side.

python -m demo          show it and tear everything down
python -m demo --keep   show it and leave both servers up
python -m demo --stop   stop the servers that were left up
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any

import pika
import psycopg
from pika.adapters.blocking_connection import BlockingChannel
from psycopg.pq import TransactionStatus

from servers.postgres import PostgreSQL
from servers.processes import Process, create_folder, has_mark, kill_family, wait_for
from servers.rabbitmq import RabbitMQ

# Says where the servers of --keep are, and which processes they are.
KEPT = Path(__file__).parent.parent / "build" / "demo.json"

_PROGRAM = Path(sys.executable).with_name("pg-amqp")
LEFT = 49
RIGHT = 48
NO_BREAK = "\N{NO-BREAK SPACE}"

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


def main() -> None:
    """Run the demo, or stop the servers of the last one."""
    parser = argparse.ArgumentParser(description="show pg_amqp_py on two private servers")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--keep", action="store_true", help="leave both servers up")
    choice.add_argument("--stop", action="store_true", help="stop the servers that were left up")
    parser.add_argument("--state", type=Path, default=KEPT, help="the file that remembers them")
    arguments = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _leave)
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
        rabbitmq = stack.enter_context(RabbitMQ(folder / "rabbitmq", outlive=bool(keep)))
        stack.callback(_hold_signals)
        tell(postgres, rabbitmq)
        if keep:
            remember(keep, folder, [*postgres.processes, *rabbitmq.processes])
            stack.pop_all()
            print(how_to_reach(postgres, rabbitmq))


def tell(postgres: PostgreSQL, rabbitmq: RabbitMQ) -> None:
    """Run every chapter, and print what SQL did beside what arrived."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        _print_title("Once: a broker, an exchange, a queue, a trigger")
        _print_and_execute(connection, SETUP.replace("{url}", rabbitmq.url()))
        print("\n\n" + _row("WHAT SQL DID", "WHAT ARRIVED IN QUEUE orders"))
        with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as amqp:
            channel = amqp.channel()
            for title, script in CHAPTERS.items():
                _print_title(title)
                for statement in _statements(script):
                    connection.execute(statement.encode())
                    arrived = list(_arrived(channel))
                    if not arrived and connection.info.transaction_status == TransactionStatus.IDLE:
                        arrived = ["(nothing)"]
                    _print_rows(statement.splitlines(), arrived)
        with _daemon(postgres):
            tell_outbox(rabbitmq, connection)
            tell_consuming(rabbitmq, connection)
    print()


def tell_outbox(rabbitmq: RabbitMQ, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Stop the broker, commit, start it again: the daemon delivers what waits in the outbox."""
    _print_title("The outbox: RabbitMQ is stopped, orders still commit")
    _print_and_execute(connection, OUTBOX)
    rabbitmq.stop()
    print("\n" + _row("$ pg-amqp run &", "(RabbitMQ is stopped)"))
    for statement in _statements(WHILE_DOWN):
        connection.execute(statement.encode())
        _print_rows(statement.splitlines(), ["(nothing)"])
    _print_pending(connection)
    rabbitmq.start()
    wait_for(lambda: _pending(connection) == 0, 60, "the outbox to be delivered")
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as amqp:
        _print_rows([], ["", "(RabbitMQ is back)", *_arrived(amqp.channel())])
    _print_pending(connection)


def tell_consuming(rabbitmq: RabbitMQ, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Send messages to queues, and show what the daemon makes of them."""
    _print_title("The other way: a queue becomes rows, and one bad message stops nobody")
    _print_and_execute(connection, CONSUMING)
    print("\n" + _row("WHAT SQL SEES", "WHAT WAS SENT TO QUEUE readings"))
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as amqp:
        channel = amqp.channel()
        for body in READINGS:
            channel.basic_publish("", "readings", body.encode())
        _wait_until_consumed(connection, "readings", len(READINGS))
        left = []
        for statement in _statements(BECAME):
            rows = connection.execute(statement.encode()).fetchall()
            shown = [" | ".join(map(str, row)) for row in rows]
            left += [statement, *_wrapped(*shown, width=LEFT)]
        _print_rows(left, READINGS)

        _print_title("A function answers requests")
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
        right = [_bold("asked: queue totals"), "  reply_to: amq.rabbitmq.reply-to"]
        right += ["  correlation_id: 1", "  Ada", _bold("answered")]
        right += [f"  correlation_id: {properties.correlation_id}", f"  {answer.decode()}"]
        _print_rows(left, right)
        channel.cancel()


def _wait_until_consumed(
    connection: psycopg.Connection[tuple[Any, ...]], consumer: str, messages: int
) -> None:
    query = "SELECT stored + dead FROM amqp.inbox_status() WHERE consumer = %s"
    wait_for(
        lambda: connection.execute(query, [consumer]).fetchone() == (messages,),
        60,
        "the messages to be stored",
    )


def _print_and_execute(connection: psycopg.Connection[tuple[Any, ...]], script: str) -> None:
    for statement in _statements(script):
        connection.execute(statement.encode())
        print(statement)


@contextmanager
def _daemon(postgres: PostgreSQL) -> Iterator[None]:
    """Have the daemon run, and end with us whatever happens."""
    daemon = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", _PROGRAM, "run", "--dsn", postgres.dsn()],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait()


def _wrapped(*lines: str, width: int) -> list[str]:
    """Indented below what stands before them."""
    return [
        part
        for line in lines
        for part in textwrap.wrap(
            line, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
    ]


def _print_pending(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    _print_rows(
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
    return "\n".join(
        [
            "Both servers stay up, and the daemon can be started:",
            f"  PostgreSQL  {postgres.bindir / 'psql'} -h 127.0.0.1 -p {postgres.port} -U postgres",
            f"  RabbitMQ    {rabbitmq.url()}",
            f'  the daemon  {_PROGRAM} run --dsn "{postgres.dsn()}"',
            "  stop both   make demo-stop",
        ]
    )


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, each with the line break that follows it."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        if line.endswith(";"):
            yield statement.strip("\n")
            statement = ""


def _arrived(channel: BlockingChannel) -> Iterator[str]:
    """Yield the lines that describe each message in the queue, and take it out.

    A COMMIT returns when the broker has confirmed: what there is, is there already.
    """
    while True:
        delivery, properties, body = channel.basic_get("orders", auto_ack=True)
        if delivery is None:
            return
        yield _bold(f"{delivery.exchange} / {delivery.routing_key}")
        given = {name: value for name, value in vars(properties).items() if value is not None}
        for name, value in given.items():
            yield from _wrapped(f"{name}: {value}", width=RIGHT)
        text = body.decode()
        if properties.content_type == "application/json":
            # Lines break only between the members of an object.
            text = re.sub("(?<!,) ", NO_BREAK, text)
        yield from textwrap.wrap(text, RIGHT, initial_indent="  ", subsequent_indent="   ")


def _print_title(title: str) -> None:
    print(f"\n{_bold('-- ' + title)}")


def _print_rows(left: Iterable[str], right: Iterable[str]) -> None:
    for pair in zip_longest(left, right, fillvalue=""):
        print(_row(*pair).replace(NO_BREAK, " "))
    sys.stdout.flush()


def _row(left: str, right: str) -> str:
    invisible = len(left) - len(left.replace(_BOLD, "").replace(_PLAIN, ""))
    return f"{left:{LEFT + invisible}} | {right}".rstrip()


_COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ
_BOLD, _PLAIN = ("\033[1m", "\033[0m")


def _bold(text: str) -> str:
    return f"{_BOLD}{text}{_PLAIN}" if _COLOURS else text


def _leave(signum: int, frame: FrameType | None) -> None:
    """End by way of every `with`, so that nothing is left up."""
    _hold_signals()
    sys.exit(128 + signum)


def _hold_signals() -> None:
    """Let an impatient second Ctrl-C not interrupt the clearing up."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)


if __name__ == "__main__":
    main()
