"""The brokers that a database knows: the rows of amqp.broker."""

from __future__ import annotations

from pg_amqp_daemon.runtime.database import Database
from pg_amqp_py.wire.address import Address

_BROKERS = """
SELECT broker_id, host, port, COALESCE(vhost, '/'), COALESCE(username, 'guest'),
       COALESCE(password, 'guest'), ssl, ssl_cacert, ssl_cert, ssl_key, ssl_verify_peer,
       ssl_verify_hostname
FROM ONLY amqp.broker ORDER BY broker_id, host, port
"""


def addresses_of_brokers(database: Database) -> dict[int, list[Address]]:
    """The hosts of every broker, by broker_id. Raises psycopg.Error."""
    found: dict[int, list[Address]] = {}
    for broker_id, *fields in database.ask(_BROKERS):
        found.setdefault(broker_id, []).append(Address(*fields))
    return found
