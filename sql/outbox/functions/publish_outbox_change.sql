-- What amqp.publish_outbox() does, with less to check. Everybody may call it, and its parsed body needs nothing of schema amqp
-- but what everybody has: so it looks itself whether the caller has USAGE there.
CREATE FUNCTION amqp_inner.publish_outbox_change(broker_id integer, exchange text, routing_key text, message text) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    INSERT INTO amqp.outbox (broker_id, exchange, routing_key, body, content_type)
    SELECT $1, $2, $3, convert_to($4, 'UTF8'), 'application/json'
    WHERE CASE WHEN has_schema_privilege('amqp'::regnamespace, 'USAGE') THEN true ELSE amqp_inner.deny_publishing() END
    RETURNING true;
END;

COMMENT ON FUNCTION amqp_inner.publish_outbox_change(integer, text, text, text) IS
'Part of amqp.publish_change_outbox(): puts the message for one row into amqp.outbox.';

CREATE FUNCTION amqp_inner.publish_outbox_change(
    broker_id integer, exchange text, routing_key text, message text, properties jsonb, ordering_key text
) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    INSERT INTO amqp.outbox (
        broker_id, exchange, routing_key, body, content_type, delivery_mode, headers, type, app_id, priority, expiration,
        mandatory, ordering_key, retain)
    SELECT $1, $2, $3, convert_to($4, 'UTF8'), 'application/json', ($5 ->> 'delivery_mode')::integer, $5 -> 'headers',
           $5 ->> 'type', $5 ->> 'app_id', ($5 ->> 'priority')::integer, $5 ->> 'expiration', ($5 ->> 'mandatory')::boolean, $6,
           ($5 ->> 'retain')::boolean
    WHERE CASE WHEN has_schema_privilege('amqp'::regnamespace, 'USAGE') THEN true ELSE amqp_inner.deny_publishing() END
    RETURNING true;
END;

COMMENT ON FUNCTION amqp_inner.publish_outbox_change(integer, text, text, text, jsonb, text) IS
'Part of amqp.publish_change_outbox(): puts the message for one row into amqp.outbox, with
properties as amqp_inner.change_properties() or amqp_inner.change_mqtt_properties() gives them.';
