-- What plainly is right is not looked at closer. Headers of 255 bytes as text have no longer key, nor too many levels. In PL/pgSQL,
-- which keeps what it has planned; every name is qualified, because a SET clause would cost as much as all the rest.
CREATE FUNCTION amqp_inner.outbox_sound(message amqp.outbox) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
BEGIN
    IF message.broker_id IS NULL
       OR message.delivery_mode OPERATOR(pg_catalog.<) 1 OR message.delivery_mode OPERATOR(pg_catalog.>) 2
       OR message.priority OPERATOR(pg_catalog.<) 0 OR message.priority OPERATOR(pg_catalog.>) 255
       OR message.expiration OPERATOR(pg_catalog.!~) '^[0-9]{1,9}$'
       OR message.reply_to OPERATOR(pg_catalog.=) 'amq.rabbitmq.reply-to'
       OR message."timestamp" OPERATOR(pg_catalog.<) 'epoch' OR message."timestamp" OPERATOR(pg_catalog.=) 'infinity'
       OR NOT pg_catalog.isfinite(message.next_attempt_at)
       OR pg_catalog.octet_length(pg_catalog.convert_to(pg_catalog.concat(
              message.exchange, message.routing_key, message.content_type, message.reply_to, message.correlation_id,
              message.content_encoding, message.message_id, message.type, message.user_id, message.app_id,
              message.ordering_key), 'UTF8')) OPERATOR(pg_catalog.>) 255
       OR pg_catalog.octet_length(pg_catalog.convert_to(message.headers::pg_catalog.text, 'UTF8')) OPERATOR(pg_catalog.>) 255
       OR message.headers::pg_catalog.text OPERATOR(pg_catalog.~) '^[^{]|[0-9]{19}|"B?CC":'
       OR message.retain
    THEN
        RETURN amqp_inner.outbox_check(message);
    END IF;
    RETURN true;
END
$$;

COMMENT ON FUNCTION amqp_inner.outbox_sound(amqp.outbox) IS
'Whether a message can be sent; amqp_inner.outbox_check() raises the error for one that cannot.';

-- Whatever default privileges say: whoever may insert a row needs it.
GRANT EXECUTE ON FUNCTION amqp_inner.outbox_sound(amqp.outbox) TO PUBLIC;
