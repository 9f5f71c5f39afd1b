-- What amqp.publish_outbox() does, with less to check.
CREATE FUNCTION amqp.publish_outbox_change(broker_id integer, exchange text, routing_key text, message text) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    INSERT INTO amqp.outbox (broker_id, exchange, routing_key, body, content_type)
    VALUES (
        $1, $2,
        CASE WHEN octet_length($2) > 255 OR octet_length($3) > 255
             THEN amqp.outbox_check($1, $2, $3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
             ELSE $3 END,
        convert_to($4, 'UTF8'), 'application/json')
    RETURNING true;
END;

COMMENT ON FUNCTION amqp.publish_outbox_change(integer, text, text, text) IS
'Part of amqp.publish_change_outbox(): puts the message for one row into amqp.outbox.';
