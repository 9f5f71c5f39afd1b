"""Columns, triggers and foreign keys that users add to the outbox's tables."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from servers.relay import RelayProcess
from support.messages import Inbox
from support.outbox import dead, grow, in_outbox, put, settle, status, wait_until_empty
from support.sessions import Session, open_session

COLUMNS = [
    "tenant text",
    "tenant text NOT NULL DEFAULT 'acme'",
    "size integer GENERATED ALWAYS AS (octet_length(body)) STORED",
    "number bigint GENERATED ALWAYS AS IDENTITY",
]
TABLES = ["outbox", "outbox_dead", "outbox_delivered"]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("column", COLUMNS)
def test_an_added_column_stops_nothing(
    session: Session, inbox: Inbox, table: str, column: str
) -> None:
    session.execute(f"ALTER TABLE amqp.{table} ADD COLUMN {column}".encode())
    session.execute("SET amqp.keep_delivered = '1 day'")
    put(session, "a", ordering_key="k")
    put(session, "b")
    settle(session, refused=[(2, "invalid", "no")])
    assert session.execute("SELECT amqp.publish_outbox_batch()").fetchone() == (1,)
    assert session.execute("SELECT amqp.retry_dead_letters()").fetchone() == (1,)
    assert session.execute("SELECT amqp.publish_outbox_batch()").fetchone() == (1,)
    assert inbox.texts() == ["a", "b"]
    assert dead(session) == in_outbox(session) == []
    assert status(session)["delivered_last_minute"] == 2
    name = column.split()[0]
    session.execute(f"ALTER TABLE amqp.{table} DROP COLUMN {name}".encode())


def test_a_relay_goes_on_with_an_added_column(
    database: str, session: Session, inbox: Inbox
) -> None:
    with RelayProcess(database) as relay:
        put(session, "a")
        wait_until_empty(session)
        session.execute("ALTER TABLE amqp.outbox ADD COLUMN tenant text NOT NULL DEFAULT 'acme'")
        put(session, "b")
        wait_until_empty(session)
        assert relay.events("database not usable") == []
    assert inbox.texts() == ["a", "b"]


# ---- What is in the way of compaction ----


@pytest.fixture
def grown(session: Session) -> Session:
    """An outbox of 64 MB that holds nothing."""
    grow(session)
    return session


OBSTACLES = {
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
    "CREATE TRIGGER t AFTER INSERT ON amqp.outbox EXECUTE FUNCTION f()": "The table has a trigger.",
    "CREATE TABLE t (id bigint REFERENCES amqp.outbox)": "A foreign key references the table.",
    "CREATE RULE r AS ON UPDATE TO amqp.outbox DO ALSO SELECT 1": "The table has a rule.",
    # The constraint keeps it from having any.
    "ALTER TABLE amqp.outbox DROP CONSTRAINT outbox_check;"
    "CREATE TABLE t () INHERITS (amqp.outbox)": "The table has children.",
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_compaction_says_what_is_in_its_way(grown: Session, obstacle: str) -> None:
    grown.execute(obstacle.encode())
    for function in "outbox_lock_to_compact", "outbox_compact":
        with pytest.raises(errors.ObjectNotInPrerequisiteState) as raised:
            grown.execute(f"SELECT amqp_inner.{function}()".encode())
        assert raised.value.diag.message_detail == OBSTACLES[obstacle]


def test_row_security_is_in_the_way(grown: Session, database: str) -> None:
    grown.execute(
        """ALTER TABLE amqp.outbox ENABLE ROW LEVEL SECURITY;
           CREATE ROLE secured LOGIN; GRANT USAGE ON SCHEMA amqp TO secured;
           GRANT ALL ON amqp.outbox TO secured"""
    )
    with (
        psycopg.connect(database, user="secured", autocommit=True) as other,
        pytest.raises(errors.ObjectNotInPrerequisiteState, match="cannot be given back"),
    ):
        other.execute("SELECT amqp_inner.outbox_lock_to_compact()")
    grown.execute("DROP OWNED BY secured; DROP ROLE secured")


def test_a_batch_goes_on_without_compaction(grown: Session, inbox: Inbox) -> None:
    grown.execute("CREATE TABLE t (id bigint REFERENCES amqp.outbox)")
    put(grown, "a")
    assert grown.execute("SELECT amqp.publish_outbox_batch()").fetchone() == (1,)
    assert inbox.texts() == ["a"]


def test_a_dump_that_waits_while_a_batch_compacts_has_what_is_pending(
    grown: Session, database: str
) -> None:
    """TRUNCATE is seen by older snapshots as well: so nothing may be alive."""
    put(grown, "pending", deliver_at="2090-01-01+00")
    with open_session(database, autocommit=False) as snapshot:
        snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        snapshot.execute("SELECT count(*) FROM amqp.broker")
        assert grown.execute("SELECT amqp.publish_outbox_batch()").fetchone() == (0,)
        assert snapshot.execute("SELECT count(*) FROM amqp.outbox").fetchone() == (1,)
