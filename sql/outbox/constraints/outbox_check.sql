-- What plainly is right is not looked at closer: PL/pgSQL would have to be loaded for it, by each new session. Headers of
-- 255 bytes as text have no longer key, nor too many levels. In as few functions, operators and columns as will do, because
-- PostgreSQL reads this from its text in each statement, which for a message by amqp.publish_outbox() takes longer than to
-- evaluate it.
ALTER TABLE amqp.outbox ADD CONSTRAINT outbox_check CHECK (
    CASE WHEN broker_id IS NULL OR delivery_mode <> ALL ('{1,2}') OR priority < 0 OR priority > 255
              OR expiration !~ '^[0-9]{1,9}$' OR reply_to = 'amq.rabbitmq.reply-to'
              OR "timestamp" < 'epoch' OR "timestamp" = 'infinity' OR NOT isfinite(next_attempt_at)
              OR octet_length(convert_to(concat(exchange, routing_key, content_type, reply_to, correlation_id,
                                                content_encoding, message_id, type, user_id, app_id, ordering_key), 'UTF8')) > 255
              OR octet_length(headers::text) > 255 OR headers::text ~ '^[^{]|[0-9]{19}|"B?CC":' OR retain
         THEN amqp_inner.outbox_check(outbox) ELSE true END);

COMMENT ON CONSTRAINT outbox_check ON amqp.outbox IS
'What could never be sent is refused, whoever inserts it.';
