"""Random transactions of several clients, disturbed at random: what is committed is what arrives.

Every message has a row of its own, inserted beside it under the same id, so the table says
which messages had to arrive, also where a client never learned whether its COMMIT came through.
A row's number within its transaction says in which order. Once the broker is there, and once it is
away and amqp.on_failure = outbox: then what is in the outbox is what would have arrived.

The seed is printed, and comes from PG_AMQP_PY_SEED if that is set: it governs what the clients do,
not when they are disturbed.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import errors
from psycopg.pq import TransactionStatus

from servers.processes import free_port, wait_for
from support.fix_servers import VHost
from support.messages import Inbox
from support.sessions import Session, open_session

CLIENTS = 4
TRANSACTIONS = 200
"""How many each client begins."""

# note() publishes and inserts; burst() does so in blocks, of which it rolls back those in `failing`
# ({1} is the second); later() leaves the publishing to the commit.
SCHEMA = """
CREATE TABLE noted (
    id text PRIMARY KEY,
    transaction text NOT NULL,
    at_commit boolean NOT NULL,
    number integer NOT NULL
);

CREATE FUNCTION note(transaction text, number integer, at_commit boolean DEFAULT false)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO noted VALUES (transaction || '.' || number, transaction, at_commit, number);
    IF NOT at_commit THEN
        PERFORM amqp.publish(1, 'amq.topic', transaction, transaction || '.' || number);
    END IF;
END $$;

CREATE FUNCTION burst(transaction text, first integer, count integer, failing integer[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 0 .. count - 1 LOOP
        BEGIN
            PERFORM note(transaction, first + i);
            IF i = ANY (failing) THEN
                RAISE EXCEPTION 'no';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END LOOP;
END $$;

-- Fires inside the commit, and rolls back a block of its own there.
CREATE FUNCTION publish_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        PERFORM amqp.publish(1, 'amq.topic', NEW.transaction, 'phantom');
        RAISE EXCEPTION 'no';
    EXCEPTION WHEN raise_exception THEN
        NULL;
    END;
    PERFORM amqp.publish(1, 'amq.topic', NEW.transaction, NEW.id);
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER publish_at_commit AFTER INSERT ON noted
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.at_commit)
EXECUTE FUNCTION publish_at_commit();
"""


class Client:
    """A session that runs random transactions, and starts anew whenever it is thrown out."""

    def __init__(self, database: str, name: str, seed: str, backends: dict[str, int]) -> None:
        self.happened: Counter[str] = Counter()
        self._database = database
        self._name = name
        self._random = random.Random(f"{seed} {name}")
        self._backends = backends

    def run(self) -> Counter[str]:
        """Run the transactions and return how many of which kinds of things happened."""
        begun = 0
        while begun < TRANSACTIONS:
            with suppress(psycopg.OperationalError), open_session(self._database) as session:
                self._backends[self._name] = session.info.backend_pid
                while begun < TRANSACTIONS:
                    begun += 1
                    try:
                        self._transaction(session, f"{self._name}-{begun}")
                    except errors.AdminShutdown:
                        self.happened["terminated"] += 1
                    if session.closed:
                        break
        del self._backends[self._name]
        return self.happened

    def _transaction(self, session: Session, name: str) -> None:
        session.execute("BEGIN")
        depth = number = 0
        while True:
            step = self._random.choices(
                ["note", "burst", "later", "savepoint", "release", "roll back to", "error", "end"],
                [30, 8, 8, 18, 10, 8, 5, 10],
            )[0]
            count = self._random.randint(1, 40)
            if step == "end":
                break
            try:
                if step == "note":
                    session.execute("SELECT note(%s, %s)", [name, number])
                elif step == "burst":
                    failing = self._random.sample(range(count), self._random.randint(0, count))
                    session.execute("SELECT burst(%s, %s, %s, %s)", [name, number, count, failing])
                elif step == "later":
                    session.execute("SELECT note(%s, %s, true)", [name, number])
                elif step == "savepoint":
                    session.execute(f"SAVEPOINT s{depth}")
                    depth += 1
                elif step == "error":
                    session.execute("SELECT note(%s, %s), 1/0", [name, number])
                elif depth:
                    depth = self._random.randrange(depth)
                    if step == "release":
                        session.execute(f"RELEASE SAVEPOINT s{depth}")
                    else:
                        session.execute(f"ROLLBACK TO SAVEPOINT s{depth}")
                        depth += 1
                        self.happened["rolled back to a savepoint"] += 1
            except (errors.DivisionByZero, errors.QueryCanceled) as error:
                self.happened[type(error).__name__] += 1
            number += count
            if session.info.transaction_status == TransactionStatus.INERROR:
                if not depth or self._random.random() < 0.1:
                    break
                depth = self._rescue(session, depth)
        self._end(session)

    def _rescue(self, session: Session, depth: int) -> int:
        """Go back to one of the savepoints; a cancel may also hit that."""
        depth = self._random.randrange(depth)
        with suppress(errors.QueryCanceled):
            session.execute(f"ROLLBACK TO SAVEPOINT s{depth}")
            self.happened["rolled back to a savepoint"] += 1
        return depth + 1

    def _end(self, session: Session) -> None:
        end = self._random.choices(["COMMIT", "ROLLBACK", "leave"], [80, 15, 5])[0]
        if end == "leave":
            session.close()
            self.happened["left"] += 1
            return
        while session.info.transaction_status != TransactionStatus.IDLE:
            # A cancel may come before the commit has begun, or hit a trigger inside it.
            with suppress(errors.QueryCanceled):
                done = session.execute(end).statusmessage
                self.happened[str(done)] += 1


def disturb(database: str, seed: str, backends: dict[str, int], finished: threading.Event) -> None:
    """Cancel and terminate the backends at random, until all is finished."""
    chance = random.Random(f"{seed} disturbances")
    with open_session(database) as session:
        while not finished.wait(chance.uniform(0, 0.02)):
            pid = chance.choice([0, *backends.values()])
            how = chance.choices(["pg_cancel_backend", "pg_terminate_backend"], [85, 15])[0]
            if pid:
                # That the backend may be gone by now is a WARNING, and no harm.
                session.execute(f"SELECT {how}(%s)", [pid])


@pytest.mark.parametrize("to", ["broker", "outbox"])
def test_random_transactions(
    database: str, broker: VHost, channel: BlockingChannel, to: str
) -> None:
    seed = os.environ.get("PG_AMQP_PY_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"PG_AMQP_PY_SEED={seed}")
    inbox = Inbox(channel)
    backends: dict[str, int] = {}
    finished = threading.Event()
    with open_session(database, broker) as session:
        session.execute(SCHEMA)
        if to == "outbox":
            session.execute("UPDATE amqp.broker SET port = %s", [free_port()])
            name = session.info.dbname
            session.execute(f"ALTER DATABASE {name} SET amqp.on_failure = 'outbox'")
        clients = [Client(database, f"c{i}", seed, backends) for i in range(CLIENTS)]
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            disturbing = pool.submit(disturb, database, seed, backends, finished)
            try:
                running = [pool.submit(client.run) for client in clients]
                happened = sum((each.result() for each in running), Counter[str]())
            finally:
                finished.set()
            disturbing.result()
        # A backend may still be at the commit that its client did not live to see.
        wait_for(
            lambda: (
                session.execute(
                    """
                SELECT count(*) = 1 FROM pg_stat_activity
                WHERE datname = current_database() AND backend_type = 'client backend'
                """
                ).fetchone()
                == (True,)
            ),
            30,
            "the end of all backends",
        )
        committed = session.execute(
            "SELECT transaction, id FROM noted ORDER BY transaction, at_commit, number"
        ).fetchall()
        deliveries = session.execute(
            "SELECT routing_key, convert_from(body, 'UTF8') FROM amqp.outbox ORDER BY id"
        ).fetchall()
    assert bool(deliveries) == (to == "outbox")
    deliveries += [(delivery.routing_key, delivery.text) for delivery in inbox.drain()]
    print(f"{len(committed)} rows; {dict(happened)}")

    rows = Counter(text for _, text in committed)
    messages = Counter(text for _, text in deliveries)
    assert {"lost": rows - messages, "too many": messages - rows} == {
        "lost": Counter(),
        "too many": Counter(),
    }
    order: dict[str, list[str]] = {}
    for transaction, text in deliveries:
        order.setdefault(transaction, []).append(text)
    expected: dict[str, list[str]] = {}
    for transaction, text in committed:
        expected.setdefault(transaction, []).append(text)
    assert order == expected

    # It was no walk in the park.
    assert len(expected) > CLIENTS * TRANSACTIONS / 10
    for what in (
        "COMMIT",
        "ROLLBACK",
        "rolled back to a savepoint",
        "DivisionByZero",
        "QueryCanceled",
        "terminated",
        "left",
    ):
        assert happened[what], f"never happened: {what}"
