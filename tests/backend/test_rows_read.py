"""In which order the rows of a broker count, and until when."""

from __future__ import annotations

import psycopg
import pytest

from servers.processes import free_port
from support.fix_servers import VHost
from support.sessions import Session, open_session


def publish(session: Session, broker_id: int = 1) -> None:
    session.execute("SELECT amqp.publish(%s, 'amq.topic', 'key', 'message')", [broker_id])


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_what_an_old_snapshot_shows_counts_for_its_transaction_alone(
    database: str, broker: VHost, level: str
) -> None:
    with open_session(database, broker) as publisher, open_session(database) as other:
        publisher.execute("CREATE TABLE locked ()")
        publish(publisher)
        publisher.execute(f"BEGIN ISOLATION LEVEL {level}")
        publisher.execute("SELECT 1")
        other.execute("UPDATE amqp.broker SET port = 1")
        # This tells the session of the change, and makes none by itself.
        publisher.execute("LOCK TABLE locked")
        publish(publisher)
        publisher.execute("COMMIT")
        with pytest.raises(psycopg.OperationalError, match=r"127\.0\.0\.1:1"):
            publish(publisher)


def test_hosts_are_tried_by_their_names_and_ports(database: str, broker: VHost) -> None:
    ports = sorted(free_port() for _ in range(3))
    with open_session(database) as session:
        for port in reversed(ports):
            session.execute(
                "INSERT INTO amqp.broker (broker_id, host, port) VALUES (1, '127.0.0.1', %s)",
                [port],
            )
        with pytest.raises(psycopg.OperationalError) as raised:
            publish(session)
    detail = raised.value.diag.message_detail
    assert detail is not None
    shown = [detail.index(f"127.0.0.1:{port}") for port in ports]
    assert shown == sorted(shown)
