"""A relay when broker or database are away, when it is stopped, and beside another one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg.conninfo import make_conninfo

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction, Welcome
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.messages import Inbox
from support.outbox import in_outbox, put, put_many, status, wait_until_empty, worker_of
from support.patience import LIMIT
from support.sessions import Session, open_session


@pytest.fixture
def database_proxy(postgres: PostgreSQL) -> Iterator[CuttingProxy]:
    """A proxy to PostgreSQL."""
    with CuttingProxy(postgres.port) as proxy:
        yield proxy


def through(proxy: CuttingProxy, database: str) -> str:
    """Return the connection string of a database, through a proxy."""
    return make_conninfo(database, host="127.0.0.1", port=proxy.port)


def numbers(channel: BlockingChannel, inbox: Inbox) -> list[int]:
    """Take the numbers that `put_many` published, as many as there are now."""
    count = channel.queue_declare(inbox.queue, passive=True).method.message_count
    found: list[int] = []
    if count:
        for _, _, body in channel.consume(inbox.queue, auto_ack=True):
            found.append(int(body))
            if len(found) == count:
                break
        channel.cancel()
    return found + [int(text) for text in inbox.texts()]


def use_proxy(session: Session, proxy: CuttingProxy) -> None:
    """Let broker 1 be reached through a proxy."""
    session.execute("UPDATE amqp.broker SET port = %s", [proxy.port])


# ---- The broker ----


def test_a_broker_that_is_away_at_first(
    database: str, session: Session, proxy: CuttingProxy, inbox: Inbox
) -> None:
    use_proxy(session, proxy)
    proxy.refuse()
    put(session, "message")
    with RelayProcess(database) as relay:
        relay.wait_for_event("broker not reachable")
        wait_for(lambda: status(session)["last_error"], LIMIT, "the error to be noted")
        assert f"could not connect to 127.0.0.1:{proxy.port}" in status(session)["last_error"]
        assert in_outbox(session, "attempts, last_error") == [(0, None)]
        proxy.pass_all()
        wait_until_empty(session)
        assert inbox.texts() == ["message"]
        # Once for each reason, not once for each attempt.
        assert len(relay.events("broker not reachable")) == 1


@pytest.mark.parametrize("silently", [False, True])
def test_an_idle_connection_that_was_cut(
    database: str, session: Session, proxy: CuttingProxy, inbox: Inbox, silently: bool
) -> None:
    use_proxy(session, proxy)
    with RelayProcess(database) as relay:
        put(session, "1")
        wait_until_empty(session)
        if silently:
            proxy.half_close(Direction.TO_CLIENT)
        else:
            proxy.reset()
        put(session, "2")
        wait_until_empty(session)
        # The loss is noticed while idle, too.
        proxy.reset()
        relay.wait_for_event("connected to broker", 3)
    assert inbox.texts() == ["1", "2"]


def test_nothing_is_held_while_the_broker_does_not_answer(
    database: str, session: Session, proxy: CuttingProxy, inbox: Inbox
) -> None:
    """Neither a transaction nor a snapshot: vacuum would be held back as long."""
    use_proxy(session, proxy)
    sessions = """
        SELECT state, backend_xmin, backend_xid, xact_start, query
        FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'pg-amqp relay%'"""
    with RelayProcess(database) as relay:
        relay.wait_for_event("connected to broker")
        proxy.stall()
        put(session, "message")
        seen = 0

        def looked_often() -> bool:
            nonlocal seen
            seen += 1
            found = session.execute(sessions).fetchall()
            # Of the broker, of the table of brokers, and of the lookout.
            assert len(found) == 3
            for state, xmin, xid, since, query in found:
                assert state in ("idle", "active"), query
                if state == "idle":
                    assert (xmin, xid, since) == (None, None, None), query
                assert "LISTEN" not in query.upper()
            return seen > 100

        wait_for(looked_often, LIMIT, "a hundred looks")
        assert len(in_outbox(session)) == 1
        proxy.pass_all()
        wait_until_empty(session)
    assert inbox.texts() == ["message"]


# ---- The database ----


def test_a_database_that_goes_and_comes_back(
    database: str, session: Session, database_proxy: CuttingProxy, inbox: Inbox
) -> None:
    with RelayProcess(through(database_proxy, database)) as relay:
        put(session, "1")
        wait_until_empty(session)
        database_proxy.refuse()
        put(session, "2")
        relay.wait_for_event("database not usable", 2)
        assert in_outbox(session, "body") == [(b"2",)]
        database_proxy.pass_all()
        wait_until_empty(session)
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        put(session, "3")
        wait_until_empty(session)
        assert relay.terminate() == 0
    assert inbox.texts() == ["1", "2", "3"]


def test_a_database_without_outbox(postgres: PostgreSQL) -> None:
    with RelayProcess(postgres.dsn()) as relay:
        entry = relay.wait_for_event("database not usable")
        assert "amqp.broker" in entry["error"]
        assert relay.is_running()
        assert relay.terminate() == 0


def test_a_database_that_is_not_there(postgres: PostgreSQL) -> None:
    with RelayProcess(postgres.dsn("nowhere")) as relay:
        entry = relay.wait_for_event("database not usable")
        assert 'database "nowhere" does not exist' in entry["error"]
        assert relay.terminate() == 0


# ---- SIGTERM ----


def test_it_stops_when_idle(database: str, session: Session) -> None:
    with RelayProcess(database) as relay:
        relay.wait_for_event("connected to broker")
        assert relay.terminate() == 0
        assert [entry["event"] for entry in relay.entries()][-1] == "relay stops"
    assert worker_of(session) is None


@pytest.mark.parametrize("welcome", [Welcome.REFUSE, Welcome.STALL])
def test_it_stops_while_the_broker_is_away(
    database: str, session: Session, proxy: CuttingProxy, welcome: Welcome
) -> None:
    use_proxy(session, proxy)
    proxy.welcome(welcome)
    put(session, "message")
    with RelayProcess(database) as relay:
        relay.wait_for_event("working the outbox")
        assert relay.terminate() == 0
    assert in_outbox(session, "attempts") == [(0,)]


def test_it_stops_while_the_broker_does_not_confirm(
    database: str, session: Session, proxy: CuttingProxy, inbox: Inbox
) -> None:
    use_proxy(session, proxy)
    with RelayProcess(database) as relay:
        put(session, "before")
        wait_for(lambda: inbox.texts() == ["before"], LIMIT, "the first message")
        wait_until_empty(session)
        proxy.stall(Direction.TO_CLIENT)
        put(session, "message")
        wait_for(lambda: inbox.texts() == ["message"], LIMIT, "the message")
        assert relay.terminate() == 0
    assert len(in_outbox(session)) == 1


def test_it_stops_while_the_database_hangs(
    database: str, session: Session, database_proxy: CuttingProxy
) -> None:
    with RelayProcess(through(database_proxy, database)) as relay:
        relay.wait_for_event("connected to broker")
        database_proxy.stall()
        put(session, "message")
        assert relay.terminate() == 0


def test_it_stops_in_the_middle_and_another_goes_on(
    database: str, session: Session, channel: BlockingChannel, inbox: Inbox
) -> None:
    total = 25_000
    put_many(session, total)
    with RelayProcess(database) as relay:
        wait_for(lambda: status(session)["delivered_last_minute"], LIMIT, "the first to be gone")
        assert relay.terminate() == 0
        left = [int(body) for (body,) in in_outbox(session, "convert_from(body, 'UTF8')")]
        arrived = numbers(channel, inbox)
        assert 0 < len(left) < total
        # What was confirmed was reported: none is lost, and none will come twice.
        assert arrived + left == list(range(1, total + 1))
    with RelayProcess(database):
        wait_until_empty(session)
    assert numbers(channel, inbox) == left


# ---- Two relays ----


def test_another_takes_over_from_one_that_was_killed(
    database: str, session: Session, inbox: Inbox
) -> None:
    with RelayProcess(database) as first, RelayProcess(database) as second:
        wait_for(lambda: worker_of(session), LIMIT, "a relay to work")
        leader = worker_of(session)
        if leader == second.pid:
            first, second = second, first
        assert leader == first.pid
        second.wait_for_event("standing by: another relay works this outbox")
        put(session, "1")
        wait_until_empty(session)
        first.kill()
        put(session, "2")
        wait_until_empty(session)
        assert worker_of(session) == second.pid
    assert inbox.texts() == ["1", "2"]


def test_another_takes_over_from_one_that_is_cut_off(
    database: str, session: Session, database_proxy: CuttingProxy, inbox: Inbox
) -> None:
    """It delivers nothing more, and nothing twice when it is back."""
    with RelayProcess(through(database_proxy, database)) as first:
        wait_for(lambda: worker_of(session) == first.pid, LIMIT, "the first relay to work")
        put(session, "1")
        wait_until_empty(session)
        with RelayProcess(database) as second:
            second.wait_for_event("standing by: another relay works this outbox")
            database_proxy.stall()
            put(session, "2")
            wait_until_empty(session)
            assert worker_of(session) == second.pid
            database_proxy.pass_all()
            first.wait_for_event("standing by: another relay works this outbox")
            put_many(session, 100, first=3)
            wait_until_empty(session)
            assert worker_of(session) == second.pid
            assert second.terminate() == 0
        put(session, "103")
        wait_until_empty(session)
        assert worker_of(session) == first.pid
    assert inbox.texts() == [str(n) for n in range(1, 104)]


def test_another_takes_over_from_one_that_stands_still(
    database: str, session: Session, inbox: Inbox
) -> None:
    with RelayProcess(database) as first:
        wait_for(lambda: worker_of(session) == first.pid, LIMIT, "the first relay to work")
        with RelayProcess(database) as second:
            second.wait_for_event("standing by: another relay works this outbox")
            first.pause()
            put_many(session, 100)
            wait_until_empty(session)
            assert worker_of(session) == second.pid
            first.resume()
            first.wait_for_event("standing by: another relay works this outbox")
            put_many(session, 100, first=101)
            wait_until_empty(session)
            assert first.terminate() == 0
    assert inbox.texts() == [str(n) for n in range(1, 201)]


@pytest.mark.slow
def test_one_that_stands_still_in_the_middle_delivers_nothing_twice_but_what_was_under_way(
    database: str,
    session: Session,
    database_proxy: CuttingProxy,
    channel: BlockingChannel,
    inbox: Inbox,
) -> None:
    total = 25_000
    put_many(session, total)
    with RelayProcess(through(database_proxy, database)) as first:
        wait_for(lambda: status(session)["delivered_last_minute"], LIMIT, "the first to be gone")
        first.pause()
        with RelayProcess(database) as second:
            wait_until_empty(session)
            first.resume()
            first.wait_for_event("standing by: another relay works this outbox")
            put(session, str(total + 1))
            wait_until_empty(session)
            assert second.is_running()
    found = numbers(channel, inbox)
    assert set(found) == set(range(1, total + 2))
    # What it had written or was about to write when it was stopped: two readings at most.
    assert len(found) - (total + 1) <= 20_000


def test_relays_share_the_brokers_of_a_database(
    database: str, broker: VHost, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    with (
        open_session(database, broker, broker, broker) as session,
        RelayProcess(database) as first,
        RelayProcess(database) as second,
    ):

        def workers() -> set[int | None]:
            return {worker_of(session, n) for n in (1, 2, 3)}

        wait_for(lambda: None not in workers(), LIMIT, "all brokers to be worked")
        for n in (1, 2, 3):
            put(session, n, broker_id=n)
        wait_until_empty(session)
        assert sorted(inbox.texts()) == ["1", "2", "3"]
        assert workers() <= {first.pid, second.pid}
        # Before it says so, the signal just ends it.
        first.wait_for_event("relay started")
        assert first.terminate() == 0
        wait_for(lambda: workers() == {second.pid}, LIMIT, "the second to work all")
