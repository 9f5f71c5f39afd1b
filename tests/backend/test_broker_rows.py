"""Rows of amqp.broker: whoever changes them, all sessions use them from the next transaction."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from support.fix_servers import VHost
from support.sessions import Session, open_session


@pytest.fixture
def publisher(database: str, broker: VHost) -> Iterator[Session]:
    """A session that has published to broker 1 and is connected to it."""
    with open_session(database) as session:
        session.execute("SELECT amqp.add_broker(%s)", [broker.url()])
        publish(session)
        yield session


@pytest.fixture
def other(database: str) -> Iterator[Session]:
    """Another session."""
    with open_session(database) as session:
        yield session


def publish(session: Session, broker_id: int = 1) -> None:
    session.execute("SELECT amqp.publish(%s, 'amq.topic', 'key', 'message')", [broker_id])


def assert_broker_is_gone(session: Session) -> None:
    with pytest.raises(psycopg.errors.UndefinedObject, match="broker 1 does not exist"):
        publish(session)


def test_changed_by_another_session(publisher: Session, other: Session) -> None:
    other.execute("UPDATE amqp.broker SET port = 1")
    with pytest.raises(psycopg.OperationalError, match=r"127\.0\.0\.1:1"):
        publish(publisher)


def test_changed_by_the_session_itself(publisher: Session) -> None:
    publisher.execute("UPDATE amqp.broker SET port = 1")
    with pytest.raises(psycopg.OperationalError, match=r"127\.0\.0\.1:1"):
        publish(publisher)


def test_unchanged_until_the_other_session_commits(publisher: Session, other: Session) -> None:
    with other.transaction():
        other.execute("UPDATE amqp.broker SET port = 1")
        publish(publisher)
    with pytest.raises(psycopg.OperationalError, match=r"127\.0\.0\.1:1"):
        publish(publisher)


def test_a_change_that_is_rolled_back_changes_nothing(publisher: Session, other: Session) -> None:
    with other.transaction(force_rollback=True):
        other.execute("UPDATE amqp.broker SET port = 1")
    publish(publisher)
    with publisher.transaction(force_rollback=True):
        publisher.execute("UPDATE amqp.broker SET port = 1")
    publish(publisher)


def test_deleted(publisher: Session, other: Session) -> None:
    other.execute("DELETE FROM amqp.broker")
    assert_broker_is_gone(publisher)


def test_truncated(publisher: Session, other: Session) -> None:
    other.execute("TRUNCATE amqp.broker")
    assert_broker_is_gone(publisher)


def test_deleted_where_ordinary_triggers_do_not_fire(publisher: Session, other: Session) -> None:
    # As a logical replication worker or pg_restore --disable-triggers would.
    other.execute("SET session_replication_role = replica")
    other.execute("DELETE FROM amqp.broker")
    assert_broker_is_gone(publisher)


def test_inserted_and_rolled_back_in_the_same_transaction(
    publisher: Session, broker: VHost
) -> None:
    with publisher.transaction(force_rollback=True):
        row = publisher.execute("SELECT amqp.add_broker(%s)", [broker.url()]).fetchone()
        assert row is not None
        publish(publisher, row[0])
    with pytest.raises(psycopg.errors.UndefinedObject):
        publish(publisher, row[0])


def test_inserted_and_rolled_back_to_a_savepoint(publisher: Session, broker: VHost) -> None:
    with publisher.transaction():
        with publisher.transaction(force_rollback=True):
            row = publisher.execute("SELECT amqp.add_broker(%s)", [broker.url()]).fetchone()
            assert row is not None
            publish(publisher, row[0])
        with pytest.raises(psycopg.errors.UndefinedObject), publisher.transaction():
            publish(publisher, row[0])


def test_a_host_added_to_a_broker_keeps_the_connection(publisher: Session, other: Session) -> None:
    connected = "SELECT connected_since FROM amqp.status()"
    before = publisher.execute(connected).fetchone()
    other.execute("INSERT INTO amqp.broker (broker_id, host, port) VALUES (1, '127.0.0.1', 1)")
    publish(publisher)
    assert publisher.execute(connected).fetchone() == before


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_row_read_with_an_old_snapshot_is_read_again(
    publisher: Session, other: Session, level: str
) -> None:
    publisher.execute(f"BEGIN ISOLATION LEVEL {level}")
    publisher.execute("SELECT 1")
    other.execute("UPDATE amqp.broker SET port = 1")
    # Taking a lock tells this session of the change, which its snapshot does not show.
    publisher.execute("CREATE TABLE locked ()")
    publish(publisher)
    publisher.execute("COMMIT")
    with pytest.raises(psycopg.OperationalError, match=r"127\.0\.0\.1:1"):
        publish(publisher)
