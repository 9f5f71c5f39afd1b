"""`amqp.request()`: a question and its answer, beside the same in C and with pika."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import pika

from bench import roundtrip
from bench.clock import in_turn, median, quantile
from bench.finding import Cell, Finding, Goal, Table
from bench.lab import BODY, Lab, prepared
from servers.processes import temporary_folder, wait_for

_CALLS = 20
_REST = 0.01
_QUEUE = "questions"
_REQUEST = f"SELECT (amqp.request(1, '', '{_QUEUE}', '{BODY}'::text)).body"
_ONE_BY_ONE = (
    f"SELECT count(*) FROM generate_series(1, {_CALLS}) AS n,"
    f" LATERAL amqp.request(1, '', '{_QUEUE}', n::text)"
)
_TOGETHER = (
    f"SELECT count(*) FROM amqp.request_all(1, '', '{_QUEUE}',"
    f" (SELECT array_agg(n::text) FROM generate_series(1, {_CALLS}) AS n))"
)

_BY_PIKA = """
CREATE FUNCTION bench.ask_by_pika(url text, queue text, body text) RETURNS bytea
LANGUAGE plpython3u AS $$
if "ask" not in GD:
    import sys
    # Where the extension has its own.
    found = plpy.execute("SELECT setting FROM pg_catalog.pg_config() WHERE name = 'PKGLIBDIR'")
    sys.path.append(found[0]["setting"] + "/pg_amqp_py")
    import pika
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel, answers, to = connection.channel(), [], "amq.rabbitmq.reply-to"
    channel.basic_consume(to, lambda *given: answers.append(given[3]), auto_ack=True)
    properties = pika.BasicProperties(reply_to=to, correlation_id="c" * 32, expiration="4999")

    def ask(queue, body):
        channel.basic_publish("", queue, body, properties)
        while not answers:
            connection.process_data_events(None)
        return answers.pop()

    GD["ask"] = ask
return GD["ask"](queue, body)
$$
"""

_OURS = "`amqp.request()`"
_IN_C = "limit: the same in C, in the server"
_PIKA = "the same with pika, in PL/Python"
_LOOP = f"`amqp.request()`, {_CALLS} in one statement, each"
_ALL = f"`amqp.request_all()`, {_CALLS} together, each"


def measure(lab: Lab) -> Finding:
    """All in turn, in blocks of a few calls; who answers is a program in C."""
    lab.say("request: questions and answers")
    if not lab.in_c:
        return Finding([Table(roundtrip.MISSING, ["a request", "µs"], [])])
    port = lab.rabbitmq.amqp_port
    lab.session.execute("SELECT amqp.queue_declare(1, %s)", [_QUEUE])
    lab.session.execute(_BY_PIKA.encode())
    with ExitStack() as stack:
        stack.enter_context(roundtrip.echo(port, _QUEUE, stack.enter_context(temporary_folder())))
        wait_for(lambda: _is_consumed(lab), 30, "who answers")
        statements = {
            _OURS: (_REQUEST, 1),
            _PIKA: (f"SELECT bench.ask_by_pika('{lab.rabbitmq.url()}', '{_QUEUE}', '{BODY}')", 1),
            _IN_C: (roundtrip.request(port, _QUEUE, BODY.encode()), 1),
            _LOOP: (_ONE_BY_ONE, _CALLS),
            _ALL: (_TOGETHER, _CALLS),
        }
        contestants: dict[str, Callable[[], list[float]]] = {}
        for name, (statement, count) in statements.items():
            session = stack.enter_context(lab.connect())
            # What fails would be fast.
            session.execute(statement.encode())
            contestants[name] = _block(prepared(session, statement), count)
        found = in_turn(lab.sizes.single_blocks, contestants)
    lab.session.execute("SELECT amqp.queue_delete(1, %s)", [_QUEUE])
    times = {name: [call * 1e6 for block in found[name] for call in block] for name in found}
    medians = {name: median(calls) for name, calls in times.items()}
    rows: list[list[Cell]] = [
        [
            name,
            medians[name],
            f"{quantile(calls, 0.25):.0f} to {quantile(calls, 0.75):.0f}",
            medians[name] / medians[_IN_C],
            medians[name] / medians[_PIKA],
        ]
        for name, calls in times.items()
    ]
    table = Table(
        f"Medians of {len(times[_OURS]):,} calls each, one client, a body of 100 bytes",
        ["a request", "µs", "half of all, µs", "times the limit", "times pika"],
        rows,
    )
    limit = f"the same with pika: {medians[_PIKA]:.0f} µs; in C: {medians[_IN_C]:.0f} µs"
    share = medians[_OURS] / medians[_PIKA]
    return Finding([table], goals=[Goal("a request", share, "times", 1.15, limit)])


def _is_consumed(lab: Lab) -> bool:
    with pika.BlockingConnection(pika.URLParameters(lab.rabbitmq.url())) as connection:
        declared = connection.channel().queue_declare(_QUEUE, passive=True).method
        return bool(declared.consumer_count)


def _block(call: Callable[[], float], count: int) -> Callable[[], list[float]]:
    """A block of calls of so many requests; the seconds of each request."""
    call()

    def block() -> list[float]:
        time.sleep(_REST)
        return [call() / count for _ in range(max(1, _CALLS // count))]

    return block
