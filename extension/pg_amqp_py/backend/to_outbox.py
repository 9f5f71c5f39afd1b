"""`amqp.on_failure = outbox`: what the broker cannot take at publish() goes to amqp.outbox.

It is inserted with the caller's rights, in the transaction and the savepoint of the call, so
PostgreSQL sees to all the rest. To keep the order, a transaction that has diverted a message also
diverts the later ones to the same broker, and so does one that finds messages waiting there.
"""

from __future__ import annotations

from typing import Any

from pg_amqp_py.backend import settings
from pg_amqp_py.backend.asking import broker, channel_with, require_usage
from pg_amqp_py.backend.errors import AMQPError
from pg_amqp_py.backend.server import IN_CALL, Statement
from pg_amqp_py.backend.session import session
from pg_amqp_py.backend.tables import acting_as, owner_of, planning_by_index
from pg_amqp_py.wire.channel import PublishingChannel
from pg_amqp_py.wire.encode import encode_envelope
from pg_amqp_py.wire.fields import PLACE

# Run as the owner of the table, with a search_path of pg_catalog. A message that a dead or a
# waiting one of its ordering key keeps from going may stand there for ever, and thousands behind
# it. So the look is at the oldest and at the newest: nearly always the first one decides.
_holds_messages = Statement(
    """
SELECT EXISTS (
    SELECT FROM (
        (SELECT o.id, o.ordering_key FROM amqp.outbox AS o
         WHERE o.broker_id = $1 AND o.next_attempt_at IS NULL AND o.retain IS NOT TRUE
         ORDER BY o.broker_id, o.id LIMIT 1000)
        UNION ALL
        (SELECT o.id, o.ordering_key FROM amqp.outbox AS o
         WHERE o.broker_id = $1 AND o.next_attempt_at IS NULL AND o.retain IS NOT TRUE
         ORDER BY o.broker_id DESC, o.id DESC LIMIT 1000)
    ) AS r
    WHERE r.ordering_key IS NULL
       OR NOT EXISTS (
              SELECT FROM amqp.outbox AS w
              WHERE w.broker_id = $1 AND w.ordering_key = r.ordering_key AND w.id < r.id
                AND w.next_attempt_at IS NOT NULL)
          AND NOT EXISTS (
              SELECT FROM amqp.outbox_dead AS d
              WHERE d.broker_id = $1 AND d.ordering_key = r.ordering_key AND d.id < r.id)
) AS found
""",
    "int4",
)
# What amqp.publish_outbox() does. Called from here, it would be planned anew for every message, and
# take ten times as long as the INSERT.
_insert = Statement(
    """
INSERT INTO amqp.outbox (
    broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id,
    mandatory, headers, content_encoding, priority, expiration, message_id, "timestamp", type,
    user_id, app_id)
VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
    COALESCE($14, pg_catalog.gen_random_uuid()::pg_catalog.text), pg_catalog.to_timestamp($15),
    $16, $17, $18)
""",
    *("int4", "text", "text", "bytea", "int4", "text", "text", "text", "bool", "jsonb", "text"),
    *("int4", "text", "text", "float8", "text", "text", "text"),
)


def channel_or_outbox(broker_id: int, fields: tuple[Any, ...]) -> PublishingChannel | None:
    """The connection to publish a message on; None if it is to be put into the outbox instead.

    Raises AMQPError or MessageError for what is wrong with the call itself.
    """
    encode_envelope(fields)
    # Below, a table is found by its name: not one that somebody has put in its place.
    require_usage()
    transaction = session.begun()
    if broker_id not in transaction.diverted:
        settings.check()
        broker(broker_id)
        if broker_id in transaction.publishing or not _wait_for(broker_id):
            try:
                return channel_with(broker_id, *fields[PLACE])
            except AMQPError as failure:
                _warn(broker_id, failure)
        transaction.divert(broker_id)
    return None


def put(broker_id: int, fields: tuple[Any, ...], body: bytes) -> None:
    """Insert a message into the outbox. Raises what PostgreSQL has against it."""
    exchange, routing_key, *properties = fields
    _insert(broker_id, exchange, routing_key, body, *properties)


def _wait_for(broker_id: int) -> bool:
    """Whether messages to the broker wait in the outbox, but for their turn."""
    with acting_as(owner_of("outbox")), planning_by_index():
        found: bool = _holds_messages(broker_id)[0]["found"]
    return found


def _warn(broker_id: int, failure: AMQPError) -> None:
    reason = f"{failure}. {failure.detail}" if failure.detail else str(failure)
    IN_CALL.warn(
        f"messages to broker {broker_id} go to the outbox",
        sqlstate=failure.sqlstate,
        detail=f"Reason: {reason}",
        hint="They wait in amqp.outbox for pg-amqp relay or amqp.publish_outbox_batch(), those that"
        " this transaction publishes from here on as well.",
    )
