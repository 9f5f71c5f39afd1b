CREATE FUNCTION amqp.notify(channel text, payload text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    server CONSTANT text := concat(COALESCE(host(inet_server_addr()), 'localhost'), ':', current_setting('port'));
BEGIN
    -- As amqp_inner.listener_message() does, but in one expression for each column: it would cost as much as all the rest.
    INSERT INTO amqp.outbox (
        broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers,
        content_encoding, priority, expiration, "timestamp", type, user_id, app_id)
    SELECT l.broker_id, l.exchange, replace(l.routing_key, '{channel}', l.channel), convert_to(COALESCE(payload, ''), 'UTF8'),
           l.delivery_mode, l.content_type, l.reply_to, l.correlation_id, l.mandatory, amqp_inner.listener_headers(l, server),
           l.content_encoding, l.priority, l.expiration, clock_timestamp(), l.type, l.user_id, l.app_id
    FROM amqp.listener AS l
    WHERE l.channel = channel
    ORDER BY l.listener_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'channel "%" has no row in amqp.listener', channel
            USING ERRCODE = 'undefined_object',
                  HINT = 'INSERT INTO amqp.listener (channel, broker_id, exchange) says where its notifications go.';
    END IF;
END
$$;

COMMENT ON FUNCTION amqp.notify(text, text) IS
'As NOTIFY, but through amqp.outbox: payloads of any size, with the transaction, none lost.
The channel is one of amqp.listener. NULL is the empty payload. pg-amqp relay or run delivers it;
nobody who only LISTENs in PostgreSQL sees it. Its caller needs SELECT on amqp.listener and INSERT
on amqp.outbox. Errors: 42704 the channel has no row.';
