"""Whoever mends a broker's rows does not wait for hosts that have failed before."""

from __future__ import annotations

from support.peers import Peer
from support.sessions import Session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()


def test_a_host_is_tried_at_once_when_its_broker_has_changed(session: Session) -> None:
    publish = "SELECT amqp.publish(%s, '', 'key', 'x')"
    with Peer(lambda client: None) as peer:
        broker_id = session.add_broker(peer.url)
        session.error(publish, broker_id)
        assert "No attempt was made now" in session.error(publish, broker_id).hint
        assert peer.connections == 1
        session.run(
            "INSERT INTO amqp.broker (broker_id, host, port) VALUES (%s, '127.0.0.1', 1)",
            broker_id,
        )
        session.error(publish, broker_id)
        assert peer.connections == 2
