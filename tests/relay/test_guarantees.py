"""What the outbox guarantees, while its servers and relays fail: committed = delivered.

Nothing is lost, nothing arrives that was not committed, and a message arrives twice only where
an answer was lost on the way, with the same message_id.

What is random is printed with its seed, which comes from PG_AMQP_PY_SEED if that is set.
`--chaos-seconds` says for how long everything is disturbed at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from itertools import count

import pytest

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction
from servers.rabbitmq import RabbitMQ, RabbitMQCluster
from servers.relay import RelayProcess
from support.accounts import Outbox, stop
from support.patience import LIMIT
from support.sessions import Session, open_session

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
    with open_session(server.dsn()) as session:
        session.execute(f"CREATE DATABASE {name}")
    with open_session(server.dsn(name)) as session:
        session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
    return server.dsn(name)


@pytest.fixture
def outbox(database: str, rabbitmq: RabbitMQ) -> Iterator[Outbox]:
    """An empty outbox; its relays reach the broker without a proxy."""
    with Outbox(database, rabbitmq.url(), f"q{next(_numbers)}") as outbox:
        outbox.prepare(rabbitmq.url())
        yield outbox


@pytest.fixture
def proxied(database: str, rabbitmq: RabbitMQ, proxy: CuttingProxy) -> Iterator[Outbox]:
    """An empty outbox; its relays reach the broker through the proxy."""
    with Outbox(database, rabbitmq.url(), f"q{next(_numbers)}") as outbox:
        outbox.prepare(rabbitmq.url(port=proxy.port))
        yield outbox


# ---- RabbitMQ ----


@pytest.mark.slow
@pytest.mark.parametrize("end", [RabbitMQ.stop, RabbitMQ.kill])
def test_rabbitmq_goes_and_comes_back(
    outbox: Outbox, rabbitmq: RabbitMQ, end: Callable[[RabbitMQ], None]
) -> None:
    rabbitmq.write_down()
    outbox.relay()
    outbox.write()
    outbox.deliver_part()
    end(rabbitmq)
    # Whoever commits does not notice.
    outbox.await_writing()
    rabbitmq.start()
    outbox.await_delivery()
    print(outbox.settle())


def await_cut(proxy: CuttingProxy, count: int, direction: Direction) -> None:
    """Cut the connection after so many bytes, and wait for the next one."""
    before = proxy.connections
    proxy.cut_after(count, direction)
    wait_for(lambda: proxy.connections > before, LIMIT, "the relay to connect again")


def test_the_connection_is_cut_at_random_bytes(proxied: Outbox, proxy: CuttingProxy) -> None:
    rng = random.Random(proxied.seed)
    proxied.relay()
    proxied.write()
    for _ in range(12):
        direction = rng.choice([Direction.TO_SERVER, Direction.TO_SERVER, Direction.TO_CLIENT])
        most = 100_000 if direction is Direction.TO_SERVER else 2_000
        await_cut(proxy, rng.randint(1, most), direction)
    print(proxied.settle())


@pytest.mark.slow
def test_rabbitmq_is_short_of_memory(outbox: Outbox, rabbitmq: RabbitMQ) -> None:
    outbox.relay()
    outbox.write()
    outbox.deliver_part(20_000)
    with rabbitmq.short_of_memory():
        with outbox.session() as session:
            wait_for(
                lambda: session.execute(
                    "SELECT FROM amqp.outbox_status() WHERE last_error LIKE '%block%'"
                ).fetchall(),
                LIMIT,
                "the relay to be blocked",
            )
        outbox.await_writing()
    # It was waited for, without writing anything again.
    assert outbox.settle().duplicates == 0


@pytest.mark.slow
def test_a_node_of_a_cluster_is_killed(database: str) -> None:
    with RabbitMQCluster(nodes=3) as cluster:
        victim, *survivors = cluster.nodes
        queue = f"q{next(_numbers)}"
        with Outbox(database, survivors[0].url(), queue) as outbox:
            # The leader of a quorum queue is at first where it was declared.
            with Outbox(database, victim.url(), queue) as there:
                there.prepare(cluster.url(), queue_type="quorum")
            outbox.relay()
            outbox.write()
            outbox.deliver_part()
            victim.kill()
            outbox.await_delivery()
            outbox.await_writing()
            print(outbox.settle())


# ---- PostgreSQL ----


def test_postgresql_is_restarted(outbox: Outbox, postgres: PostgreSQL) -> None:
    outbox.relay()
    outbox.write()
    for _ in range(2):
        outbox.deliver_part()
        postgres.restart()
    outbox.await_writing()
    # The relay remembers what it could not report.
    assert outbox.settle().duplicates == 0


@pytest.mark.slow
def test_postgresql_is_killed(outbox: Outbox, postgres: PostgreSQL) -> None:
    outbox.relay()
    outbox.write()
    for _ in range(2):
        outbox.deliver_part()
        postgres.kill()
        postgres.start()
    assert "automatic recovery in progress" in postgres.log_text()
    outbox.await_writing()
    print(outbox.settle())


@pytest.mark.slow
def test_a_standby_is_promoted(rabbitmq: RabbitMQ) -> None:
    with PostgreSQL(durable=True) as primary:
        name = fresh_database(primary).partition("dbname=")[2].partition(" ")[0]
        with PostgreSQL(durable=True, standby_of=primary) as standby:
            with open_session(primary.dsn()) as session:
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
            with Outbox(dsn, rabbitmq.url(), queue) as outbox:
                outbox.prepare(rabbitmq.url())
                outbox.relay()
                outbox.relay()
                outbox.write()
                outbox.deliver_part()
                primary.kill()
                standby.promote()
                outbox.await_writing()
                outbox.await_delivery()
                print(outbox.settle())


# ---- Relays ----


def test_a_relay_is_killed_and_another_one_takes_over(outbox: Outbox) -> None:
    relays = [outbox.relay(), outbox.relay()]
    outbox.write()
    for _ in range(3):
        outbox.deliver_part()
        working = next(relay for relay in relays if outbox.is_worked_by(relay))
        working.kill()
        relays.remove(working)
        outbox.await_delivery()
        relays.append(outbox.relay())
    print(outbox.settle())


def test_a_relay_is_stopped_and_another_one_takes_over(outbox: Outbox) -> None:
    relays = [outbox.relay(), outbox.relay()]
    outbox.write()
    for _ in range(3):
        outbox.deliver_part()
        working = next(relay for relay in relays if outbox.is_worked_by(relay))
        stop(working)
        relays.remove(working)
        outbox.await_delivery()
        relays.append(outbox.relay())
    assert outbox.settle().duplicates == 0


def test_a_relay_hangs_and_another_one_takes_over(outbox: Outbox) -> None:
    relays = [outbox.relay(), outbox.relay()]
    outbox.write()
    outbox.await_delivery()
    working = next(relay for relay in relays if outbox.is_worked_by(relay))
    working.pause()
    outbox.await_delivery()
    # It must notice that its time is over before it writes anything.
    working.resume()
    outbox.await_delivery()
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


def await_looks(session: Session, relay: RelayProcess, queries: int = 6) -> None:
    """Wait until a relay that works an outbox has looked for messages once more, at the least.

    It looks at least once in so many queries of the session that holds the lock.
    """
    seen: set[datetime] = set()

    def enough() -> bool:
        found = session.run(
            "SELECT a.query_start FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid)"
            " WHERE l.locktype = 'advisory' AND a.application_name LIKE %s",
            f"pg-amqp relay {relay.pid} %",
        )
        seen.update(started for (started,) in found)
        return len(seen) > queries

    wait_for(enough, LIMIT, "the relay to look for messages", interval=0.005)


def test_a_report_that_comes_after_a_failover_deletes_nothing_new(
    rabbitmq: RabbitMQ, proxy: CuttingProxy
) -> None:
    """A standby that lacks the last commits gives their ids to other messages."""
    with PostgreSQL() as primary:
        name = fresh_database(primary).partition("dbname=")[2].partition(" ")[0]
        old = Outbox(primary.dsn(name), rabbitmq.url(), f"q{next(_numbers)}")
        old.prepare(rabbitmq.url(port=proxy.port))
        with (
            PostgreSQL(standby_of=primary) as standby,
            CuttingProxy(standby.port) as way,
            Outbox(
                f"host=127.0.0.1,127.0.0.1 port={primary.port},{way.port} dbname={name}"
                " user=postgres target_session_attrs=read-write",
                rabbitmq.url(),
                old.queue,
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
            with open_session(standby.dsn(name)) as session:
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


def test_an_exchange_is_deleted_under_a_backlog(outbox: Outbox) -> None:
    """Written is not delivered: what the broker dropped with the channel is not lost."""
    count = 10_000
    with outbox.session() as session, outbox.channel() as channel:
        session.execute(f"ALTER DATABASE {session.info.dbname} SET amqp.max_attempts = 1")
        channel.exchange_declare("short-lived", "fanout", durable=True)
        channel.queue_declare("behind", durable=True)
        channel.queue_bind("behind", "short-lived")
        # Mandatory: RabbitMQ itself drops what finds the exchange and no binding any more.
        publish = (
            "SELECT amqp.publish_outbox(1, CASE n %% 2 WHEN 0 THEN '' ELSE 'short-lived' END, %s,"
            " n::text, delivery_mode => 2, mandatory => true)"
            " FROM generate_series(%s::int, %s::int) AS n"
        )
        session.execute(publish, [outbox.queue, 1, count])
        outbox.relay()
        wait_for(
            lambda: channel.queue_declare("behind", passive=True).method.message_count,
            LIMIT,
            "the backlog to move",
            interval=0.001,
        )
        channel.exchange_delete("short-lived")
        outbox.await_empty()
        there = outbox.drain()
        dead = read_dead(session)
        before = [int(copy.body) for copy in outbox.drain("behind")]
        # What was routed just before may come again: the channel took its confirms with it.
        assert sorted({int(copy.body) for copy in there}) == list(range(2, count + 1, 2))
        assert len({copy.message_id for copy in there}) == count // 2
        assert len(set(before)) == len(before)
        assert dead
        assert sorted({*before, *dead}) == list(range(1, count, 2))
        # Now that it is gone for good, it is plain which message the channel is closed for.
        session.execute(publish, [outbox.queue, count + 1, 2 * count])
        outbox.await_empty()
        there = outbox.drain()
        assert [int(copy.body) for copy in there] == list(range(count + 2, 2 * count + 1, 2))
        assert read_dead(session)[len(dead) :] == list(range(count + 1, 2 * count, 2))


def read_dead(session: Session) -> list[int]:
    """The bodies of the dead letters."""
    return [int(body) for (body,) in session.run("SELECT body FROM amqp.dead_letters ORDER BY id")]


def test_after_a_cut_what_was_confirmed_is_not_sent_again(
    proxied: Outbox, proxy: CuttingProxy, rabbitmq: RabbitMQ
) -> None:
    count = 5000
    with proxied.session() as session:
        session.execute(
            "SELECT tell(%s, n || repeat(' ', 1000), NULL) FROM generate_series(1, %s) AS n",
            [proxied.queue, count],
        )
    proxy.stall_after(2_000_001, Direction.TO_SERVER)
    proxied.relay()
    wait_for(lambda: proxy.bytes_to_server > 2_000_000, LIMIT, "the stall")
    wait_for(
        lambda: rabbitmq.rabbitmqctl("list_channels", "messages_unconfirmed").split()[-1] == "0",
        LIMIT,
        "the broker to confirm what it has got",
    )
    confirmed = proxied.queued()
    assert 1000 < confirmed < 2000
    proxy.reset()
    proxy.pass_all()
    proxied.await_empty()
    assert [int(copy.body) for copy in proxied.drain()] == list(range(1, count + 1))


@pytest.mark.slow
def test_a_relay_that_lost_its_lock_writes_no_more(proxied: Outbox, proxy: CuttingProxy) -> None:
    count = 7000
    with proxied.session() as session:
        hanging = proxied.relay()
        tell(proxied, session, "first")
        proxied.await_empty()
        # Most of the backlog is more than the network takes in.
        proxy.stall(Direction.TO_SERVER)
        session.execute(
            "SELECT tell(%s, n || repeat(' ', 1000), NULL) FROM generate_series(1, %s) AS n",
            [proxied.queue, count],
        )
        await_looks(session, hanging)
        hanging.pause()
        proxy.pass_all()
        proxied.relay()
        proxied.await_empty()
        before = proxied.queued()
        assert before < 2 * count - 500
        hanging.resume()
        wait_for(lambda: "standing by" in hanging.log_text(), LIMIT, "the relay to notice")
        # The message that it was writing, it may end.
        assert proxied.queued() <= before + 1


# ---- Several of these at once ----


class Chaos:
    """Faults of servers, network and relays; each is repaired when its context ends."""

    def __init__(
        self,
        outbox: Outbox,
        postgres: PostgreSQL,
        rabbitmq: RabbitMQ,
        proxy: CuttingProxy,
        rng: random.Random,
    ) -> None:
        self._outbox = outbox
        self._postgres = postgres
        self._rabbitmq = rabbitmq
        self._proxy = proxy
        self._random = rng
        self._rabbitmq.write_down()
        self._relays = [outbox.relay(), outbox.relay()]
        #: Of each group, one at a time.
        self.groups: list[list[Callable[[], AbstractContextManager[None]]]] = [
            [self.broker_stops, self.broker_is_killed, self.broker_is_short_of_memory],
            [self.database_restarts, self.database_is_killed],
            [self.relay_is_killed, self.relay_stops, self.relay_hangs],
            [self.connection_is_cut, self.connection_stalls],
        ]

    @contextmanager
    def broker_stops(self) -> Iterator[None]:
        """RabbitMQ shuts down in order."""
        self._rabbitmq.stop()
        yield
        self._rabbitmq.start()

    @contextmanager
    def broker_is_killed(self) -> Iterator[None]:
        """RabbitMQ crashes."""
        self._rabbitmq.kill()
        yield
        self._rabbitmq.start()

    @contextmanager
    def broker_is_short_of_memory(self) -> Iterator[None]:
        """RabbitMQ blocks publishers."""
        with self._rabbitmq.short_of_memory():
            yield

    @contextmanager
    def database_restarts(self) -> Iterator[None]:
        """PostgreSQL throws everybody out."""
        self._postgres.restart()
        yield

    @contextmanager
    def database_is_killed(self) -> Iterator[None]:
        """PostgreSQL crashes."""
        self._postgres.kill()
        yield
        self._postgres.start()

    @contextmanager
    def relay_is_killed(self) -> Iterator[None]:
        """One relay crashes."""
        self._pick().kill()
        yield
        self._relays.append(self._outbox.relay())

    @contextmanager
    def relay_stops(self) -> Iterator[None]:
        """One relay is stopped in order."""
        stop(self._pick())
        yield
        self._relays.append(self._outbox.relay())

    @contextmanager
    def relay_hangs(self) -> Iterator[None]:
        """One relay does nothing for a while."""
        relay = self._pick()
        relay.pause()
        yield
        relay.resume()
        self._relays.append(relay)

    @contextmanager
    def connection_is_cut(self) -> Iterator[None]:
        """The connections are reset somewhere within the next bytes."""
        direction = self._random.choice([Direction.TO_SERVER, Direction.TO_CLIENT])
        self._proxy.cut_after(self._random.randint(1, 50_000), direction)
        yield

    @contextmanager
    def connection_stalls(self) -> Iterator[None]:
        """No byte comes through."""
        self._proxy.stall(self._random.choice(list(Direction)))
        yield
        self._proxy.pass_all()

    def _pick(self) -> RelayProcess:
        return self._relays.pop(self._random.randrange(len(self._relays)))


@pytest.mark.slow
def test_random_faults(
    proxied: Outbox,
    proxy: CuttingProxy,
    postgres: PostgreSQL,
    rabbitmq: RabbitMQ,
    request: pytest.FixtureRequest,
) -> None:
    rng = random.Random(proxied.seed)
    chaos = Chaos(proxied, postgres, rabbitmq, proxy, rng)
    proxied.write(pace=0.05)
    end = time.monotonic() + request.config.getoption("--chaos-seconds")
    while time.monotonic() < end:
        faults = [rng.choice(group) for group in rng.sample(chaos.groups, rng.randint(1, 3))]
        print([fault.__name__ for fault in faults])
        with ExitStack() as repairs:
            for fault in faults:
                repairs.enter_context(fault())
                time.sleep(rng.uniform(0, 1.5))
    proxy.pass_all()
    print(proxied.settle())
