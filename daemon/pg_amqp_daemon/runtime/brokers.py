"""The brokers that a database knows: the rows of amqp.broker."""

from __future__ import annotations

from psycopg.types.numeric import Int4

from pg_amqp_daemon.runtime.database import Database
from pg_amqp_py.wire.address import Address

_BROKERS = """
SELECT broker_id, host, port, COALESCE(vhost, '/'), COALESCE(username, 'guest'),
       COALESCE(password, 'guest'), ssl, ssl_cacert, ssl_cert, ssl_key, ssl_verify_peer,
       ssl_verify_hostname
FROM ONLY amqp.broker ORDER BY broker_id, host, port
"""

_MQTT = """
SELECT host, COALESCE(mqtt_port, CASE WHEN COALESCE(mqtt_ssl, ssl) THEN 8883 ELSE 1883 END),
       COALESCE(vhost, '/'), COALESCE(username, 'guest'), COALESCE(password, 'guest'),
       COALESCE(mqtt_ssl, ssl), ssl_cacert, ssl_cert, ssl_key, ssl_verify_peer, ssl_verify_hostname
FROM ONLY amqp.broker WHERE broker_id = %s ORDER BY host, port
"""


def addresses_of_brokers(database: Database) -> dict[int, list[Address]]:
    """The hosts of every broker, by broker_id. Raises psycopg.Error."""
    found: dict[int, list[Address]] = {}
    for broker_id, *fields in database.ask(_BROKERS):
        found.setdefault(broker_id, []).append(Address(*fields))
    return found


def mqtt_addresses_of_broker(database: Database, broker_id: int) -> list[Address]:
    """Where a broker's MQTT plugins listen, by the same logins. Raises psycopg.Error."""
    return [Address(*fields) for fields in database.ask(_MQTT, Int4(broker_id))]
