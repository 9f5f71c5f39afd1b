"""What the outbox guarantees, while its servers and relays fail: committed = delivered.

Nothing is lost, nothing arrives that was not committed, and a message arrives twice only where
an answer was lost on the way, with the same message_id.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

import psycopg
import pytest

from failing_outbox import LIMIT, Outbox, Relay, rows
from messages import Session
from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction
from servers.rabbitmq import RabbitMQ

_numbers = count(1)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    """A server of this module's own, to be broken."""
    with PostgreSQL(durable=True) as server:
        yield server


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A node of this module's own, to be broken."""
    with RabbitMQ() as node:
        yield node


@pytest.fixture
def database(postgres: PostgreSQL) -> str:
    """The connection string of a fresh database with the extension."""
    return fresh_database(postgres)


def fresh_database(server: PostgreSQL) -> str:
    name = f"guarantees_{next(_numbers)}"
    with psycopg.connect(server.dsn(), autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}")
    with psycopg.connect(server.dsn(name), autocommit=True) as session:
        session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
    return server.dsn(name)


@pytest.fixture
def outbox(database: str, rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Outbox]:
    """An empty outbox; its relays reach the broker without a proxy."""
    with Outbox(database, rabbitmq.url(), f"q{next(_numbers)}", tmp_path) as outbox:
        outbox.prepare(rabbitmq.url())
        yield outbox


@pytest.fixture
def proxied(
    database: str, rabbitmq: RabbitMQ, proxy: CuttingProxy, tmp_path: Path
) -> Iterator[Outbox]:
    """An empty outbox; its relays reach the broker through the proxy."""
    with Outbox(database, rabbitmq.url(), f"q{next(_numbers)}", tmp_path) as outbox:
        outbox.prepare(rabbitmq.url(port=proxy.port))
        yield outbox


# ---- RabbitMQ ----


@pytest.mark.parametrize("how", ["stop", "kill", "restart"])
def test_rabbitmq_goes_and_comes_back(outbox: Outbox, rabbitmq: RabbitMQ, how: str) -> None:
    outbox.relay()
    outbox.write()
    outbox.await_delivery()
    getattr(rabbitmq, how)()
    # Whoever commits does not notice.
    outbox.await_writing()
    if how != "restart":
        rabbitmq.start()
    outbox.await_delivery()
    print(how, outbox.settle())


def await_cut(proxy: CuttingProxy, count: int, direction: Direction) -> None:
    """Cut the connection after so many bytes, and wait for the next one."""
    before = proxy.connections
    proxy.cut_after(count, direction)
    wait_for(lambda: proxy.connections > before, LIMIT, "the relay to connect again")


def test_the_connection_is_cut_at_random_bytes(proxied: Outbox, proxy: CuttingProxy) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    proxied.relay()
    proxied.write()
    for _ in range(12):
        direction = rng.choice([Direction.TO_SERVER, Direction.TO_SERVER, Direction.TO_CLIENT])
        most = 100_000 if direction is Direction.TO_SERVER else 2_000
        await_cut(proxy, rng.randint(1, most), direction)
    print(proxied.settle())


def test_rabbitmq_is_short_of_memory(outbox: Outbox, rabbitmq: RabbitMQ) -> None:
    outbox.relay()
    outbox.write()
    outbox.await_delivery()
    rabbitmq.rabbitmqctl("set_vm_memory_high_watermark", "0.00001")
    try:
        with outbox.session() as session:
            wait_for(
                lambda: session.execute(
                    "SELECT FROM amqp.outbox_status() WHERE last_error LIKE '%block%'"
                ).fetchall(),
                LIMIT,
                "the relay to be blocked",
            )
        outbox.await_writing()
    finally:
        rabbitmq.rabbitmqctl("set_vm_memory_high_watermark", "0.6")
    # It was waited for, without writing anything again.
    assert outbox.settle().duplicates == 0


# ---- PostgreSQL ----


def test_postgresql_is_restarted(outbox: Outbox, postgres: PostgreSQL) -> None:
    outbox.relay()
    outbox.write()
    for _ in range(3):
        outbox.await_delivery()
        postgres.restart()
    outbox.await_writing()
    # The relay remembers what it could not report.
    assert outbox.settle().duplicates == 0


def test_postgresql_is_killed(outbox: Outbox, postgres: PostgreSQL) -> None:
    outbox.relay()
    outbox.write()
    for _ in range(3):
        outbox.await_delivery()
        postgres.kill()
        postgres.start()
    assert "automatic recovery in progress" in postgres.log_text()
    outbox.await_writing()
    print(outbox.settle())


def test_a_standby_is_promoted(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    with PostgreSQL(durable=True) as primary:
        name = fresh_database(primary).partition("dbname=")[2].partition(" ")[0]
        with PostgreSQL(durable=True, standby_of=primary) as standby:
            with psycopg.connect(primary.dsn(), autocommit=True) as session:
                session.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                session.execute("SELECT pg_reload_conf()")
                wait_for(
                    lambda: session.execute(
                        "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"
                    ).fetchall(),
                    LIMIT,
                    "the standby to be synchronous",
                )
            dsn = primary.dsn_with(standby, name)
            queue = f"q{next(_numbers)}"
            with Outbox(dsn, rabbitmq.url(), queue, tmp_path) as outbox:
                outbox.prepare(rabbitmq.url())
                outbox.relay()
                outbox.relay()
                outbox.write()
                outbox.await_delivery()
                primary.kill()
                standby.promote()
                outbox.await_writing()
                outbox.await_delivery()
                print(outbox.settle())


# ---- Relays ----


def test_a_relay_is_killed_and_another_one_takes_over(outbox: Outbox) -> None:
    working, waiting = outbox.relay(), outbox.relay()
    outbox.write()
    for _ in range(4):
        outbox.await_delivery()
        for relay in (working, waiting):
            # Whichever has the lock.
            relay.kill()
            outbox.await_delivery()
            outbox.relay()
        working, waiting = outbox.relay(), outbox.relay()
    print(outbox.settle())


# ---- What a relay must not do ----


def test_a_late_commit_among_what_is_under_way_is_not_overtaken(
    proxied: Outbox, proxy: CuttingProxy
) -> None:
    with proxied.session() as early, proxied.session() as late:
        relay = proxied.relay()
        tell(proxied, early, "first")
        proxied.await_empty()
        proxy.stall(Direction.TO_CLIENT)
        early.execute("BEGIN")
        tell(proxied, early, "below")
        late.execute("BEGIN")
        tell(proxied, late, "key/1 1 ", "key/1")
        tell(proxied, early, "above")
        early.execute("COMMIT")
        # Ids on both sides of the late one are under way.
        wait_for(lambda: proxied.queued() == 3, LIMIT, "the messages to arrive")
        late.execute("COMMIT")
        tell(proxied, late, "key/1 2 ", "key/1")
        await_looks(early, relay)
        proxy.pass_all()
        proxied.await_empty()
    bodies = [copy.body for copy in proxied.drain()]
    assert bodies.index("key/1 1 ") < bodies.index("key/1 2 ")
    assert set(bodies) == {"first", "below", "above", "key/1 1 ", "key/1 2 "}


def tell(outbox: Outbox, session: Session, body: str, key: str | None = None) -> None:
    """Publish one message."""
    session.execute("SELECT tell(%s, %s, %s)", [outbox.queue, body, key])


def await_looks(session: Session, relay: Relay, queries: int = 6) -> None:
    """Wait until a relay that works an outbox has looked for messages once more, at the least.

    It looks at least once in so many queries of the session that holds the lock.
    """
    seen: set[datetime] = set()

    def enough() -> bool:
        found = rows(
            session,
            "SELECT a.query_start FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid)"
            " WHERE l.locktype = 'advisory' AND a.application_name LIKE %s",
            f"pg-amqp relay {relay.pid} %",
        )
        seen.update(started for (started,) in found)
        return len(seen) > queries

    wait_for(enough, LIMIT, "the relay to look for messages", interval=0.005)


def test_a_report_that_comes_after_a_failover_deletes_nothing_new(
    rabbitmq: RabbitMQ, proxy: CuttingProxy, tmp_path: Path
) -> None:
    """A standby that lacks the last commits gives their ids to other messages."""
    with PostgreSQL() as primary:
        name = fresh_database(primary).partition("dbname=")[2].partition(" ")[0]
        old = Outbox(primary.dsn(name), rabbitmq.url(), f"q{next(_numbers)}", tmp_path)
        old.prepare(rabbitmq.url(port=proxy.port))
        with (
            PostgreSQL(standby_of=primary) as standby,
            CuttingProxy(standby.port) as way,
            Outbox(
                f"host=127.0.0.1,127.0.0.1 port={primary.port},{way.port} dbname={name}"
                " user=postgres target_session_attrs=read-write",
                rabbitmq.url(),
                old.queue,
                tmp_path,
            ) as outbox,
        ):
            standby.stop()
            way.refuse()
            outbox.relay()
            with old.session() as session:
                tell(old, session, "first")
                old.await_empty()
                proxy.stall(Direction.TO_CLIENT)
                tell_many(old, session, "lost", 100)
            wait_for(lambda: old.queued() == 101, LIMIT, "the messages to arrive")
            primary.kill()
            proxy.pass_all()
            standby.start()
            standby.promote()
            with psycopg.connect(standby.dsn(name), autocommit=True) as session:
                tell_many(old, session, "new", 100)
            way.pass_all()
            outbox.await_empty()
            bodies = [copy.body for copy in outbox.drain()]
            # No order between a run that was given up and what follows is promised here.
            assert sorted(bodies) == sorted(
                ["first", *(f"{word} {n}" for word in ("lost", "new") for n in range(100))]
            )


def tell_many(outbox: Outbox, session: Session, word: str, count: int) -> None:
    """Publish that many messages in one transaction."""
    with session.transaction():
        for number in range(count):
            tell(outbox, session, f"{word} {number}")
