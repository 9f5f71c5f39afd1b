-- Few parameters, because each of them costs something for each row. Everybody may call it, whoever owns schema amqp:
-- it looks for itself whether the caller has USAGE there.
CREATE FUNCTION amqp_python.publish_change(broker_id integer, exchange text, routing_key text, message text) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.publish_change(broker_id, exchange, routing_key, message)$$;

COMMENT ON FUNCTION amqp_python.publish_change(integer, text, text, text) IS
'Part of amqp.publish_change(): publishes the message for one row as amqp.publish() would, for '
'whoever has USAGE on schema amqp.';

-- For a trigger that gives properties; what it shares with amqp.publish_change_outbox() calls it with an ordering key, which
-- is NULL here.
CREATE FUNCTION amqp_python.publish_change(
    broker_id integer, exchange text, routing_key text, message text, properties jsonb, ordering_key text
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.publish_change(broker_id, exchange, routing_key, message, properties)$$;

COMMENT ON FUNCTION amqp_python.publish_change(integer, text, text, text, jsonb, text) IS
'Part of amqp.publish_change(): publishes the message for one row with properties as '
'amqp.change_properties() gives them.';
