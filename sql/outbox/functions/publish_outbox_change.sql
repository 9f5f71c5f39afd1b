-- What amqp.publish_outbox() does, with less to check. Everybody may call it: the view looks whether the caller has USAGE on
-- schema amqp.
CREATE FUNCTION amqp_inner.publish_outbox_change(broker_id integer, exchange text, routing_key text, message text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
BEGIN
    INSERT INTO amqp_inner.new_messages (broker_id, exchange, routing_key, body, content_type)
    VALUES ($1, $2, $3, pg_catalog.convert_to($4, 'UTF8'), 'application/json');
    RETURN true;
END
$$;

COMMENT ON FUNCTION amqp_inner.publish_outbox_change(integer, text, text, text) IS
'Part of amqp.publish_change_outbox(): puts the message for one row into amqp.outbox.';

CREATE FUNCTION amqp_inner.publish_outbox_change(
    broker_id integer, exchange text, routing_key text, message text, properties jsonb, ordering_key text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
BEGIN
    INSERT INTO amqp_inner.new_messages (
        broker_id, exchange, routing_key, body, content_type, delivery_mode, headers, type, app_id, priority, expiration,
        mandatory, ordering_key, retain)
    VALUES (
        $1, $2, $3, pg_catalog.convert_to($4, 'UTF8'), 'application/json',
        ($5 OPERATOR(pg_catalog.->>) 'delivery_mode')::pg_catalog.int4, $5 OPERATOR(pg_catalog.->) 'headers',
        $5 OPERATOR(pg_catalog.->>) 'type', $5 OPERATOR(pg_catalog.->>) 'app_id',
        ($5 OPERATOR(pg_catalog.->>) 'priority')::pg_catalog.int4, $5 OPERATOR(pg_catalog.->>) 'expiration',
        ($5 OPERATOR(pg_catalog.->>) 'mandatory')::pg_catalog.bool, $6, ($5 OPERATOR(pg_catalog.->>) 'retain')::pg_catalog.bool);
    RETURN true;
END
$$;

COMMENT ON FUNCTION amqp_inner.publish_outbox_change(integer, text, text, text, jsonb, text) IS
'Part of amqp.publish_change_outbox(): puts the message for one row into amqp.outbox, with
properties as amqp_inner.change_properties() or amqp_inner.change_mqtt_properties() gives them.';
