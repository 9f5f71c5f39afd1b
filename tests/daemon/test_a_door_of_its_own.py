"""A second door needs no line of the relay: support/door.py is one, on real servers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import support.door
from servers.processes import wait_for
from servers.proxy import CuttingProxy
from servers.relay import RelayProcess
from support.health import WatchedRelay
from support.messages import Inbox
from support.patience import LIMIT
from support.sessions import Session


class Door(WatchedRelay):
    """The door as a child process."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self._command = [sys.executable, Path(support.door.__file__), dsn]


def tell(session: Session, *texts: str) -> None:
    """Put texts where the door takes them from."""
    for text in texts:
        session.execute("INSERT INTO told VALUES (1, %s)", [text])


def wait_until_told(session: Session) -> None:
    """Wait until the door has told everything."""
    wait_for(lambda: not session.execute("SELECT FROM told").fetchall(), LIMIT, "it to be told")


@pytest.fixture(autouse=True)
def _table(session: Session) -> None:
    session.execute("CREATE TABLE told (broker_id integer, text text)")


def test_it_delivers_and_says_so_and_ends_when_it_is_told_to(
    database: str, session: Session, inbox: Inbox
) -> None:
    with Door(database) as door:
        assert isinstance(door, Door)
        tell(session, "1", "2", "3")
        wait_until_told(session)
        found = door.health(200)
        assert (found["database"], found["tellers"]) == ("ok", {"1": "telling"})
        wait_for(lambda: door.metric('pg_amqp_told_total{broker_id="1"}') == 3, LIMIT, "a count")
        assert door.metric("pg_amqp_database_up") == 1
        names = session.execute(
            "SELECT DISTINCT split_part(application_name, ' on ', 1) FROM pg_stat_activity"
            " WHERE application_name LIKE 'pg-amqp %'"
        ).fetchall()
        assert names == [(f"pg-amqp tell {door.pid}",)]
        assert door.terminate() == 0
        assert door.events("connected to broker")[0]["broker_id"] == 1
        assert door.events("database not usable") == []
    assert inbox.texts() == ["1", "2", "3"]


def test_it_comes_back_after_the_loss_of_a_session_and_of_a_connection(
    database: str, session: Session, inbox: Inbox, proxy: CuttingProxy
) -> None:
    session.execute("UPDATE amqp.broker SET port = %s", [proxy.port])
    with Door(database) as door:
        assert isinstance(door, Door)
        tell(session, "1")
        wait_until_told(session)
        proxy.reset()
        door.wait_for_event("connection to broker lost")
        tell(session, "2")
        wait_until_told(session)
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'pg-amqp tell %'"
        )
        # Of the worker, and of whoever looks at the table of brokers.
        door.wait_for_event("database not usable", 2)
        tell(session, "3")
        wait_until_told(session)
        assert "terminating connection" in str(door.health(200)["last_error"])
        assert door.terminate() == 0
    assert inbox.texts() == ["1", "2", "3"]


def test_another_one_stands_by_and_takes_over(
    database: str, session: Session, inbox: Inbox
) -> None:
    with Door(database) as first, Door(database) as second:
        assert isinstance(first, Door)
        assert isinstance(second, Door)
        doors = [first, second]

        def telling() -> list[Door]:
            return [door for door in doors if door.health(200)["tellers"] == {"1": "telling"}]

        wait_for(lambda: len(telling()) == 1, LIMIT, "one to tell")
        (leader,) = telling()
        doors.remove(leader)
        assert doors[0].health(200)["tellers"] == {"1": "standing by"}
        # Its sessions live on, but are idle for longer than the server allows.
        leader.pause()
        wait_for(telling, LIMIT, "the other to tell")
        tell(session, "1")
        wait_until_told(session)
        leader.resume()
        assert doors[0].terminate() == 0
        assert leader.terminate() == 0
    assert inbox.texts() == ["1"]


def test_each_broker_has_a_worker_as_long_as_it_has_rows(database: str, session: Session) -> None:
    with Door(database) as door:
        assert isinstance(door, Door)
        wait_for(lambda: door.health(200)["tellers"] == {"1": "telling"}, LIMIT, "one")
        session.execute("INSERT INTO amqp.broker (broker_id, host) VALUES (7, '127.0.0.1')")
        wait_for(lambda: door.health(200)["tellers"].keys() == {"1", "7"}, LIMIT, "two")
        session.execute("DELETE FROM amqp.broker WHERE broker_id = 7")
        wait_for(lambda: door.health(200)["tellers"].keys() == {"1"}, LIMIT, "one again")


def test_it_loads_nothing_of_the_relay(database: str) -> None:
    with Door(database) as door:
        door.wait_for_event("metrics")
        assert door.terminate() == 0
        (names,) = (entry["names"] for entry in door.events("modules"))
    assert "pg_amqp_daemon.runtime.supervisor" in names
    assert {name.split(".")[1] for name in names} == {"runtime"}


def test_the_relay_beside_it_does_not_mind(database: str, session: Session, inbox: Inbox) -> None:
    with Door(database), RelayProcess(database):
        tell(session, "told")
        session.execute("SELECT amqp.publish_outbox(1, 'amq.topic', 'key', 'relayed')")
        wait_until_told(session)
        wait_for(
            lambda: not session.execute("SELECT FROM amqp.outbox").fetchall(), LIMIT, "the relay"
        )
    assert sorted(inbox.texts()) == ["relayed", "told"]
