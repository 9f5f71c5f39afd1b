-- USAGE on schema amqp, which nobody but its owner has, is the right to publish. What changes the
-- broker takes a GRANT of its own.
REVOKE EXECUTE ON FUNCTION
    amqp.add_broker(text),
    amqp.publish_outbox_batch(integer, integer),
    amqp.exchange_delete(integer, text, boolean),
    amqp.exchange_bind(integer, text, text, text, jsonb),
    amqp.exchange_unbind(integer, text, text, text, jsonb),
    amqp.queue_declare(integer, text, boolean, boolean, boolean, boolean, jsonb),
    amqp.queue_bind(integer, text, text, text, jsonb),
    amqp.queue_unbind(integer, text, text, text, jsonb),
    amqp.queue_purge(integer, text),
    amqp.queue_delete(integer, text, boolean, boolean)
FROM PUBLIC;
