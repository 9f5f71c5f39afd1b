-- As JSON: a function whose result or text has the type of the outbox's rows would keep columns from being added there.
CREATE FUNCTION amqp_inner.listener_message(listener amqp.listener, server text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT to_jsonb($1) || jsonb_build_object(
        'routing_key', replace(($1).routing_key, '{channel}', ($1).channel),
        'headers', amqp_inner.listener_headers($1, $2),
        'message_id', NULL, 'timestamp', NULL);
END;

COMMENT ON FUNCTION amqp_inner.listener_message(amqp.listener, text) IS
'Part of the listener: a row, and what all its messages have in common.';
