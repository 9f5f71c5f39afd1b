"""What consumers guarantee while their servers and daemons fail: exactly once in effect.

Rows are the distinct good messages, dead ones the distinct poison, nothing stays unacknowledged,
and each message that asks for a reply gets one.

What is random is printed with its seed, which comes from PG_AMQP_PY_SEED if that is set.
`--chaos-seconds` says for how long everything is disturbed at once, `--chaos-messages` how many
messages there are in each queue.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pika
import pytest

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction
from servers.rabbitmq import RabbitMQ
from servers.relay import ConsumeProcess, DaemonProcess
from support.arrivals import Lot, producer, publish
from support.patience import LIMIT
from support.sessions import Session, open_session

LONG = 6 * LIMIT

SCHEMA = """
CREATE EXTENSION pg_amqp_py CASCADE;
CREATE TABLE taken (queue text DEFAULT current_setting('application_name'),
                    id integer, note text CHECK (note <> 'forbidden'), tenant text);
CREATE TABLE from_classic (LIKE taken INCLUDING ALL);
CREATE TABLE from_quorum (LIKE taken INCLUDING ALL);
CREATE TABLE from_stream (LIKE taken INCLUDING ALL);
CREATE INDEX ON from_classic (note);
CREATE INDEX ON from_quorum (note);
CREATE INDEX ON from_stream (note);
CREATE FUNCTION take(m amqp.message) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    body jsonb := amqp.body_json(m);
BEGIN
    INSERT INTO from_quorum (id, note, tenant)
    VALUES ((body ->> 'id')::integer, body ->> 'note', m.headers ->> 'tenant');
    IF body ? 'raises' THEN
        RAISE EXCEPTION 'refused' USING ERRCODE = 'XY001';
    END IF;
    RETURN jsonb_build_object('taken', body -> 'id');
END
$$;
INSERT INTO amqp.consumer (name, broker_id, queue, target_table, columns, batch_size)
VALUES ('classic', 1, 'classic', 'from_classic',
        '{"id": "body.id", "note": "body.note", "tenant": "headers.tenant"}', 300);
INSERT INTO amqp.consumer (name, broker_id, queue, target_function, reply_errors, batch_size)
VALUES ('quorum', 1, 'quorum', 'take', true, 300);
INSERT INTO amqp.consumer (name, broker_id, queue, target_table, columns, stream_offset,
                           deduplicate_by, batch_size)
VALUES ('stream', 1, 'stream', 'from_stream',
        '{"id": "body.id", "note": "body.note", "tenant": "headers.tenant"}', 'first',
        'message_id', 300);
"""
QUEUES = ("classic", "quorum", "stream")
# What the function's own error is about is in order for a table.
FOR_TABLES = "raise"


@pytest.fixture
def rabbitmq() -> Iterator[RabbitMQ]:
    """A node of this test's own, to be broken."""
    with RabbitMQ() as node:
        yield node


class Account:
    """What was published, and what must have become of it."""

    def __init__(self, rabbitmq: RabbitMQ, seed: str, count: int) -> None:
        self._rabbitmq = rabbitmq
        self.lots: dict[str, Lot] = {}
        with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as connection:
            channel = connection.channel()
            for queue in QUEUES:
                channel.queue_declare(queue, durable=True, arguments={"x-queue-type": queue})
            channel.queue_declare("replies", durable=True)
        with producer(rabbitmq.url()) as sending:
            for queue in QUEUES:
                asks = {"reply_to": "replies"} if queue == "quorum" else {}
                lot = self.lots[queue] = Lot(
                    f"{seed} {queue}", count, large=2, of_stream=queue == "stream", **asks
                )
                publish(sending, "", queue, lot.arrivals)

    def expect(self, session: Session, queue: str) -> tuple[list[int], list[int]]:
        """The numbers that must be stored, and those that must be dead."""
        lot = self.lots[queue]
        harmless = {
            arrival.number
            for arrival in lot.arrivals
            if arrival.number in lot.poison
            and queue != "quorum"
            and b'"raises": true' in arrival.body
        }
        return sorted(lot.good | harmless), sorted(lot.poison - harmless)

    def settled(self, session: Session) -> bool:
        """Whether all that there is has become a row or is dead."""
        for queue in QUEUES:
            good, dead = self.expect(session, queue)
            if session.value(f"SELECT count(*) FROM from_{queue}") < len(good):
                return False
            if session.value(
                "SELECT count(*) FROM amqp.inbox_dead WHERE consumer = %s", queue
            ) < len(dead):
                return False
        return True

    def check(self, session: Session) -> None:
        """Compare with what has become of it."""
        for queue in QUEUES:
            good, dead = self.expect(session, queue)
            rows = session.run(f"SELECT id FROM from_{queue} ORDER BY id")
            assert [row[0] for row in rows] == good, queue
            found = session.run(
                "SELECT substr(message_id, 2)::int FROM amqp.inbox_dead WHERE consumer = %s"
                " ORDER BY 1",
                queue,
            )
            assert [row[0] for row in found] == dead, queue

    def check_replies(self, session: Session) -> None:
        """One reply for each message, whatever came of it."""
        good, dead = self.expect(session, "quorum")
        answers: dict[str, str] = {}
        with pika.BlockingConnection(pika.URLParameters(self._rabbitmq.url())) as connection:
            channel = connection.channel()
            while True:
                method, properties, body = channel.basic_get("replies", auto_ack=True)
                if method is None:
                    break
                # The relay delivers at least once, with the same id.
                assert properties is not None
                answers[properties.message_id] = f"{properties.correlation_id} {body.decode()}"
        told = Counter(answer.partition(" ")[0] for answer in answers.values())
        assert told == Counter(f"c{number}" for number in (*good, *dead))
        wrong = {answer.partition(" ")[0] for answer in answers.values() if '"error"' in answer}
        assert wrong == {f"c{number}" for number in dead}

    def unsettled(self) -> dict[str, int]:
        """Messages of each queue that are ready or not acknowledged."""
        listed = self._rabbitmq.rabbitmqctl("list_queues", "name", "messages", "--silent")
        return {name: int(count) for name, count in map(str.split, listed.splitlines())}


@pytest.mark.slow
@pytest.mark.server
def test_rows_are_the_good_messages_and_dead_ones_the_poison_whatever_fails(
    rabbitmq: RabbitMQ, pytestconfig: pytest.Config
) -> None:
    seed = os.environ.get("PG_AMQP_PY_SEED") or str(random.randrange(1 << 32))
    print(f"PG_AMQP_PY_SEED={seed}")
    rng = random.Random(seed)
    count = pytestconfig.getoption("chaos_messages")
    account = Account(rabbitmq, seed, count)
    rabbitmq.write_down()
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgreSQL(durable=True))
        proxy = stack.enter_context(CuttingProxy(rabbitmq.amqp_port))
        with open_session(postgres.dsn()) as session:
            session.execute(SCHEMA)
            session.execute(
                "INSERT INTO amqp.broker (broker_id, host, port) VALUES (1, '127.0.0.1', %s)",
                [proxy.port],
            )
        daemons = [stack.enter_context(DaemonProcess(postgres.dsn())) for _ in range(2)]

        def kill_a_daemon() -> None:
            daemon = rng.choice(daemons)
            daemon.kill()
            daemon.start()

        def kill_postgresql() -> None:
            postgres.kill()
            postgres.start()

        def kill_rabbitmq() -> None:
            rabbitmq.kill()
            rabbitmq.start()

        def cut_a_connection() -> None:
            proxy.cut_after(rng.randint(1, 300_000), rng.choice(list(Direction)[:2]))

        def pause_a_daemon() -> None:
            daemon = rng.choice(daemons)
            daemon.pause()
            time.sleep(rng.uniform(0, 5))
            daemon.resume()

        ways = [kill_a_daemon] * 4 + [cut_a_connection] * 8 + [pause_a_daemon]
        ways += [kill_postgresql] * 2 + [kill_rabbitmq]
        done: Counter[str] = Counter()
        end = time.monotonic() + pytestconfig.getoption("chaos_seconds")
        while time.monotonic() < end:
            way = rng.choice(ways)
            way()
            done[way.__name__] += 1
            time.sleep(rng.uniform(0, 1.5))
        proxy.pass_all()
        print(dict(done))
        with open_session(postgres.dsn()) as session:
            wait_for(lambda: account.settled(session), LONG, "all to be settled", interval=0.2)
            wait_for(
                lambda: not session.value("SELECT count(*) FROM amqp.outbox"), LONG, "all replies"
            )
            wait_for(
                lambda: not any(account.unsettled()[name] for name in ("classic", "quorum")),
                LONG,
                "all to be acknowledged",
            )
            account.check(session)
            account.check_replies(session)
            print(session.run("SELECT * FROM amqp.inbox_status()"))


@pytest.mark.slow
@pytest.mark.server
def test_a_standby_is_promoted(rabbitmq: RabbitMQ) -> None:
    with PostgreSQL(durable=True) as primary, ExitStack() as stack:
        with open_session(primary.dsn()) as session:
            session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
            session.execute("CREATE TABLE taken (id integer)")
            session.add_broker(rabbitmq.url())
            session.execute(
                "INSERT INTO amqp.consumer (name, broker_id, queue, target_table, columns,"
                " batch_size) VALUES ('c', 1, 'c', 'taken', '{\"id\": \"body.id\"}', 50)"
            )
        standby = stack.enter_context(PostgreSQL(durable=True, standby_of=primary))
        with open_session(primary.dsn()) as session:
            session.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            session.execute("SELECT pg_reload_conf()")
            wait_for(
                lambda: session.run("SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"),
                LIMIT,
                "the standby to be synchronous",
            )
        with pika.BlockingConnection(pika.URLParameters(rabbitmq.url())) as connection:
            connection.channel().queue_declare("c", durable=True)
        lot = Lot("promotion", 10_000)
        with producer(rabbitmq.url()) as sending:
            publish(sending, "", "c", lot.arrivals)
        daemon = stack.enter_context(ConsumeProcess(primary.dsn_with(standby)))
        with open_session(primary.dsn()) as session:
            stored = "SELECT stored FROM amqp.inbox_status()"
            wait_for(lambda: session.value(stored) > 1000, LIMIT, "a part to be stored")
        primary.kill()
        standby.promote()
        with open_session(standby.dsn()) as session:
            expected = {*lot.good}
            for arrival in lot.arrivals:
                # Of the poison, what is wrong may be what is not stored here.
                with suppress(ValueError, TypeError, KeyError):
                    body = json.loads(arrival.body)
                    if "\0" not in body["note"]:
                        expected.add(int(body["id"]))
            count = "SELECT count(*) FROM taken"
            wait_for(lambda: session.value(count) >= len(expected), LONG, "all to be stored")
            found = session.run("SELECT id FROM taken ORDER BY id")
            assert [row[0] for row in found] == sorted(expected)
        assert daemon.terminate() == 0
