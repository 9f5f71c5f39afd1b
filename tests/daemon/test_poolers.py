"""A pooler between a daemon and PostgreSQL: it works, or it is told what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg.conninfo import make_conninfo

from servers.pgbouncer import PgBouncer
from servers.postgres import PostgreSQL
from servers.processes import wait_for
from support.consumers import Desk
from support.health import Watched, WatchedRelay
from support.listeners import Switchboard
from support.messages import Inbox
from support.outbox import put, wait_until_empty
from support.patience import LIMIT

Mode = Literal["session", "transaction"]
MODES: tuple[Mode, ...] = ("session", "transaction")


class WatchedListen(Watched):
    """A daemon that listens and answers."""

    command = "listen"


class WatchedConsume(Watched):
    """A daemon that consumes and answers."""

    command = "consume"


@pytest.fixture
def pooled(postgres: PostgreSQL, database: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The connection string of the database through a pooler of this mode."""
    with PgBouncer(postgres, request.param) as pooler:
        yield make_conninfo(database, host="127.0.0.1", port=pooler.port)


def wait_for_words(daemon: Watched, part: str, words: str) -> None:
    """Wait until /health says this of a part."""
    wait_for(lambda: words in str(daemon.health(503).get(part)), LIMIT, words)


@pytest.mark.parametrize("pooled", MODES, indirect=True)
def test_nothing_is_consumed_through_a_pooler(pooled: str, consumers: Desk) -> None:
    consumer = consumers()
    consumer.publish("a")
    with WatchedConsume(pooled) as daemon:
        wait_for_words(daemon, "database", "a pooler that keeps sessions for others")
        assert consumer.status()["trouble"] == "no daemon works it"
    assert consumer.ready() == 1


@pytest.mark.parametrize("pooled", ["session"], indirect=True)
def test_a_relay_works_through_a_pooler_that_leaves_it_its_sessions(
    pooled: str, database: str, consumers: Desk, channel: BlockingChannel
) -> None:
    arrivals = Inbox(channel)
    session = consumers().session
    with WatchedRelay(pooled) as daemon:
        put(session, "a")
        wait_until_empty(session)
        daemon.health(200)
    assert arrivals.texts() == ["a"]


@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
def test_a_relay_is_told_that_a_pooler_shares_its_sessions(pooled: str, consumers: Desk) -> None:
    consumers()
    with WatchedRelay(pooled) as daemon:
        wait_for(
            lambda: "shares sessions between transactions" in str(daemon.health(503)), LIMIT, "it"
        )
        # And again, whatever of its sessions is left in the pooler.
        with WatchedRelay(pooled) as other:
            wait_for(
                lambda: "shares sessions between transactions" in str(other.health(503)),
                LIMIT,
                "it",
            )


@pytest.mark.parametrize("pooled", MODES, indirect=True)
def test_nobody_listens_through_a_pooler_and_it_is_said_once(
    pooled: str, listeners: Switchboard
) -> None:
    listener = listeners()
    with WatchedListen(pooled) as daemon:
        wait_for_words(daemon, "listeners", "a pooler that keeps sessions for others")
        before = daemon.events("database not usable")
        attempts = len(before)
        for _ in range(4):
            listener.session.execute("SELECT pg_sleep(0.5)")
        assert sum("keeps sessions" in event["error"] for event in before) == 1
        assert len(daemon.events("database not usable")) <= attempts + 1
        assert listener.status()["listener"] is None
